"""``load`` whatever holds a model: a run of ours, or a pipeline that diffusers saved."""

from __future__ import annotations

import re
from pathlib import Path

from fromnoise import codec, generate
from fromnoise.codec import Codec
from fromnoise.generate import Model
from fromnoise.recipe import load_recipe


def load(source: str | Path, device: str = "auto", variant: str | None = None) -> Model | Codec:
    """The model of a run folder, of a folder in the layout of diffusers, or of a hub id such as "owner/name".

    A run that trained an autoencoder is a ``Codec``.  variant: which of several sets of weights to read ("fp16"), of
    folders that have them.  UserError where there is none, or it is damaged, incomplete or not known here.
    """
    folder = Path(source)
    if (folder / "recipe.json").is_file() and load_recipe(folder / "recipe.json").kind == "autoencoder":
        return codec.load(source, device)
    return load_model(source, device, variant)


def load_model(source: str | Path, device: str = "auto", variant: str | None = None) -> Model:
    """``load`` where nothing but a diffusion model will do.  UserError for an autoencoder."""
    folder = Path(source)
    hub_id = not folder.exists() and re.fullmatch(r"(?!runs/)[\w-][\w.-]*/[\w.-]+", str(source))
    if hub_id or (folder / "model_index.json").is_file():
        from fromnoise.interop.pipelines import load_pipeline

        return load_pipeline(source, device, variant)
    return generate.load(source, device)
