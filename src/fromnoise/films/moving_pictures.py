"""GIF and WebP that move, through Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from fromnoise.films.film import CLOSE, MAX_PIXELS, FilmFacts, NotAFilm
from fromnoise.types import UserError

UNTIMED = 0.1  # seconds of a GIF's frame that is to be shown for no time, as browsers have it
COMMENT = 0x010E  # EXIF's ImageDescription, which holds the comment of a .webp


def facts(path: Path) -> FilmFacts:
    """By the lengths of its frames, each of which is decoded."""
    with _opened(path) as image:
        seconds = sum(lengths := [_length(image, i) for i in range(getattr(image, "n_frames", 1))])
        return FilmFacts(len(lengths), len(lengths) / seconds, image.height, image.width, seconds)


def frames(path: Path, start: float, enough: int | None) -> Iterator[tuple[float, np.ndarray]]:
    """(seconds, uint8 ``[H, W, 3]``) of the frames that are shown from ``start`` on; what is clear is white."""
    time = 0.0
    with _opened(path) as image:
        for i in range(getattr(image, "n_frames", 1)):
            length = _length(image, i)
            clear = image.convert("RGBA")
            frame = Image.new("RGB", clear.size, "white")
            frame.paste(clear, mask=clear.getchannel("A"))
            factor = max(1, min(frame.size) // enough) if enough else 1
            if time >= start - CLOSE:
                yield time, np.asarray(frame.reduce(factor) if factor > 1 else frame)
            time += length


def comment(path: Path) -> str:
    """The comment kept in a moving picture."""
    with _opened(path) as image:
        kept = image.getexif().get(COMMENT, "").encode("latin-1") if image.format == "WEBP" else (
            image.info.get("comment", b""))
        return kept.decode("utf-8", "replace")


def _opened(path: Path) -> Image.Image:
    """A moving picture opened.  UserError as ``read_film``."""
    if not path.is_file():
        raise UserError(f"There is no film {path}.")
    try:
        image = Image.open(path, formats=["GIF", "WEBP"])
    except PermissionError:
        raise NotAFilm(path, "the file may not be read") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        empty = path.stat().st_size == 0
        raise NotAFilm(path, "it is empty" if empty else "it is no film, or its beginning is damaged") from None
    if image.width * image.height > MAX_PIXELS:
        raise NotAFilm(path, f"it claims more than the {MAX_PIXELS // 10**6} million pixels allowed")
    return image


def _length(image: Image.Image, index: int) -> float:
    """Seconds that a frame is shown; it is then the one that is open."""
    image.seek(index)
    image.load()
    return (image.info.get("duration") or 1000 * UNTIMED) / 1000


def write_gif(frames: np.ndarray, path: Path, fps: float, factor: int, comment: str) -> None:
    """One palette for the whole film: colours that are chosen for each frame flicker.  Enlarged by ``factor``."""
    count, height, width, _ = frames.shape
    whole = Image.fromarray(frames.reshape(count * height, width, 3)).quantize(
        256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    tiles = [whole.crop((0, i * height, width, (i + 1) * height)) for i in range(count)]
    first, *rest = [tile.resize((width * factor, height * factor), Image.Resampling.NEAREST) for tile in tiles]
    first.save(path, "GIF", save_all=True, append_images=rest, loop=0, disposal=1, optimize=False,
               duration=[10 * d for d in durations(count, fps, 0.01)], comment=comment.encode())


def write_webp(frames: np.ndarray, path: Path, fps: float, comment: str) -> None:
    """Every pixel exact."""
    exif = Image.Exif()
    exif[COMMENT] = comment.encode()
    first, *rest = [Image.fromarray(frame) for frame in frames]
    first.save(path, "WEBP", save_all=True, append_images=rest, loop=0, lossless=True, exif=exif,
               duration=durations(len(frames), fps, 0.001))


def durations(count: int, fps: float, unit: float) -> list[int]:
    """How many ``unit``s of time each of ``count`` frames is shown, so that none is ever off by more than a half."""
    ends = [round(i / (fps * unit)) for i in range(count + 1)]
    return [b - a for a, b in pairwise(ends)]
