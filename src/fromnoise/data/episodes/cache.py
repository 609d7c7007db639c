"""Decoded frames on disk: a recording is decoded once, and read from then on as one large array."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fromnoise.config import read_json
from fromnoise.data.episodes.episode import Episode, Recording, resized
from fromnoise.files import disk_errors, replacing, write_text
from fromnoise.types import UserError

FORMAT = 1
FOLDER = ".frames"
LONG = 5_000  # frames whose decoding is worth a word
ENDS = ("", "terminated", "truncated")


@dataclass(frozen=True)
class Frames:
    """All frames of a recording, one episode after the other.

    frames: uint8 ``[N, H, W, 3]``, a map of a file;  actions: ``[N]`` integers or ``[N, A]`` numbers, row j is what led
    to frame j, and none (-1 or NaN) where an episode begins;  rewards: float32 ``[N]``, that came with frame j;
    ends: uint8 ``[N]``, 1 where a world ended with the frame and 2 where it was cut off;
    offsets: ``[E + 1]``, episode e is frames ``offsets[e]`` to ``offsets[e + 1]``;  fingerprint: of what was decoded.
    """

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    ends: np.ndarray
    offsets: np.ndarray
    fingerprint: str


def cached(recording: Recording, height: int, width: int, folder: str = "") -> Frames:
    """The frames at a size, decoded now where they were not before.

    folder: where they are kept, by default .frames in the recording's own.  UserError where the disk does not take
    them or an episode cannot be read.
    """
    about = recording.about
    print_ = fingerprint(recording)
    base = Path(folder or about.root / FOLDER) / f"{width}x{height}-{print_[:16]}"
    told = base.with_suffix(".json")
    if not told.exists():
        with disk_errors(base), _saying(recording):
            _decode(recording, base, height, width)
    found = read_json(told)
    frames = np.memmap(base.with_suffix(".u8"), np.uint8, "r", shape=(found["frames"], height, width, 3))
    with np.load(base.with_suffix(".npz"), allow_pickle=False) as arrays:
        return Frames(frames, **{name: arrays[name] for name in ("actions", "rewards", "ends", "offsets")},
                      fingerprint=print_)


def fingerprint(recording: Recording) -> str:
    """A hash of the files: their names, sizes and dates."""
    root = recording.about.root
    stats = [(path.relative_to(root).as_posix(), path.stat()) for path in recording.files]
    listed = "\0".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
    return hashlib.sha256(f"{FORMAT}\0{listed}".encode("utf-8", "surrogateescape")).hexdigest()


def _decode(recording: Recording, base: Path, height: int, width: int) -> None:
    """Write frames, what goes with them, and last the file that makes them count; then drop older ones of this size."""
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    with replacing(base.with_suffix(".u8")) as temporary, temporary.open("wb") as file:
        for episode in recording:
            for frame in episode.frames:
                file.write(np.ascontiguousarray(resized(frame, height, width)).data)
            rows.append(_rows(episode, recording.about.actions.none))
    if not rows:
        raise UserError(f"{recording.about.root} holds no episodes yet.")
    offsets = np.cumsum([0, *(len(row[0]) for row in rows)])
    actions, rewards, ends = (np.concatenate(column) for column in zip(*rows, strict=True))
    with replacing(base.with_suffix(".npz")) as temporary, temporary.open("wb") as file:
        np.savez(file, actions=actions, rewards=rewards, ends=ends, offsets=offsets)
    write_text(base.with_suffix(".json"), json.dumps({"format": FORMAT, "frames": int(offsets[-1])}) + "\n")
    for old in base.parent.glob(f"{width}x{height}-*"):
        if old.stem != base.stem:
            old.unlink(missing_ok=True)


def _rows(episode: Episode, none: int | float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Actions, rewards and ends by the frame they led to."""
    first = np.full_like(episode.actions[:1], none)
    ends = np.zeros(len(episode), np.uint8)
    ends[-1] = ENDS.index("terminated" if episode.terminated else "truncated" if episode.truncated else "")
    return np.concatenate([first, episode.actions]), np.append(np.float32(0), episode.rewards), ends


@contextlib.contextmanager
def _saying(recording: Recording) -> Iterator[None]:
    """A word to the user where decoding takes long."""
    if recording.about.frames < LONG:
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"Decoding {recording.about.frames:,} frames of {recording.about.root}, once"):
        yield
