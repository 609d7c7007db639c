"""``load`` whatever holds a model, and ``with_autoencoder`` whatever holds an autoencoder.

A run of ours, or what diffusers saved.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fromnoise import codec, generate
from fromnoise.codec import Codec, autoencoder_of_run
from fromnoise.recipe import Recipe, Sampling, load_diffusion, load_recipe
from fromnoise.types import UserError
from fromnoise.weights import digest

if TYPE_CHECKING:
    from fromnoise.interop.lora.model import Adaptable


def is_pipeline(source: str | Path) -> bool:
    """Whether a source is a folder in the layout of diffusers, or reads like a hub id."""
    folder = Path(source)
    hub_id = not folder.exists() and re.fullmatch(r"(?!runs/)[\w-][\w.-]*/[\w.-]+", str(source))
    return bool(hub_id) or (folder / "model_index.json").is_file()


def no_model(source: Path) -> str:
    """Why there is no model at a place, in a sentence."""
    from fromnoise.folders import PICKLES, not_a_pipeline

    if source.is_dir():
        return f"{source} is not a run folder (it has no recipe.json); {not_a_pipeline(source)}"
    if source.is_file():
        converted = " (diffusers' from_single_file and save_pretrained make one of a single file of weights)"
        return (f"{source} is a file: name the folder of a run, or a folder in the layout of diffusers"
                f"{converted if source.suffix in ('.safetensors', *PICKLES) else ''}.")
    beside = [str(source.with_name(p.name)) for p in source.parent.glob("*/")] if source.parent.is_dir() else []
    close = difflib.get_close_matches(str(source), beside, n=1, cutoff=0.8)
    return f"There is no folder {source}." + (f' Did you mean "{close[0]}"?' if close else "")


def usual_sampling(source: str | Path) -> Sampling:
    """How a model samples unless one says otherwise; its weights are not read.  UserError as ``load``."""
    if is_pipeline(source):
        from fromnoise.interop import pipelines

        return Sampling(guidance=pipelines.usual_guidance(source))
    return load_diffusion(Path(source) / "recipe.json").sample


def load(source: str | Path, device: str = "auto", variant: str | None = None) -> Adaptable | Codec:
    """The model of a run folder, of a folder in the layout of diffusers, or of a hub id such as "owner/name".

    A run that trained an autoencoder is a ``Codec``.  variant: which of several sets of weights to read ("fp16"), of
    folders that have them.  UserError where there is none, or it is damaged, incomplete or not known here.
    """
    path = Path(source) / "recipe.json"
    if path.is_file() and load_recipe(path).kind == "autoencoder":
        return codec.load(source, device)
    return load_model(source, device, variant)


def load_model(source: str | Path, device: str = "auto", variant: str | None = None) -> Adaptable:
    """``load`` where nothing but a diffusion model will do.  UserError for an autoencoder."""
    if is_pipeline(source):
        from fromnoise.interop.pipelines import load_pipeline

        return load_pipeline(source, device, variant)
    from fromnoise.interop.lora.model import Adaptable

    if not (Path(source) / "recipe.json").is_file():
        raise UserError(no_model(Path(source)))
    run = generate.load(source, device)
    return Adaptable(run.system, run.run, run.step, run.words)


def with_autoencoder(recipe: Recipe, source: str | Path) -> Recipe:
    """The recipe of a diffusion model in the latents of a trained autoencoder.

    It says all that the latents are, and by their hash which weights; ``source`` is read again when training starts.
    UserError as for ``open_autoencoder``.
    """
    spec, tensors = open_autoencoder(source)
    encoding = replace(recipe.encoding, source=str(source), sha256=digest(tensors, {}))
    return replace(recipe, latents=spec, encoding=encoding)


def open_autoencoder(source: str | Path) -> tuple[Any, dict[str, Tensor]]:
    """(spec, weights) of the autoencoder in a folder: a run of ours, or an AutoencoderKL of diffusers.

    UserError where there is none, or it is damaged or of a kind that is not trained on here.
    """
    folder = Path(source)
    if not folder.exists():
        raise UserError(f"{no_model(folder)} An autoencoder is named by a run folder, or a folder of diffusers.")
    if (folder / "recipe.json").is_file():
        return autoencoder_of_run(folder)
    if not (folder / "config.json").is_file() and not (folder / "model_index.json").is_file():
        raise UserError(f"{folder} holds no autoencoder: name a run folder (with recipe.json), or a folder of "
                        "diffusers (with config.json).")
    return autoencoder_of_diffusers(folder)


def autoencoder_of_diffusers(folder: Path) -> tuple[Any, dict[str, Tensor]]:
    """That of diffusers, saved on its own or as the vae of a pipeline."""
    import torch

    from fromnoise.folders import INDEX, open_component, open_pipeline
    from fromnoise.interop.autoencoder import load_latents
    from fromnoise.latents import KLLatents

    part = open_pipeline(folder).part("vae") if (folder / INDEX).is_file() else open_component(folder)
    module = load_latents(part, dtype=torch.float32)
    if not isinstance(module, KLLatents):
        raise UserError(f"{folder} holds a {part.kind}, which can be sampled from but not trained on: name an "
                        "AutoencoderKL.")
    return module.spec, module.state_dict()
