"""A solver as a table: every state is a weighted sum of earlier states, earlier predictions and fresh noise.

    x_i = sum_j  a_ij x_j  +  sum_j  b_ij D_j  +  s_i z_i,          D_j = denoise(x_j, t_j)

Euler, Runge-Kutta, multistep, predictor-corrector and SDE solvers differ in nothing but the numbers, which
are known before the first evaluation.  So a solver is a function of (path, grid) that returns this table,
one loop runs all of them, and a step costs as many operations as it has numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Protocol

import torch
from torch import Tensor
from typing_extensions import TypeVar

from fromnoise.process import GaussianPath
from fromnoise.types import UserError

Predict = Callable[[Tensor, Tensor], Tensor]  # (x, t) -> x0
Noise = Callable[[int, Tensor], Tensor]  # (stage, like) -> standard normal noise
Number = float | Tensor  # a tensor where frames have clocks of their own: it broadcasts against a state
N = TypeVar("N", bound=Number, covariant=True, default=float)
Weights = tuple[tuple[int, N], ...]
ROUNDING = 1e-14


@dataclass(frozen=True)
class Stage(Generic[N]):
    """One new state.

    t: its time;  states, predictions: (index, weight) of what it is made of;  noise: standard deviation of the
    fresh noise in it;  evaluate: whether the denoiser is asked there;  step: which grid point it is the final
    state of, or None for a state on the way;  still: where frames have clocks of their own, those that are held.
    """

    t: N
    states: Weights[N]
    predictions: Weights[N] = ()
    noise: N | float = 0.0
    evaluate: bool = True
    step: int | None = None
    still: Tensor | None = None

    @property
    def noisy(self) -> bool:
        return isinstance(self.noise, Tensor) or self.noise > 0


@dataclass(frozen=True)
class Plan(Generic[N]):
    """A start and the stages after it; state 0 is ``start_std`` times standard normal noise at ``grid[0]``."""

    grid: tuple[N, ...]
    start_std: N
    stages: tuple[Stage[N], ...]
    evaluate_start: bool = True
    jump: Callable[[Tensor], Tensor] | None = None  # from noise to state 0, where a factor does not say it

    def begin(self, noise: Tensor) -> Tensor:
        """State 0."""
        return (self.start_std * noise).to(noise.dtype) if self.jump is None else self.jump(noise)

    @property
    def nfe(self) -> int:
        """Evaluations of the denoiser."""
        return self.evaluate_start + sum(stage.evaluate for stage in self.stages)

    @property
    def stochastic(self) -> bool:
        return any(stage.noisy for stage in self.stages)

    @cached_property
    def clocks(self) -> list[Tensor]:
        """What the denoiser is told at each state, in float64 on the CPU; made once."""
        with torch.inference_mode(False):  # a plan outlives the call that made it, and a later one may want gradients
            return [torch.as_tensor(t, dtype=torch.float64, device="cpu")
                    for t in (self.grid[0], *(stage.t for stage in self.stages))]

    @cached_property
    def last_use(self) -> list[list[tuple[str, int]]]:
        """For each stage, the states and predictions that are not needed after it."""
        last: dict[tuple[str, int], int] = {}
        for i, stage in enumerate(self.stages):
            last |= {("x", j): i for j, _ in stage.states} | {("d", j): i for j, _ in stage.predictions}
        done: list[list[tuple[str, int]]] = [[] for _ in self.stages]
        for name, i in last.items():
            done[i].append(name)
        return done


class Table(Protocol):
    """A solver that is a function from a path and a grid of falling times ``[steps + 1]`` to a plan."""

    def plan(self, path: GaussianPath, times: Tensor) -> Plan: ...


def whole_steps(nfe: int, multiple: int) -> int | None:
    """Steps that spend exactly ``nfe`` evaluations, ``multiple`` a step and one in the last; None where none do."""
    whole, rest = divmod(nfe - 1, multiple)
    return whole + 1 if rest == 0 else None


Watch = Callable[[Stage[Number], Tensor, Tensor | None], None]  # (stage, its x, the newest prediction that led there)


def run(plan: Plan[Number], denoise: Predict, x: Tensor, noise: Noise | None = None,
        watch: Watch | None = None) -> Tensor:
    """The last state, from ``x`` = state 0.

    A clock is given to the denoiser in float64 on the CPU, so nothing here waits for a device: a scalar, or
    ``[1, T]`` or ``[B, T]`` where frames have clocks of their own.
    """
    held: dict[tuple[str, int], Tensor] = {("x", 0): x}
    newest = None
    if plan.evaluate_start:
        newest = held["d", 0] = ask(denoise, x, plan.clocks[0])
    for i, (stage, done) in enumerate(zip(plan.stages, plan.last_use, strict=True), start=1):
        before = x
        x = combine([(held["x", j], w) for j, w in stage.states] + [(held["d", j], w) for j, w in stage.predictions])
        if stage.noisy:
            if noise is None:
                raise ValueError("this plan needs noise")
            add(x, noise(i, x), stage.noise)
        if stage.still is not None:  # whatever the denoiser says there
            x = torch.where(stage.still, before, x)
        for name in done:
            held.pop(name, None)
        held["x", i] = x
        if watch is not None:
            watch(stage, x, newest)
        if stage.evaluate:
            newest = held["d", i] = ask(denoise, x, plan.clocks[i])
    return x


def ask(denoise: Predict, x: Tensor, t: Tensor) -> Tensor:
    """x0 ``[B, ...]``.  UserError for an answer of another shape, which sums might take for a right one."""
    x0 = denoise(x, t)
    if x0.shape != x.shape:
        raise UserError(f"A denoiser gives x0 in the shape of x, {list(x.shape)} (got {list(x0.shape)}).")
    return x0


def combine(terms: Sequence[tuple[Tensor, Number]]) -> Tensor:
    """sum_k w_k y_k, in as many sample-sized operations as there are terms, or one where it lies between two."""
    (first, weight), *rest = terms
    if len(rest) == 1:
        other, w = rest[0]
        numbers = isinstance(weight, float) and isinstance(w, float) and first.dtype == other.dtype
        if numbers and abs(weight + w - 1) < ROUNDING:
            return torch.lerp(other, first, weight)  # Euler on the flow path
    total = (first * weight).to(first.dtype)
    for value, w in rest:
        add(total, value, w)
    return total


def add(total: Tensor, value: Tensor, weight: Number) -> None:
    """total += weight value, in place."""
    if isinstance(weight, Tensor):
        total.addcmul_(value, weight)
    else:
        total.add_(value, alpha=weight)
