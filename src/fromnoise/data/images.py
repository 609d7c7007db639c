"""The gate for pictures: one file from outside, opened safely or refused with a reason."""

from __future__ import annotations

import importlib.util
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, features

Size = tuple[int, int]  # width, height

AVIF = importlib.util.find_spec("PIL.AvifImagePlugin") is not None and bool(features.check("avif"))
SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"} | ({".avif"} if AVIF else set())
# Only these decoders ever see a file, whatever its name: Pillow has others that start programs (EPS).
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"] + (["AVIF"] if AVIF else [])
# Pictures of these kinds are named in the summary, so that nobody wonders where they went.
UNREAD = {".heic", ".heif", ".jxl", ".jp2", ".psd", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf",
          ".rw2"} | (set() if AVIF else {".avif"})
MAX_PIXELS = 100_000_000  # more than this, by the file's own header, is taken for a decompression bomb
MIN_SIDE = 4
TAIL = 2**18  # bytes at the end of a PNG that are searched for metadata
HEAVY = 16_000_000  # pixels above which pictures are decoded one at a time, to bound the memory of many threads


class Refused(Exception):
    """Why a file cannot be used, in a few words that are safe to print."""


def picture_size(path: Path) -> Size:
    """Upright (width, height), by the header: only TIFF, and PNG that may be turned, is decoded to know.

    Raises Refused.
    """
    with _gate(path) as image:
        # Some versions of Pillow turn TIFF while loading, and some do not.
        if image.format == "TIFF" or (image.format == "PNG" and _may_be_turned(path, image)):
            with _room_for(image):
                return _upright(image).size
        if image.format == "PNG":  # asking for its EXIF would decode it
            return image.size
        try:
            turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        except Exception:  # damaged EXIF: the picture itself may be whole
            turned = False
        return (image.height, image.width) if turned else image.size


def open_picture(path: Path, enough: int | None = None) -> Image.Image:
    """The first frame of a picture, upright, in RGB; transparency on white, 16 bits scaled to 8.

    ``enough`` pixels on the short side satisfy the caller: a larger picture is brought down by a whole factor,
    not below that.  A large JPEG is already decoded at 1/2, 1/4 or 1/8 of its size, which is several times faster.
    Raises Refused; the reason never holds the library's own message, which may hold memory addresses.
    """
    with _gate(path) as image:
        drafted = image.draft(None, (enough, enough)) if enough else None
        with _room_for(image):
            image.load()
            if drafted is not None:  # its last row and column may stand for a part of a pixel: leave them out
                _, (_, _, width, height) = drafted
                image = image.crop((0, 0, int(width), int(height)))
            rgb = to_rgb(_upright(image))
            return _reduced(rgb, min(rgb.size) // enough) if enough else rgb


@contextmanager
def _gate(path: Path) -> Iterator[Image.Image]:
    """An opened file whose header has passed; everything that goes wrong becomes Refused."""
    try:
        with _QUIET, Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Refused(_too_large(f"{width}x{height}"))
            if min(width, height) < MIN_SIDE:
                raise Refused(f"{width}x{height} pixels are too few")
            yield image
    except Refused:
        raise
    except FileNotFoundError:
        raise Refused("the file is missing") from None
    except PermissionError:
        raise Refused("the file may not be read") from None
    except Image.DecompressionBombError:
        raise Refused(_too_large("it")) from None
    except Image.UnidentifiedImageError:
        empty = path.stat().st_size == 0
        raise Refused("it is empty" if empty else "it is not a picture, or its beginning is damaged") from None
    except MemoryError:
        raise Refused("it does not fit into memory") from None
    except Exception:  # decoders raise many kinds of error on damaged data; each means the same here
        raise Refused("it is damaged or truncated") from None


def _may_be_turned(path: Path, image: Image.Image) -> bool:
    """Whether a PNG has metadata that can hold an orientation, be it before its pixels or after them."""
    if {"exif", "XML:com.adobe.xmp", "Raw profile type exif"} & set(image.info):
        return True
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        tail = file.read(TAIL)
    return any(mark in tail for mark in (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type exif"))


def _too_large(what: str) -> str:
    return f"{what} claims more than the {MAX_PIXELS // 10**6} million pixels allowed"


def _upright(image: Image.Image) -> Image.Image:
    """The picture decoded and turned as its EXIF orientation says."""
    image.load()
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # damaged EXIF: take the picture as it is
        return image
    return image


def _reduced(image: Image.Image, factor: int) -> Image.Image:
    """Averages of ``factor`` x ``factor`` pixels; what does not divide is left out, evenly on both sides."""
    if factor < 2:
        return image
    (width, left), (height, top) = divmod(image.width, factor), divmod(image.height, factor)
    left, top = left // 2, top // 2
    return image.reduce(factor, (left, top, left + width * factor, top + height * factor))


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB.  Raises Refused for colours that cannot be converted."""
    if image.mode.startswith("I") or image.mode == "F":
        values, key = np.asarray(image), image.info.get("transparency")
        grey = _eight_bits(values, image.mode)
        if isinstance(key, int):  # the one grey level that is clear
            grey[values == key] = 255
        image = Image.fromarray(grey)
    try:
        if image.has_transparency_data:
            clear = image if image.mode == "RGBA" else image.convert("RGBA")
            image = Image.new("RGB", image.size, "white")
            image.paste(clear, mask=clear.getchannel("A"))
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError:
        raise Refused(f"its colours ({image.mode}) cannot be converted to RGB") from None


def _eight_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Deep greyscale to uint8 by the range that its mode means, not by the values that happen to occur.

    I;16 is 0..65535.  Mode I holds 16-bit PNG in 32 bits (older Pillow) as well as true 32-bit TIFF; mode F is
    0..1 by custom, but 0..255 and 0..65535 occur: for these two the largest value tells which it is.
    """
    if mode.startswith("I;16"):
        top = 65535.0
    else:
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
        largest = float(values.max())
        tops = (65535.0, 2.0**31 - 1) if mode == "I" else (1.0, 255.0, 65535.0)
        top = next((t for t in tops if largest <= t), largest)
    return (values.astype(np.float32) * np.float32(255 / top)).round().clip(0, 255).astype(np.uint8)


def cover(image: Image.Image, width: int, height: int) -> np.ndarray:
    """uint8 ``[height, width, 3]``: scaled until it covers the size, and cut at the centre (Lanczos)."""
    scale = max(width / image.width, height / image.height)
    w, h = width / scale, height / scale
    left, top = (image.width - w) / 2, (image.height - h) / 2
    box = (max(0.0, left), max(0.0, top), min(image.width, left + w), min(image.height, top + h))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box))


def _room_for(image: Image.Image):
    return _ONE_AT_A_TIME if image.width * image.height > HEAVY else nullcontext()


class _Quiet:
    """Pillow's warnings kept back: the gate says the same in its own words, without memory addresses.

    ``warnings.catch_warnings`` swaps the state of the whole process, so the first thread in swaps it and the
    last one out swaps it back.
    """

    def __init__(self):
        self.lock, self.inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            if self.inside == 0:
                self.caught = warnings.catch_warnings()
                self.caught.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self.inside += 1

    def __exit__(self, *exception) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.caught.__exit__(*exception)


_QUIET = _Quiet()
logging.getLogger("PIL").addHandler(logging.NullHandler())  # without it, Pillow's errors go to the terminal
_ONE_AT_A_TIME = threading.Lock()
