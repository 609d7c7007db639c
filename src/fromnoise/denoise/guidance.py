"""Guidance: from denoisers to a denoiser."""

from __future__ import annotations

import torch
from torch import Tensor

from fromnoise.denoise.denoiser import Denoise
from fromnoise.types import Condition


def classifier_free(denoise: Denoise, null: Condition, scale: float,
                    interval: tuple[float, float] = (0.0, 1.0)) -> Denoise:
    """Classifier-free guidance (Ho and Salimans 2022): D = u + scale (c - u).

    scale 1 is the plain conditional model, 0 the unconditional one.  Guidance acts only while t is
    inside ``interval`` (Kynkaanniemi et al. 2024).  ``null`` is the unconditional condition of the same
    batch size, or the negative prompt.  Both passes share one network call.
    """
    if scale == 1:
        return denoise

    def guided(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        if not interval[0] <= float(t.max()) <= interval[1]:
            return denoise(x, t, condition)
        both = t if t.ndim == 0 or t.shape[0] == 1 else torch.cat([t, t])
        c, u = denoise(torch.cat([x, x]), both, Condition.cat([condition, null])).chunk(2)
        return u + scale * (c - u)

    return guided
