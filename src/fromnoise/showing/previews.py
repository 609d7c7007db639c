"""Previews of a run: a row of pictures of the same prompts and seeds, made now and then while it trains."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from fromnoise.codec import Codec
from fromnoise.generate import Model
from fromnoise.media import enlargement, grid, ungrid

PREVIEWS = 8  # pictures of a preview


def read_previews(model: Model | Codec, out: Path) -> list[tuple[int, Tensor]]:
    """The previews of a run, from its folder; at most eight, spread over training.

    Other files are passed over, and so are previews that cannot be read or are not of this model's size.
    """
    named = ((re.fullmatch(r"step-([0-9]+)\.png", f.name), f) for f in (out / "samples").glob("step-*.png"))
    files = sorted((int(match[1]), f) for match, f in named if match)
    if len(files) > 8:
        files = [files[round(i * (len(files) - 1) / 7)] for i in range(8)]
    read = [(step, read_preview(model, f)) for step, f in files]
    return [(step, media) for step, media in read if media is not None]


def read_preview(model: Model | Codec, path: Path) -> Tensor | None:
    """The pictures ``[PREVIEWS, 1, C, H, W]`` of a preview; None where the file is damaged or something else."""
    data = model.recipe.data
    blank = torch.zeros(PREVIEWS, 1, data.channels, data.height, data.width)
    enlarge = enlargement(data.height)
    expected = grid(blank, PREVIEWS, enlarge)
    try:
        with Image.open(path) as image:
            if (image.size, image.mode) != (expected.size, expected.mode):
                return None
        return ungrid(path, (data.height, data.width), PREVIEWS, enlarge)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
