"""One Brownian path for every step count: noise as a function of (seed, sample, log-SNR).

W is Brownian motion on the clock c = SNR = exp(lambda), a virtual tree (Li et al. 2020, "Scalable gradients for
stochastic differential equations", section 4): the value at the middle of an interval of log-SNR is a bridge
between the values at its ends, with noise that is keyed by the interval.

    W(c) | W(a), W(b) ~ N( ((b - c) W(a) + (c - a) W(b)) / (b - a),  (c - a)(b - c) / (b - a) ),     a < c < b

On this clock the exact noise of a step of the reverse SDE is an increment of W:  alpha' r'^2 (W(c') - W(c)) with
r = sigma/alpha, so that two step counts meet the same path, and a step that is taken back meets it again.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fromnoise.process import GaussianPath
from fromnoise.random import fold, normal
from fromnoise.sample.plan import Plan
from fromnoise.types import UserError

LIMIT = 40.0  # largest |log-SNR|
DEPTH = 15  # halvings: steps shorter than 80 / 2^15 = 0.0024 in log-SNR may fall into one interval
STREAM = 0x42726F776E  # keeps these keys apart from those of fresh noise


class Brownian:
    """W of the samples ``first``, ``first + 1``, ... at scalar log-SNRs.

    Only the intervals around the place that was last asked for are remembered, so a query makes about as many
    draws as its interval has halvings that the last one had not.
    """

    def __init__(self, like: Tensor, seed: int, first: int = 0):
        self.like, self.seed, self.samples = like, seed, range(first, first + len(like))
        top = self._draw(-1, 0) * math.exp(LIMIT / 2)
        # (level, index, W at the left end, W at the right end); the left end of all stands for SNR 0, where W is 0
        self.cells: list[tuple[int, int, Tensor, Tensor]] = [(0, 0, torch.zeros_like(top), top)]

    def __call__(self, logsnr: float) -> Tensor:
        """W at SNR exp(logsnr), in the dtype and on the device of ``like``."""
        at = min(max(logsnr, -LIMIT), LIMIT)
        place = (at + LIMIT) / (2 * LIMIT)
        while (cell := self.cells[-1])[0] and not self._inside(cell, place):
            self.cells.pop()
        while self.cells[-1][0] < DEPTH:
            level, index, left, right = self.cells[-1]
            middle = self._bridge(level, index, left, right, (index + 0.5) / 2**level)
            if place < (index + 0.5) / 2**level:
                self.cells.append((level + 1, 2 * index, left, middle))
            else:
                self.cells.append((level + 1, 2 * index + 1, middle, right))
        return self._bridge(*self.cells[-1], place)

    def normal(self, start: float, end: float) -> Tensor:
        """(W(c') - W(c)) / sqrt(c' - c) for two log-SNRs, start < end: standard normal."""
        first, last = (min(max(v, -LIMIT), LIMIT) for v in (start, end))
        before = 0.0 if first == -LIMIT else math.exp(first)
        return (self(end) - self(start)) / math.sqrt(math.exp(last) - before)

    def _bridge(self, level: int, index: int, left: Tensor, right: Tensor, place: float) -> Tensor:
        """W at a place of a cell; the noise is the cell's own."""
        a, b, c = _snr(index / 2**level), _snr((index + 1) / 2**level), _snr(place)
        mean = torch.lerp(left, right, (c - a) / (b - a))
        return mean.add_(self._draw(level, index), alpha=math.sqrt((c - a) * (b - c) / (b - a)))

    def _draw(self, level: int, index: int) -> Tensor:
        keys = fold(self.seed, self.samples, STREAM, level, index)
        return normal(keys, self.like.shape[1:], self.like.dtype).to(self.like.device)

    @staticmethod
    def _inside(cell: tuple[int, int, Tensor, Tensor], place: float) -> bool:
        level, index, _, _ = cell
        return index <= place * 2**level < index + 1


def _snr(place: float) -> float:
    return 0.0 if place <= 0 else math.exp((2 * min(place, 1.0) - 1) * LIMIT)


def brownian_noise(table: Plan, path: GaussianPath, seed: int, first: int) -> Callable[[int, Tensor], Tensor]:
    """The noise of the stages of a plan as increments of one Brownian path; UserError where it is not made of them."""
    clocks = [table.grid[0], *(stage.t for stage in table.stages)]
    since: dict[int, float] = {}
    for i, stage in enumerate(table.stages, start=1):
        if stage.noise:
            before = [t for t in clocks[:i] if t <= stage.t]
            since[i] = min(clocks[:i])
            if before:
                raise UserError("The noise of this solver is not that of one reverse SDE, so it has no Brownian path: "
                                "take ancestral, euler_maruyama, dpmpp_2m_sde, sa_solver or er_sde_3.")
    paths: list[Brownian] = []

    def noise(stage: int, like: Tensor) -> Tensor:
        if not paths:
            paths.append(Brownian(like, seed, first))
        start, end = path.logsnr(torch.tensor([since[stage], clocks[stage]], dtype=torch.float64)).tolist()
        return paths[0].normal(start, end)

    return noise
