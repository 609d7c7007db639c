"""Reading films, by the times at which their frames are shown."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.films import moving_pictures, video
from fromnoise.films.film import CLOSE, Film, FilmFacts, NotAFilm, average_rate
from fromnoise.films.names import PICTURES, SUFFIXES, checked_path
from fromnoise.types import UserError


def read_film(path: str | Path, fps: float | None = None) -> Film:
    """All frames of a film, upright, in RGB and with their times; at ``fps`` frames a second where that is given.

    UserError where the file is not there, is of an unknown kind, is no film or is damaged; NotAFilm for the last two.
    """
    found = list(frames_of(path))
    times = np.array([time for time, _ in found])
    film = Film(np.stack([frame for _, frame in found]), times, average_rate(times, film_facts(path).fps))
    return film if fps is None else film.at(fps)


def frames_of(path: str | Path, start: float = 0.0, stop: float = math.inf,
              enough: int | None = None) -> Iterator[tuple[float, np.ndarray]]:
    """(seconds since the film's first frame, uint8 ``[H, W, 3]``) of the frames shown from ``start`` to ``stop``.

    A long film is not decoded up to ``start``, but from the last frame before it that needs no other.  ``enough``
    pixels on the short side satisfy the caller: larger frames are brought down by a whole factor.  UserError as
    ``read_film``.
    """
    path = checked_path(path, SUFFIXES)
    source = _library(path).frames(path, start, enough)
    last = -math.inf
    with _reasons(path):
        for time, frame in source:
            if time > stop + CLOSE:
                return
            if time <= last:
                raise NotAFilm(path, "the times of its frames do not rise")
            last = time
            yield time, frame
    if last < 0:
        raise NotAFilm(path, f"it has no frames from {start:g} s on" if start else "it has no frames")


def film_facts(path: str | Path) -> FilmFacts:
    """How many frames, how fast, how large and how long a film is, without decoding more than one of a video file.

    UserError as for ``read_film``.
    """
    path = checked_path(path, SUFFIXES)
    with _reasons(path):
        return _library(path).facts(path)


def read_comment(path: str | Path) -> str:
    """The comment that ``write_film`` put into a file; "" where there is none.  UserError as ``read_film``."""
    path = checked_path(path, SUFFIXES)
    with _reasons(path):
        return _library(path).comment(path)


def _library(path: Path) -> Any:
    """What reads a file of this name: the module for moving pictures or that for video."""
    return moving_pictures if path.suffix.lower() in PICTURES else video


@contextmanager
def _reasons(path: Path) -> Iterator[None]:
    """What decoders raise on damaged data, which is of many kinds, as NotAFilm."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception:
        raise NotAFilm(path, "it is damaged or truncated") from None
