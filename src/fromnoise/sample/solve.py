"""From noise to a sample: one loop for every solver, path and guidance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromnoise.config import nearest
from fromnoise.process import GaussianPath
from fromnoise.sample.solvers import SOLVERS, Predict
from fromnoise.types import UserError


@dataclass(frozen=True)
class Progress:
    """What a callback sees after each step: x at ``t_next`` and the x0 that was predicted at ``t``."""

    step: int
    steps: int
    t: float
    t_next: float
    x: Tensor
    x0: Tensor


Callback = Callable[[Progress], None]


@dataclass(frozen=True)
class SolveInfo:
    """How a sample was made: solver, the times visited and the number of network evaluations."""

    solver: str
    grid: tuple[float, ...]
    nfe: int


def time_grid(steps: int, path: GaussianPath, shift: float = 1.0) -> Tensor:
    """``[steps + 1]`` float64 times from 1 to 0, even in t and then shifted towards noise."""
    if steps < 1:
        raise UserError(f"At least 1 step is needed (got {steps}).")
    if shift <= 0:
        raise UserError(f"The grid's shift must be greater than 0 (got {shift}).")
    return path.shift(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift)


@torch.no_grad()
def solve(denoise: Predict, noise: Tensor, *, path: GaussianPath, solver: str = "dpmpp_2m", steps: int = 20,
          shift: float = 1.0, grid: Sequence[float] | Tensor | None = None, callback: Callback | None = None,
          return_info: bool = False) -> Any:
    """x0 from standard normal ``noise`` ``[B, ...]`` along the probability-flow ODE.

    denoise: ``(x, t) -> x0`` with t a scalar tensor;  grid: times from noise to clean, instead of
    ``steps`` and ``shift``;  callback: called after every step with a ``Progress``.
    Returns x0 as ``noise``, or ``(x0, SolveInfo)``.
    """
    if solver not in SOLVERS:
        raise UserError(f'There is no solver "{solver}". {nearest(solver, SOLVERS)}')
    times = time_grid(steps, path, shift) if grid is None else checked_grid(grid)
    chosen = SOLVERS[solver]
    x, history = float(path.sigma(times[0])) * noise, None
    count = len(times) - 1
    for i, (t, t_next) in enumerate(zip(times[:-1], times[1:], strict=True)):
        x, x0, history = chosen.step(denoise, path, x, t, t_next, history)
        if callback is not None:
            callback(Progress(i + 1, count, float(t), float(t_next), x, x0))
    info = SolveInfo(solver, tuple(times.tolist()), chosen.nfe(count))
    return (x, info) if return_info else x


def checked_grid(grid: Sequence[float] | Tensor) -> Tensor:
    """A user's grid as float64; it must fall strictly and stay inside [0, 1]."""
    times = torch.as_tensor(grid, dtype=torch.float64)
    if times.ndim != 1 or len(times) < 2 or not bool((times[1:] < times[:-1]).all()):
        raise UserError("A grid is a list of at least two times that fall strictly, such as [1, 0.5, 0].")
    if float(times[0]) > 1 or float(times[-1]) < 0:
        raise UserError("The times of a grid must lie between 1 (noise) and 0 (clean).")
    return times
