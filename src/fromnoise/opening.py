"""``load`` whatever holds a model: a run of ours, or a pipeline that diffusers saved."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from fromnoise import generate
from fromnoise.denoise import Guidance
from fromnoise.recipe import load_recipe

if TYPE_CHECKING:
    from fromnoise.interop.lora.model import Adaptable


def is_pipeline(source: str | Path) -> bool:
    """Whether a source is a folder in the layout of diffusers, or reads like a hub id."""
    folder = Path(source)
    hub_id = not folder.exists() and re.fullmatch(r"(?!runs/)[\w-][\w.-]*/[\w.-]+", str(source))
    return bool(hub_id) or (folder / "model_index.json").is_file()


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

    run = generate.load(source, device)
    return Adaptable(run.system, run.run, run.step, run.words)
