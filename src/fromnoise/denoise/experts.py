"""Experts: one denoiser made of several, each for an interval of noise (eDiff-I, Balaji et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fromnoise.denoise.denoiser import Denoise
from fromnoise.process import expand
from fromnoise.types import Condition, UserError

Part = tuple[Denoise, float, float]


def experts(parts: Sequence[Part]) -> Denoise:
    """D(x, t) = D_i(x, t) where low_i < t <= high_i, for parts (D_i, low_i, high_i); t = 0 belongs to the lowest.

    The intervals must cover [0, 1] without gap or overlap, in any order.  With one clock for all, one denoiser is
    called; where samples or frames have clocks of their own, each that is needed sees the whole of x, since frames see
    each other, and answers for its own.  UserError for intervals that do not fit together.
    """
    ordered = sorted(parts, key=lambda part: part[1:])
    check_intervals([part[1:] for part in ordered])
    denoisers, ends = [part[0] for part in ordered], [part[2] for part in ordered[:-1]]

    def chosen(x: Tensor, t: Tensor, condition: Condition, **told) -> Tensor:
        which = torch.bucketize(t, torch.tensor(ends, dtype=t.dtype, device=t.device))
        first, *rest = which.unique().tolist()
        x0 = denoisers[first](x, t, condition, **told)
        for i in rest:
            x0 = torch.where(expand(which == i, x).to(x.device), denoisers[i](x, t, condition, **told), x0)
        return x0

    return chosen


def check_intervals(intervals: Sequence[tuple[float, float]]) -> None:
    """UserError where intervals of t, in order, do not cover [0, 1] exactly once."""
    for low, high in intervals:
        if not low < high:
            raise UserError(f"An expert is for times from a smaller to a larger one (got {low:g} to {high:g}).")
    end = 0.0
    for low, high in intervals:
        if low < end:
            raise UserError(f"Two experts are for the times from {low:g} to {min(end, high):g}: their intervals may "
                            "not overlap.")
        if low > end:
            raise UserError(f"There is no expert for the times from {end:g} to {low:g}: the intervals must cover all "
                            "from 0 to 1.")
        end = high
    if end != 1:
        raise UserError(f"The intervals of the experts must end at 1, which is noise alone (they end at {end:g}).")


def fill(experts: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The intervals that those of some experts leave to the denoiser which they join, in order."""
    edges = [0.0, *(end for interval in sorted(experts) for end in interval), 1.0]
    if any(low > high for low, high in experts):
        return []  # which is said where the intervals are checked
    return [(low, high) for low, high in zip(edges[::2], edges[1::2], strict=True) if low < high]
