"""An episode: what was seen and what was done, from a reset to an end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from fromnoise.data.episodes.actions import Actions
from fromnoise.data.episodes.world import World


@dataclass(frozen=True)
class Episode:
    """T actions and the T + 1 frames around them.

    frames: uint8 ``[T+1, H, W, 3]``;  actions: ``[T]`` integers or ``[T, A]`` numbers, ``actions[i]`` was taken at
    ``frames[i]`` and led to ``frames[i + 1]``;  rewards: float32 ``[T]``, of the same steps;
    terminated: whether the world ended with the last frame;  truncated: whether it was only cut off there;
    seed: from which it can be played again, or -1;  text: what was to be done.
    """

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool = False
    truncated: bool = False
    seed: int = -1
    text: str = ""

    def __post_init__(self):
        if not len(self.frames) == len(self.actions) + 1 == len(self.rewards) + 1:
            raise ValueError(f"{len(self.frames)} frames need one action and one reward less, but there are "
                             f"{len(self.actions)} and {len(self.rewards)}")

    def __len__(self) -> int:
        """Frames."""
        return len(self.frames)


@dataclass(frozen=True)
class About:
    """What is true of a recording as a whole.

    fps: frames a second at which it is played;  height, width: of its frames;  episodes, frames: how many there are;
    world: how the environment can be made again, where it is known;  seeds: of each episode, from which it can be
    played again, or -1.
    """

    root: Path
    actions: Actions
    fps: float
    height: int
    width: int
    episodes: int
    frames: int
    world: World | None = None
    seeds: tuple[int, ...] = ()


class Recording(Protocol):
    """Episodes in a folder, in whatever layout."""

    about: About

    @property
    def files(self) -> list[Path]:
        """The files that it depends on."""
        ...

    def __iter__(self) -> Iterator[Episode]:
        """The episodes in order; UserError where one cannot be read."""
        ...


def resized(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """A frame uint8 ``[h, w, 3]`` at another size: what shrinks is averaged, what grows keeps its hard edges."""
    if frame.shape[:2] == (height, width):
        return frame
    image = Image.fromarray(frame)
    down = (min(image.width, width), min(image.height, height))
    image = image.resize(down, Image.Resampling.BOX) if down != image.size else image
    return np.asarray(image.resize((width, height), Image.Resampling.NEAREST))
