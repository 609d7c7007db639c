"""Which files are films, by the ends of their names."""

from __future__ import annotations

from pathlib import Path

from fromnoise.types import UserError

WRITTEN = (".mp4", ".mkv", ".gif", ".webp")
PICTURES = {".gif", ".webp"}  # of these, what Pillow reads
SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"} | PICTURES
FASTEST_GIF = 50.0  # browsers show what is faster at 10 frames a second


def checked_path(path: str | Path, suffixes) -> Path:
    """A path whose suffix is among those.  UserError where it is not."""
    if (path := Path(path)).suffix.lower() not in suffixes:
        raise UserError(f"{path.name} is not a film by its name: it should end in {', '.join(sorted(suffixes))}.")
    return path


def moving(fps: float) -> str:
    """The suffix of a film to look at anywhere, without PyAV: a GIF, unless it is too fast for one."""
    return ".gif" if fps <= FASTEST_GIF else ".webp"
