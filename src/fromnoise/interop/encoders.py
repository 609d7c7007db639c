"""What reads the prompts of a pipeline: its text encoders, or its classes."""

from __future__ import annotations

import torch

from fromnoise.folders import Pipeline
from fromnoise.text.labels import Labels
from fromnoise.text.opening import load_encoder, load_tokenizer, text_of
from fromnoise.text.towers import FrozenEncoder


def labels_of(pipeline: Pipeline, classes: int, width: int) -> Labels:
    """The classes of a pipeline that has no text (DiT), by the names its folder gives them, else by their numbers."""
    names = pipeline.settings.get("id2label") or {}
    return Labels(names=tuple(str(names.get(str(i), i)) for i in range(classes)), width=width)


def load_text(pipeline: Pipeline, variant: str | None = None, dtype: torch.dtype | None = None) -> FrozenEncoder:
    """The text encoders of a pipeline.  UserError where one cannot be opened."""
    spec = text_of(pipeline)
    return spec.build([(load_encoder(pipeline.part(tower.model), variant, dtype),
                        load_tokenizer(pipeline.part(tower.tokenizer))) for tower in spec.towers])
