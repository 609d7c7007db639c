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
    frames = to_uint8(media[:, 0])
    count, height, width, channels = frames.shape
    wide = min(count, columns or math.ceil(math.sqrt(count)))
    rows = math.ceil(count / wide)
    sheet = np.full((rows * (height + gap) - gap, wide * (width + gap) - gap, channels), ground, np.uint8)
    for i, frame in enumerate(frames):
        y, x = (i // wide) * (height + gap), (i % wide) * (width + gap)
        sheet[y : y + height, x : x + width] = frame
    return to_pil(sheet, enlarge)


def ungrid(path: Path, size: tuple[int, int], columns: int, enlarge: int, gap: int = 2) -> Tensor:
    """The pictures of a one-row ``grid`` back from its file, ``[B, 1, C, H, W]``."""
    with Image.open(path) as image:
        pixels = np.array(image)[enlarge // 2 :: enlarge, enlarge // 2 :: enlarge]
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    height, width = size
    return from_uint8(np.stack([pixels[:height, i * (width + gap) :][:, :width] for i in range(columns)]))[:, None]
