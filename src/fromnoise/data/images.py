"""The gate for pictures: one file from outside, opened safely or refused with a reason."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
MAX_PIXELS = 100_000_000  # more than this, by the file's own header, is taken for a decompression bomb
MIN_SIDE = 4


class Refused(Exception):
    """Why a file cannot be used, in a few words."""


def open_picture(path: Path) -> Image.Image:
    """The first frame of a picture, upright, in RGB; transparency on white, 16 bits scaled to 8.

    Raises Refused; the reason never holds the library's own message, which may hold memory addresses.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Refused(f"{width}x{height} pixels are more than the {MAX_PIXELS // 10**6} million allowed")
            if min(width, height) < MIN_SIDE:
                raise Refused(f"{width}x{height} pixels are too few")
            image.load()
            return to_rgb(ImageOps.exif_transpose(image) or image)
    except Refused:
        raise
    except FileNotFoundError:
        raise Refused("the file is missing") from None
    except PermissionError:
        raise Refused("the file may not be read") from None
    except Image.DecompressionBombError:
        raise Refused(f"it claims more than the {MAX_PIXELS // 10**6} million pixels allowed") from None
    except Image.UnidentifiedImageError:
        raise Refused("it is empty" if path.stat().st_size == 0 else "it is not a picture") from None
    except Exception:  # decoders raise many kinds of error on damaged data; each means the same here
        raise Refused("it is damaged or truncated") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if values.max() > 255 else 255.0 if values.max() > 1 else 1.0
        image = Image.fromarray((values / top * 255).round().clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return image.convert("RGB")


def cover(image: Image.Image, width: int, height: int) -> np.ndarray:
    """uint8 ``[height, width, 3]``: scaled until it covers the size, and cut at the centre."""
    return np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS, centering=(0.5, 0.5)))
