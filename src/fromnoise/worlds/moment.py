"""A moment of worlds: all that their future depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fromnoise.types import UserError

if TYPE_CHECKING:
    from fromnoise.worlds.dream import Dream, State


@dataclass(frozen=True)
class Moment:
    """What ``save`` keeps of N worlds.

    state: of the model, never stepped itself;  frames: uint8 ``[N, H, W, C]``, seen there;  steps: ``[N]`` since the
    beginning;  over: ``[N]`` whether the episode had ended;  random: of each, the state of its random numbers.
    """

    state: State
    frames: np.ndarray
    steps: np.ndarray
    over: np.ndarray
    random: tuple[dict[str, Any], ...]

    def check(self, rows: int, dream: Dream) -> None:
        """UserError for a moment of another number of worlds, or of worlds of another size."""
        if self.frames.shape != (rows, *dream.size, dream.channels):
            raise UserError(f"This moment is of {len(self.frames)} worlds of {self.frames.shape[2]}x"
                            f"{self.frames.shape[1]} pixels, and here are {rows} of {dream.size[1]}x{dream.size[0]}.")
