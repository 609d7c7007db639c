"""What a world shows after real frames, under actions that are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fromnoise.worlds.dream import Stepped

AT_ONCE = 64  # rows that are stepped together


class Steps(Protocol):
    """What is measured: ``worlds.Dream``, or whatever is begun, stepped and has rows as it has."""

    @property
    def actions(self) -> Any:  # Actions, or None where it is told none
        ...

    @property
    def context(self) -> int: ...

    def begin(self, frames: Tensor, actions: Tensor | None, seeds: Sequence[int]) -> Any: ...

    def step(self, state: Any, actions: Tensor | None = None) -> Stepped: ...


def imagined(world: Steps, history: Tensor, led: Tensor, done: Tensor, seed: int = 0) -> Tensor:
    """Frames ``[S, J, K, C, H, W]`` of moments with ``history`` and ``led``, under what is ``done`` ``[S, J, K, ...]``.

    The futures of a moment share its noise, so that they differ by what is done alone.
    """
    branches, steps = done.shape[1:3]
    few, found = max(1, AT_ONCE // branches), []
    for start in range(0, len(history), few):
        some = slice(start, start + few)
        frames, acted = history[some], done[some].flatten(0, 1)
        begun = world.begin(frames, led[some], [seed + start + i for i in range(len(frames))])
        state = begun.rows([i for i in range(len(frames)) for _ in range(branches)])
        made = torch.stack([world.step(state, acted[:, k]).frame for k in range(steps)], dim=1)
        found.append(made.unflatten(0, (len(frames), branches)))
    return torch.cat(found)
