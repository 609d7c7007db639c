"""A causal denoiser that looks once at the frames that a clip begins with and that do not change."""

from __future__ import annotations

import torch
from torch import Tensor

from fromnoise.blocks import Cache
from fromnoise.denoise.denoiser import Denoise, Denoiser
from fromnoise.types import Condition


class Cached:
    """``denoise`` of a network that is causal in time, for clips whose first ``held`` frames stay as they are.

    Nothing that these see comes after them, so that they are looked at with the first question, and what later frames
    see of them is kept; every question is then of the others alone, and has the same answer to rounding.  The held
    frames come out as they went in.

    Put it innermost, around the network.  For one solve: all its questions have the same first frames, at the same
    noise levels, and the same conditions in the same number of calls.  ValueError where one has other rows.
    """

    def __init__(self, denoise: Denoise, held: int):
        self.denoise, self.held, self.rows, self.cache = denoise, held, 0, Cache()

    def __call__(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        if self.rows and len(x) != self.rows:
            raise ValueError(f"what is remembered is of {self.rows} rows, and {len(x)} are asked for")
        t = Denoiser.clock(x, t)
        past, now = slice(None, self.held), slice(self.held, None)
        if not self.rows:
            self.ask(x, t, condition, past)
            self.rows, self.cache.hold = len(x), False
        return torch.cat([x[:, past], self.ask(x, t, condition, now)], dim=1)

    def ask(self, x: Tensor, t: Tensor, condition: Condition, frames: slice) -> Tensor:
        """The answer for some of the frames, after those in the cache."""
        return self.denoise(x[:, frames], t[:, frames], condition.of(frames), cache=self.cache)  # type: ignore[call-arg]
