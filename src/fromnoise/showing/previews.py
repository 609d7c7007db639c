"""Previews of a run: pictures or films of the same prompts and seeds, made now and then while it trains."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from fromnoise.codec import Codec
from fromnoise.films import sheet_enlargement
from fromnoise.generate import Model
from fromnoise.media import enlargement, grid, ungrid

PREVIEWS = 8  # pictures of a preview, which stand on one row
FILMS = 4  # films of a preview, of which each has a row for its frames


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
    """What a preview shows: pictures ``[PREVIEWS, 1, C, H, W]`` or films ``[FILMS, T, C, H, W]``.

    None where the file is damaged or something else.
    """
    data = model.recipe.data
    size = data.height, data.width
    layouts = [(1, PREVIEWS, enlargement(data.height))]
    if data.frames > 1:
        layouts.append((FILMS, data.frames, sheet_enlargement(data.frames, *size)))
    try:
        with Image.open(path) as image:
            found = image.size, image.mode
        for rows, columns, enlarge in layouts:
            blank = grid(torch.zeros(rows * columns, 1, data.channels, *size), columns, enlarge)
            if found == (blank.size, blank.mode):
                pictures = ungrid(path, size, columns, enlarge, rows=rows)
                return pictures if rows == 1 else pictures.view(rows, columns, *pictures.shape[2:])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        pass
    return None
