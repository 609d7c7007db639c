"""Frames that are known already, as a denoiser whose frames have clocks of their own is shown them.

A frame at t = 0 is history: it was given, or is finished.  What a network is shown of it may be less than it is,

    x' = alpha(l) x + sigma(l) eps      told as t' = l,

with the same eps at every step.  A small level l steadies long rollouts, since the network no longer trusts to the last
digit what it made (Chen et al. 2024, Diffusion Forcing); at level 1 nothing is left of it.  The difference between the
answers at two levels is guidance by history (Song et al. 2025, Diffusion Forcing Transformer).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fromnoise.denoise.denoiser import Denoise
from fromnoise.process import GaussianPath, expand
from fromnoise.types import Condition

Eps = Callable[[Tensor], Tensor]  # standard normal noise in the shape of x, the same whenever it is asked for


def blurred(denoise: Denoise, path: GaussianPath, level: float, eps: Eps) -> Denoise:
    """``denoise`` that sees its history at noise level ``level``; history comes out as it went in.

    A clock that is one for all frames has no history.  So has one without a frame at 0.
    """

    def shown(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        if not has_history(t):
            return denoise(x, t, condition)
        history = expand(t == 0, x).to(x.device)
        if level:
            noisy = path.add_noise(x, eps(x), torch.tensor(level, dtype=x.dtype))
            seen, told = torch.where(history, noisy, x), torch.where(t == 0, level, t)
        else:
            seen, told = x, t
        return torch.where(history, x, denoise(seen, told, condition))

    return shown


def by_history(denoise: Denoise, path: GaussianPath, scale: float, level: float, less: float, eps: Eps) -> Denoise:
    """History guidance: D = w + s (d - w), with history at noise level ``level`` in d and at ``less`` in w.

    less = 1 is the paper's vanilla history guidance, between p(frames | history) and p(frames); a level below it is
    their fractional guidance in frequency, where the weak one still knows the coarse parts of history.  Where nothing
    is history yet, or the scale is 1, d alone is asked.
    """
    strong, weak = blurred(denoise, path, level, eps), blurred(denoise, path, less, eps)

    def guided(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        d = strong(x, t, condition)
        if scale == 1 or not has_history(t):
            return d
        w = weak(x, t, condition)
        return w + scale * (d - w)

    return guided


def has_history(t: Tensor) -> bool:
    """Whether frames have clocks, which are known, on the CPU, and some of them stand at 0."""
    return t.ndim > 1 and bool((t == 0).any())
