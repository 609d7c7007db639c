"""Thresholds: x0 kept in the range of pictures.  Only for models of pixels, since latents have no such range."""

from __future__ import annotations

import math

from torch import Tensor

from fromnoise.denoise.denoiser import Denoise
from fromnoise.types import Condition


def static_threshold(denoise: Denoise, limit: float = 1.0) -> Denoise:
    """x0 cut off at ``limit`` (Saharia et al. 2022, Imagen)."""
    return lambda x, t, condition: denoise(x, t, condition).clamp(-limit, limit)


def dynamic_threshold(denoise: Denoise, percentile: float = 0.995, limit: float = 1.0) -> Denoise:
    """x0 cut off at q and divided by q / limit, q the percentile of |x0| of each sample, at least ``limit``.

    (Saharia et al. 2022, Imagen.)  Pixels that guidance pushed out of range draw the others in with them, instead
    of sticking to the border.
    """
    if not 0 < percentile <= 1:
        raise ValueError(f"a percentile lies in (0, 1] (got {percentile})")

    def guided(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        x0 = denoise(x, t, condition)
        q = quantile(x0.abs().flatten(1), percentile).clamp(min=limit).view(-1, *(1 for _ in x0.shape[1:]))
        return x0.clamp(-q, q) * (limit / q)

    return guided


def quantile(x: Tensor, p: float) -> Tensor:
    """The p-quantile of every row of ``[B, N]``, as torch.quantile but for any size and dtype."""
    place = p * (x.shape[1] - 1)
    low = min(math.floor(place), x.shape[1] - 2) if x.shape[1] > 1 else 0
    top = x.topk(x.shape[1] - low, dim=1).values
    return top[:, -1].lerp(top[:, -min(2, top.shape[1])], place - low)
