"""``load`` whatever holds a model: a run of ours, or a pipeline that diffusers saved."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fromnoise import generate
from fromnoise.denoise import Guidance
from fromnoise.recipe import load_recipe
from fromnoise.types import UserError

if TYPE_CHECKING:
    from fromnoise.interop.lora.model import Adaptable


def is_pipeline(source: str | Path) -> bool:
    """Whether a source is a folder in the layout of diffusers, or reads like a hub id."""
    folder = Path(source)
    hub_id = not folder.exists() and re.fullmatch(r"(?!runs/)[\w-][\w.-]*/[\w.-]+", str(source))
    return bool(hub_id) or (folder / "model_index.json").is_file()


def no_model(source: Path) -> str:
    """Why there is no model at a place, in a sentence."""
    from fromnoise.interop.files import PICKLES, not_a_pipeline

    if source.is_dir():
        return f"{source} is not a run folder (it has no recipe.json); {not_a_pipeline(source)}"
    if source.is_file():
        converted = " (diffusers' from_single_file and save_pretrained make one of a single file of weights)"
        return (f"{source} is a file: name the folder of a run, or a folder in the layout of diffusers"
                f"{converted if source.suffix in ('.safetensors', *PICKLES) else ''}.")
    beside = [str(source.with_name(p.name)) for p in source.parent.glob("*/")] if source.parent.is_dir() else []
    close = difflib.get_close_matches(str(source), beside, n=1, cutoff=0.8)
    return f"There is no folder {source}." + (f' Did you mean "{close[0]}"?' if close else "")


def usual_guidance(source: str | Path) -> Guidance:
    """The guidance of a model unless one says otherwise; its weights are not read.  UserError as ``load``."""
    if is_pipeline(source):
        from fromnoise.interop import pipelines

        return pipelines.usual_guidance(source)
    return load_recipe(Path(source) / "recipe.json").sample.guidance


def load(source: str | Path, device: str = "auto", variant: str | None = None) -> Adaptable:
    """The model of a run folder, of a folder in the layout of diffusers, or of a hub id such as "owner/name".

    variant: which of several sets of weights to read ("fp16"), of folders that have them.  UserError where there is
    none, or it is damaged, incomplete or not known here.
    """
    if is_pipeline(source):
        from fromnoise.interop.pipelines import load_pipeline

        return load_pipeline(source, device, variant)
    from fromnoise.interop.lora.model import Adaptable

    if not (Path(source) / "recipe.json").is_file():
        raise UserError(no_model(Path(source)))
    run = generate.load(source, device)
    return Adaptable(run.system, run.run, run.step, run.words)
