"""A film: frames, and the times at which they are shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fromnoise.media import from_uint8
from fromnoise.types import UserError

PLAYED = 24.0  # frames a second of films that do not say how fast they are
CLOSE = 1e-6  # seconds that times may be off by rounding
MAX_PIXELS = 100_000_000  # of a frame, by the file's own header: more is taken for a decompression bomb


class NotAFilm(UserError):
    """A file that cannot be read as a film; ``reason``: why, in a few words that are safe to print."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path} cannot be read as a film: {reason}.")
        self.reason = reason


@dataclass(frozen=True)
class Film:
    """Frames and when they are shown.

    frames: uint8 ``[T, H, W, 3]``;  times: seconds ``[T]`` since the first, rising;  fps: frames a second, on average.
    """

    frames: np.ndarray
    times: np.ndarray
    fps: float

    @property
    def seconds(self) -> float:
        """How long it is: the last frame is shown as long as others on average."""
        return float(self.times[-1]) + 1 / self.fps

    @property
    def media(self) -> Tensor:
        """``[T, 3, H, W]`` in [-1, 1]."""
        return from_uint8(self.frames)

    def at(self, fps: float) -> Film:
        """The film at ``fps`` frames a second, as long as it is: at every moment the frame whose time is nearest."""
        count = max(1, math.floor(self.seconds * checked_rate(fps) + 0.1))  # some containers round times to 1 ms
        moments = np.arange(count) / fps
        return Film(self.frames[nearest(self.times, moments)], moments, float(fps))


@dataclass(frozen=True)
class FilmFacts:
    """What a file says of itself before it is decoded; ``height`` and ``width`` of the frames as they are shown."""

    frames: int
    fps: float
    height: int
    width: int
    seconds: float


def nearest(times: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """For each moment the index of the time nearest to it, the earlier of two as near; ``times`` rise."""
    middles = (times[1:] + times[:-1]) / 2
    return np.searchsorted(middles, moments - CLOSE)


def average_rate(times: np.ndarray, said: float) -> float:
    """Frames a second over all of ``times``; of a single one what is ``said``."""
    seconds = float(times[-1] - times[0])
    return (len(times) - 1) / seconds if seconds > 0 else said


def checked_rate(fps: Any) -> float:
    """Frames a second as a number.  UserError where it is not above 0."""
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not math.isfinite(fps) or fps <= 0:
        raise UserError(f"fps must be a number above 0, frames a second (got {fps!r:.40}).")
    return float(fps)
