"""Writing films, so that everything plays them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from fromnoise.files import disk_errors, replacing
from fromnoise.films import moving_pictures, video
from fromnoise.films.film import checked_rate
from fromnoise.films.names import FASTEST_GIF, WRITTEN, checked_path
from fromnoise.media import enlargement, to_uint8
from fromnoise.types import UserError


def write_film(media: Tensor, path: str | Path, fps: float, enlarge: int | None = None, comment: str = "") -> Path:
    """A film ``[T, C, H, W]`` in [-1, 1] as .mp4, .mkv, .gif or .webp, enlarged by whole pixels to be seen well.

    enlarge: by how much; None brings a small film to about 128 pixels.  .mkv and .webp keep every pixel as it is (of 8
    bits).  .mp4 halves the resolution of colour, which takes even sides: of an odd one the last row or column is there
    twice.  comment: a text kept in the file, for ``read_comment``.
    UserError for another suffix, a film without frames or of other than 1 or 3 channels, fps that is not above 0 or
    more than a GIF can show, and a disk that refuses.
    """
    path, fps = check_shown(checked_path(path, WRITTEN), fps), checked_rate(fps)
    if media.ndim != 4 or media.shape[1] not in (1, 3):
        raise UserError(f"A film is [T, C, H, W] with 1 or 3 channels (got {list(media.shape)}).")
    if not media.numel():
        raise UserError(f"A film needs frames, and this one has none ({list(media.shape)}).")
    frames = to_uint8(media).repeat(4 - media.shape[1] if media.shape[1] == 1 else 1, axis=-1)
    factor = enlargement(media.shape[-2]) if enlarge is None else enlarge
    suffix = path.suffix.lower()
    with disk_errors(path), replacing(path) as temporary:
        if suffix == ".gif":
            moving_pictures.write_gif(frames, temporary, fps, factor, comment)
        elif suffix == ".webp":
            moving_pictures.write_webp(enlarged(frames, factor), temporary, fps, comment)
        else:
            video.write(enlarged(frames, factor), temporary, fps, suffix == ".mkv", comment)
    return path


def check_shown(path: Path, fps: float) -> Path:
    """The path of a film that shows so many frames a second.  UserError for a GIF that cannot."""
    if path.suffix.lower() == ".gif" and checked_rate(fps) > FASTEST_GIF:
        raise UserError(f"A GIF shows at most {FASTEST_GIF:g} frames a second (got {fps:g}): write .mp4 or .webp.")
    return path


def enlarged(frames: np.ndarray, factor: int) -> np.ndarray:
    """``[T, H, W, C]`` with each pixel as a square of ``factor`` by ``factor``."""
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)
