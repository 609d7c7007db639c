"""What is done in a world, told to a denoiser, and guidance by it.

    D = w + s (d - w),     d told every action, w those of history alone

History are the frames at t = 0, which are given or finished: what led to them is no question any more.  At a scale
above 1 the frames that are being made follow their actions more closely than in the data (Genie 2; classifier-free
guidance, Ho and Salimans 2022, with the action for the text).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from fromnoise.denoise.denoiser import Denoise
from fromnoise.denoise.passes import passes
from fromnoise.types import Acts, Condition


def acting(denoise: Denoise, actions: Callable[[Tensor], Tensor], acts: Acts, scale: float = 1.0) -> Denoise:
    """``denoise`` under what led to each frame, whatever condition it is given.

    actions: those of the frames of x, ``[B, T]`` long or ``[B, T, A]`` float.  At scale 1 w is not asked for.
    """

    def told(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        done = actions(x)
        strong = replace(condition, actions=done)
        if scale == 1:
            return denoise(x, t, strong)
        made = (t[:, None] if t.ndim == 1 else t).expand(x.shape[:2]).to(x.device) != 0
        weak = replace(condition, actions=acts.silence(done, made))
        w, d = passes(denoise, x, t, [weak, strong])
        return w + scale * (d - w)

    return told
