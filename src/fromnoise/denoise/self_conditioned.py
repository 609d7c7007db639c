"""Self-conditioning (Chen et al. 2022, Analog Bits): a network that is told its own last estimate of x0."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fromnoise.denoise.denoiser import Denoise
from fromnoise.types import Condition


class SelfConditioned:
    """``denoise`` with its last answer as the condition's image, nothing at first.  For one solve: it remembers.

    Put it innermost, around the network.  Several conditions in one call are several blocks of rows, each with an
    estimate of its own; a call of fewer blocks takes the first of them, one of more repeats them.
    """

    def __init__(self, denoise: Denoise):
        self.denoise = denoise
        self.last: Tensor | None = None

    def __call__(self, x: Tensor, t: Tensor, condition: Condition, **told) -> Tensor:
        last = torch.zeros_like(x) if self.last is None else self.last
        if len(last) < len(x):
            last = last.repeat(-(-len(x) // len(last)), *(1,) * (x.ndim - 1))
        x0 = self.denoise(x, t, replace(condition, image=last[: len(x)].to(x.dtype)), **told)
        self.last = x0.detach()
        return x0
