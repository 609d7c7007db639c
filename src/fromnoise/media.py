"""Media as pictures: tensors ``[B, T, C, H, W]`` in [-1, 1] to bytes, PIL images and grids."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_uint8(media: Tensor) -> np.ndarray:
    """``[..., C, H, W]`` in [-1, 1] to uint8 ``[..., H, W, C]``, rounded and clamped."""
    scaled = media.detach().float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return scaled.movedim(-3, -1).cpu().numpy()


def from_uint8(pixels: np.ndarray) -> Tensor:
    """uint8 ``[..., H, W, C]`` to float32 ``[..., C, H, W]`` in [-1, 1]."""
    return torch.from_numpy(np.array(pixels)).movedim(-1, -3).float().div(127.5).sub(1)


def to_pil(frame: np.ndarray, enlarge: int = 1) -> Image.Image:
    """One uint8 frame ``[H, W, C]`` (C is 1 or 3), enlarged by whole pixels so that nothing blurs."""
    image = Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame)
    return image.resize((image.width * enlarge, image.height * enlarge), Image.Resampling.NEAREST)


def enlargement(height: int, target: int = 128) -> int:
    """The whole factor that brings a small picture to about ``target`` pixels."""
    return max(1, round(target / height))


def grid(media: Tensor, columns: int | None = None, enlarge: int = 1, gap: int = 2, ground: int = 255) -> Image.Image:
    """The first frames of ``[B, T, C, H, W]`` on one sheet, row by row, ``gap`` pixels (times ``enlarge``) apart."""
    return to_pil(sheets(media[:, :1], columns, gap, ground)[0], enlarge)


def sheets(media: Tensor, columns: int | None = None, gap: int = 2, ground: int = 255) -> np.ndarray:
    """``[B, T, C, H, W]`` as a sheet for each frame, uint8 ``[T, H', W', C]``: row by row, ``gap`` pixels apart."""
    films = to_uint8(media)
    count, frames, height, width, channels = films.shape
    wide = min(count, columns or math.ceil(math.sqrt(count)))
    rows = math.ceil(count / wide)
    found = np.full((frames, rows * (height + gap) - gap, wide * (width + gap) - gap, channels), ground, np.uint8)
    for i, film in enumerate(films):
        y, x = (i // wide) * (height + gap), (i % wide) * (width + gap)
        found[:, y : y + height, x : x + width] = film
    return found


def ungrid(path: Path, size: tuple[int, int], columns: int, enlarge: int, gap: int = 2, rows: int = 1) -> Tensor:
    """The pictures of a ``grid`` whose rows are full back from its file, ``[rows columns, 1, C, H, W]``."""
    with Image.open(path) as image:
        pixels = np.array(image)[enlarge // 2 :: enlarge, enlarge // 2 :: enlarge]
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    height, width = size
    places = [(y * (height + gap), x * (width + gap)) for y in range(rows) for x in range(columns)]
    return from_uint8(np.stack([pixels[y : y + height, x : x + width] for y, x in places]))[:, None]
