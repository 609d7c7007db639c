"""A causal denoiser that remembers the frames before those it is asked for."""

from __future__ import annotations

from torch import Tensor

from fromnoise.blocks import Cache
from fromnoise.denoise.denoiser import Denoise
from fromnoise.types import Condition


class Cached:
    """``denoise`` of a network that is causal in time, asked for the frames after those that it has been shown.

    Put it innermost, around the network.  What is asked within ``remember`` is kept, and at most ``limit`` frames of
    it, the newest.  For one rollout; every question in it must have the same conditions in the same number of calls,
    since what is remembered is of them: ValueError where one has others.
    """

    def __init__(self, denoise: Denoise, limit: int | None = None):
        self.denoise, self.cache, self.rows, self.holding = denoise, Cache(limit=limit), 0, False

    def __call__(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        if self.rows and len(x) != self.rows:
            raise ValueError(f"what is remembered is of {self.rows} rows, and {len(x)} are asked for")
        self.rows, self.cache.hold = len(x), self.holding
        return self.denoise(x, t, condition, cache=self.cache)  # type: ignore[call-arg]

    def remember(self, ask, x: Tensor, t: Tensor) -> None:
        """Look once at clean frames ``x``, through ``ask``: the denoiser that this one is the innermost part of."""
        self.holding = True
        try:
            ask(x, t)
        finally:
            self.holding = False
        self.cache.trim()
