"""Passes through a denoiser: under a fixed condition, under several at once, and counted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fromnoise.denoise.denoiser import Denoise
from fromnoise.types import Condition


def under(denoise: Denoise, condition: Condition):
    """``denoise`` under one fixed condition: a denoiser, and as ``(x, t) -> x0`` what a solver takes."""

    def fixed(x: Tensor, t: Tensor, _: Condition | None = None) -> Tensor:
        return denoise(x, t, condition)

    return fixed


def passes(denoise: Denoise, x: Tensor, t: Tensor, conditions: Sequence[Condition],
           max_batch: int | None = None) -> list[Tensor]:
    """x0 of the same x under each of several conditions.

    One network call serves them all; with ``max_batch``, as few calls as keep each at that many samples or fewer,
    but never less than one condition a call.
    """
    count = len(conditions) if max_batch is None else max(1, max_batch // len(x))
    found: list[Tensor] = []
    for i in range(0, len(conditions), count):
        some = conditions[i : i + count]
        if len(some) == 1:
            found.append(denoise(x, t, some[0]))
            continue
        times = t if t.ndim == 0 or t.shape[0] == 1 else torch.cat([t] * len(some))
        found += denoise(torch.cat([x] * len(some)), times, Condition.cat(some)).chunk(len(some))
    return found


class Counted:
    """A denoiser that counts: ``calls`` of the network, and ``samples`` evaluated in all of them.

    Two conditions in one call are one call and two evaluations of every sample.  Put it innermost, around the
    network; it takes ``(x, t, condition)`` and ``(x, t)`` alike.
    """

    def __init__(self, denoise):
        self.denoise, self.calls, self.samples = denoise, 0, 0

    def __call__(self, x: Tensor, *rest, **told) -> Tensor:
        self.calls += 1
        self.samples += len(x)
        return self.denoise(x, *rest, **told)
