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

import numpy as np
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
    """W of the samples ``first``, ``first + 1``, ... ``[B, ...]``, at log-SNRs ``[]`` or one for each ``[B]``.

    The draws of the intervals that were last asked for are remembered (as many samples as ``DEPTH``), so that a query
    makes those alone by which it differs from the one before.
    """

    def __init__(self, like: Tensor, seed: int, first: int = 0):
        self.seed, self.samples, self.shape = seed, np.arange(first, first + len(like)), like.shape[1:]
        self.dtype, self.device = torch.promote_types(like.dtype, torch.float32), like.device
        self.drawn: dict[int, tuple[np.ndarray, Tensor]] = {}  # by level: intervals [B], their noise

    def __call__(self, logsnr: Tensor | float) -> Tensor:
        """W at SNR exp(logsnr), in at least float32."""
        place = (np.clip(np.asarray(logsnr, dtype=np.float64), -LIMIT, LIMIT) + LIMIT) / (2 * LIMIT)
        place = np.broadcast_to(place, self.samples.shape)
        right = self._noise(-1, np.zeros_like(self.samples)) * math.exp(LIMIT / 2)
        left = torch.zeros_like(right)  # the left end of all stands for SNR 0
        for level in range(DEPTH + 1):
            index = np.minimum(np.floor(place * 2**level), 2**level - 1).astype(np.int64)
            at = (index + 0.5) / 2**level if level < DEPTH else place
            a, b, c = (_snr(p) for p in (index / 2**level, (index + 1) / 2**level, at))
            share, std = self._column((c - a) / (b - a)), self._column(np.sqrt((c - a) * (b - c) / (b - a)))
            middle = torch.lerp(left, right, share) + std * self._noise(level, index)
            upper = self._column(place >= at) > 0
            left, right = torch.where(upper, middle, left), torch.where(upper, right, middle)
        return middle

    def normal(self, start: Tensor | float, end: Tensor | float) -> Tensor:
        """(W(c') - W(c)) / sqrt(c' - c), standard normal, for log-SNRs start < end; 0 where they are equal."""
        before = self(start)
        change = self(end) - before
        c, after = (_snr((np.clip(np.asarray(v, dtype=np.float64), -LIMIT, LIMIT) + LIMIT) / (2 * LIMIT))
                    for v in (start, end))
        length = np.sqrt(np.broadcast_to(after - c, self.samples.shape))
        return change / self._column(np.where(length > 0, length, 1.0))

    def _noise(self, level: int, index: np.ndarray) -> Tensor:
        """The noise of an interval of each sample, drawn only where it is not the last one."""
        known = self.drawn.get(level)
        new = np.ones(len(index), dtype=bool) if known is None else known[0] != index
        if new.any():
            keys = fold(self.seed, self.samples[new], STREAM, level, index[new])
            fresh = normal(keys, self.shape, self.dtype).to(self.device)
            if known is not None and not new.all():
                fresh = known[1].index_copy(0, torch.from_numpy(np.flatnonzero(new)).to(self.device), fresh)
            self.drawn[level] = index, fresh
        return self.drawn[level][1]

    def _column(self, values: np.ndarray) -> Tensor:
        """Numbers ``[B]`` that broadcast against samples."""
        column = torch.from_numpy(values.astype(np.float64)).to(self.device, self.dtype)
        return column.reshape(-1, *[1] * len(self.shape))


def _snr(place: np.ndarray) -> np.ndarray:
    """SNR at a place of [0, 1]; 0 at its left end."""
    return np.where(place <= 0, 0.0, np.exp((2 * place - 1) * LIMIT))


def brownian_noise(table: Plan, path: GaussianPath, seed: int, first: int) -> Callable[[int, Tensor], Tensor]:
    """The noise of the stages of a plan as increments of one Brownian path; UserError where it is not made of them."""
    clocks = [table.grid[0], *(stage.t for stage in table.stages)]
    since: dict[int, float] = {}
    for i, stage in enumerate(table.stages, start=1):
        if stage.noise:
            since[i] = min((clocks[j] for j, _ in stage.states), default=min(clocks[:i]))
            if since[i] <= stage.t:
                raise UserError("The noise of this solver is not that of one reverse SDE, so it has no Brownian path: "
                                "take ancestral, euler_maruyama, dpmpp_2m_sde, sa_solver or er_sde_3.")
    paths: list[Brownian] = []

    def noise(stage: int, like: Tensor) -> Tensor:
        if not paths:
            paths.append(Brownian(like, seed, first))
        start, end = path.logsnr(torch.tensor([since[stage], clocks[stage]], dtype=torch.float64)).tolist()
        return paths[0].normal(start, end).to(like)

    return noise
