"""``load`` whatever holds a model: a run of ours, or a pipeline that diffusers saved."""

from __future__ import annotations

import re
from pathlib import Path

from fromnoise import generate
from fromnoise.generate import Model


def load(source: str | Path, device: str = "auto", variant: str | None = None) -> Model:
    """The model of a run folder, of a folder in the layout of diffusers, or of a hub id such as "owner/name".

    variant: which of several sets of weights to read ("fp16"), of folders that have them.  UserError where there is
    none, or it is damaged, incomplete or not known here.
    """
    folder = Path(source)
    hub_id = not folder.exists() and re.fullmatch(r"(?!runs/)[\w-][\w.-]*/[\w.-]+", str(source))
    if hub_id or (folder / "model_index.json").is_file():
        from fromnoise.interop.pipelines import load_pipeline

        return load_pipeline(source, device, variant)
    return generate.load(source, device)
