"""Small pictures and films inside a page: data URIs, and the size at which they are shown."""

from __future__ import annotations

import base64
import io

import numpy as np
from torch import Tensor

from fromnoise.films import PLAYED, durations
from fromnoise.media import to_pil, to_uint8

# Above this many pixels a picture is kept as WebP: a page must stay small enough to mail.
LOSSLESS_PIXELS = 96 * 96
QUALITY = 88


def data_uri(frame: np.ndarray) -> str:
    """One uint8 frame ``[H, W, C]`` as a ``data:`` URI: PNG at native size, WebP for large pictures."""
    image, buffer = to_pil(frame), io.BytesIO()
    if image.width * image.height <= LOSSLESS_PIXELS:
        image.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        image.convert("RGB").save(buffer, "WEBP", quality=QUALITY)
        kind = "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def film_uri(frames: np.ndarray, fps: float) -> str:
    """A uint8 film ``[T, H, W, C]`` as a ``data:`` URI of a picture that moves, over and over: WebP at native size."""
    first, *rest = [to_pil(frame).convert("RGB") for frame in frames]
    few, buffer = first.width * first.height <= LOSSLESS_PIXELS, io.BytesIO()
    first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=durations(len(frames), fps, 0.001), loop=0,
               **({"lossless": True} if few else {"quality": QUALITY}))
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def data_uris(media: Tensor, fps: float = 0.0) -> list[str]:
    """Pictures and films of ``[B, T, C, H, W]`` in [-1, 1], one URI each; fps: frames a second of films."""
    pictures = to_uint8(media)
    return [data_uri(frames[0]) if len(frames) == 1 else film_uri(frames, fps or PLAYED) for frames in pictures]


def shown_width(width: int, height: int, across: float, tall: float = 144) -> int:
    """CSS pixels at which to show a picture in a cell ``across`` wide and at most ``tall`` high.

    A small picture grows by a whole factor, so that its pixels stay square and equal; one that is
    larger than its cell shrinks to it.
    """
    fit = min(across / width, tall / height)
    return width * int(fit) if fit >= 1 else max(1, int(width * fit))
