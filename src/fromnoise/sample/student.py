"""What tuning learns: a tuned solver as tensors, for all samples alike or for each sample its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fromnoise.process import GaussianPath
from fromnoise.sample.solvers import Solver
from fromnoise.sample.teleport import Gaussian
from fromnoise.sample.tuned import Tuned, folded, follow, starter

HIGHEST = math.log(1e4)  # log(sigma / alpha) below which times are learned; noise is all there is above it


@dataclass
class Student:
    """Log of the falls of q = log(sigma / alpha) from time to time, and the weights.

    A last axis ``[B]`` on falls, table or both gives each sample its own.
    """

    falls: Tensor  # [n] after a jump, [n - 1] after the path's start
    table: Tensor  # [n, 1 + n]: row i - 1 holds e_i, w_i0, ..., w_i,i-1, and zeros
    law: Gaussian | None
    name: str = ""

    def values(self, weights: bool = True) -> Tensor:
        """``[P]``: all that is learned, or without the weights the falls alone."""
        return torch.cat([self.falls, self.table[self._used]]) if weights else self.falls

    def moved(self, values: Tensor) -> Student:
        """The same with other ``values()`` ``[P]`` or ``[P, B]``."""
        count = len(self.falls)
        if len(values) == count:
            return replace(self, falls=values)
        zeros = values.new_zeros(*self.table.shape, *values.shape[1:])
        return replace(self, falls=values[:count], table=zeros.index_put(self._used, values[count:]))

    @property
    def _used(self) -> tuple[Tensor, ...]:
        return tuple(torch.tril_indices(len(self.table), 1 + len(self.table), 1))

    def times(self, path: GaussianPath) -> Tensor:
        """``[n + 1]`` or ``[n + 1, B]``."""
        q = top(path) - self.falls.exp().cumsum(0)
        t = path.time(-2 * q.detach())
        t = t + (q - q.detach()) * (-2 / path.logsnr_dot(t))  # the slope of the inverse, on any path
        first, last = t.new_ones(1, *t.shape[1:]), t.new_zeros(1, *t.shape[1:])
        return torch.cat([t, last] if self.law else [first, t, last])

    def end(self, path: GaussianPath, denoise: Callable[[Tensor, Tensor], Tensor], noise: Tensor) -> Tensor:
        """End points."""
        times = self.times(path)
        jump = starter(self.law, path, times[0])
        x = jump(noise) if jump else float(path.sigma(torch.ones((), dtype=torch.float64))) * noise
        return follow(path, times, self.table, denoise, x)

    def result(self, path: GaussianPath, **facts: Any) -> Tuned:
        """As data."""
        rows = tuple(tuple(row[: i + 2]) for i, row in enumerate(self.table.tolist()))
        times = tuple(self.times(path).tolist())
        return Tuned(path=path, grid=times, table=rows, start=self.law, **facts)  # type: ignore[arg-type]


def top(path: GaussianPath) -> float:
    """q of the path's start, or HIGHEST where that is lower."""
    return min(float(-path.logsnr(torch.ones((), dtype=torch.float64)) / 2), HIGHEST)


def fixed(solver: Solver, times: Tensor, path: GaussianPath, law: Gaussian | None, name: str) -> Student:
    """A solver on a grid ``times``, of which after a jump the first step is left out."""
    times, table = folded(solver.plan(path, times[1:] if law else times), path)
    q = -path.logsnr(times[:-1] if law else times[1:-1]) / 2
    q = torch.minimum(q, top(path) - 1e-3 * torch.arange(1, len(q) + 1, dtype=torch.float64))
    falls = -torch.diff(q, prepend=q.new_tensor([top(path)]))
    return Student(falls.log(), table, law, name + (" after a Gaussian jump" if law else ""))
