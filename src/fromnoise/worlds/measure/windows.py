"""Real moments to measure at: windows of episodes of one split, of any length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fromnoise.data.episodes import EpisodeSource
from fromnoise.media import from_uint8
from fromnoise.types import UserError


@dataclass(frozen=True)
class Moments:
    """S moments, and what follows each of them.

    history: ``[S, T, C, H, W]`` in [-1, 1];  led: what led to each of its frames, ``[S, T]`` or ``[S, T, A]``;
    done: J sequences of what is done then, ``[S, J, K]`` or ``[S, J, K, A]``;  real: the frames to which they lead in
    the real environment, ``[S, J, K, C, H, W]``.
    """

    history: Tensor
    led: Tensor
    done: Tensor
    real: Tensor

    def __len__(self) -> int:
        return len(self.history)


def rows_of(source: EpisodeSource, before: int = 0, after: int = 0) -> np.ndarray:
    """Rows of a split that have so many frames of their episode before and after them, in their order."""
    offsets = source.recorded.offsets.tolist()
    return np.concatenate([np.arange(offsets[e] + before, offsets[e + 1] - after) for e in source.episodes.tolist()])


def windows(source: EpisodeSource, length: int, count: int) -> np.ndarray:
    """Rows ``[n, length]`` of the recording: at most ``count`` windows, spread evenly over the episodes of a split.

    The split is that of training, whatever the length.  UserError where none of its episodes is so long.
    """
    begins = rows_of(source, after=length - 1)
    if not len(begins):
        raise UserError(f"None of the episodes to measure on has {length} frames: record longer ones, or let the world "
                        "look back at fewer with --context.")
    chosen = np.unique(np.linspace(0, len(begins) - 1, count).round().astype(int))
    return begins[chosen, None] + np.arange(length)


def longest(source: EpisodeSource) -> int:
    """Frames of the longest episode of a split."""
    return int(np.diff(source.recorded.offsets)[source.episodes].max())


def seen(source: EpisodeSource, rows: np.ndarray) -> Tensor:
    """Frames ``[..., 3, H, W]`` in [-1, 1] of rows of the recording."""
    return from_uint8(source.recorded.frames[rows])


def led_to(source: EpisodeSource, rows: np.ndarray) -> Tensor:
    """What led to them, ``[...]`` or ``[..., A]``."""
    return torch.from_numpy(source.recorded.actions[rows])


def following(source: EpisodeSource, starts: np.ndarray, count: int) -> Tensor:
    """What was done from rows ``starts`` ``[R]`` on, ``[R, count]`` or ``[R, count, A]``, begun again at the end."""
    every = rows_of(source, before=1)  # where an episode begins nothing was done
    at = np.searchsorted(every, starts)
    return led_to(source, every[(at[:, None] + np.arange(count)) % len(every)])


def recorded(source: EpisodeSource, context: int, steps: int, count: int) -> Moments:
    """Moments of recorded episodes after ``context`` frames, with the ``steps`` that did follow: J = 1."""
    rows = windows(source, context + steps, count)
    frames, actions = seen(source, rows), led_to(source, rows)
    return Moments(frames[:, :context], actions[:, :context], actions[:, None, context:], frames[:, None, context:])
