"""One-step solvers with several evaluations: Runge-Kutta rules in the coordinates of a basis.

With y = x / S the ODE is dy/dm = F, and a rule with nodes c and weights a, b (Butcher's table) is

    y_i = y + dm sum_j a_ij F_j   at   m + c_i dm,          y' = y + dm sum_j b_j F_j

Exponential rules (DPM-Solver-2 and -3, DPM-Solver++ 2S) place their nodes evenly in log-SNR instead, and weigh
the targets by integrals of the polynomial through them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from fromnoise.process import GaussianPath
from fromnoise.sample.bases import Basis, Target
from fromnoise.sample.builder import Builder
from fromnoise.sample.plan import Plan, whole_steps
from fromnoise.sample.weights import Integrator, Point, points

Row = tuple[float, ...]


@dataclass(frozen=True)
class Tableau:
    """Butcher's table of an explicit rule."""

    nodes: Row
    stages: tuple[Row, ...]
    weights: Row


EULER = Tableau((0.0,), ((),), (1.0,))
HEUN = Tableau((0.0, 1.0), ((), (1.0,)), (0.5, 0.5))
MIDPOINT = Tableau((0.0, 0.5), ((), (0.5,)), (0.0, 1.0))
KUTTA3 = Tableau((0.0, 0.5, 1.0), ((), (0.5,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6))
CIRCLE = Basis("v")
RK4 = Tableau((0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))


@dataclass(frozen=True)
class RungeKutta:
    """A table in a basis.  The last step, to t = 0, is one evaluation: its x0 is returned."""

    table: Tableau
    target: Target = "velocity"
    data_std: float = 1.0

    @property
    def multiple(self) -> int:
        return len(self.table.nodes)

    def steps(self, nfe: int) -> int | None:
        return whole_steps(nfe, self.multiple)

    def plan(self, path: GaussianPath, times: torch.Tensor) -> Plan:
        grid = points(path, times)
        write, now = Builder(grid), 0
        for n, (start, end) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
            now = table_step(write, path, now, start, end, n + 1, self.table, Basis(self.target, self.data_std))
        return write.plan()


@dataclass(frozen=True)
class Exponential:
    """DPM-Solver of order 2 or 3 (target eps; Lu et al. 2022a) and DPM-Solver++ 2S (target x0; Lu et al. 2022b).

    nodes: where in a step, of its log-SNR, the other evaluations are.  The target is taken for the polynomial
    through all of them, integrated exactly; of second order with ``weights`` = short by the rule of the paper,
    F + (F_1 - F) / (2 r).
    """

    target: Target
    nodes: Row
    weights: Literal["exact", "short"] = "exact"

    @property
    def multiple(self) -> int:
        return len(self.nodes) + 1

    def steps(self, nfe: int) -> int | None:
        return whole_steps(nfe, self.multiple)

    def plan(self, path: GaussianPath, times: torch.Tensor) -> Plan:
        grid = points(path, times)
        inner = Integrator(path, Basis(self.target), "logsnr")
        write, now = Builder(grid), 0
        for n, (start, end) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
            if end.sigma == 0 or start.alpha == 0:  # where log-SNR is infinite
                now = table_step(write, path, now, start, end, n + 1, MIDPOINT if self.multiple == 2 else KUTTA3)
                continue
            seen = [now]
            for r in self.nodes:
                at = at_q(path, start.q + r * (end.q - start.q))
                seen.append(self._add(write, inner, now, start, at, seen))
            now = self._add(write, inner, now, start, end, seen, n + 1)
        return write.plan()

    def _add(self, write: Builder, inner: Integrator, now: int, start: Point, end: Point, seen: list[int],
             step: int | None = None) -> int:
        nodes = [write.points[j] for j in seen]
        if self.weights == "short" and len(nodes) == 2:
            total, r = inner.total(start, end), (nodes[1].q - start.q) / (end.q - start.q)
            weights = [total - total / (2 * r), total / (2 * r)]
        else:
            weights = inner.weights(start, end, nodes)
        targets = dict(zip(seen, weights, strict=True))
        return write.add(end, {now: inner.keep(start, end)}, targets, inner.basis, step=step)


def _stage(write: Builder, basis: Basis, now: int, start: Point, at: Point, seen: list[int], weights: list[float],
           step: int | None = None, evaluate: bool = True) -> int:
    """S_i (y + sum_j weights_j F_j)."""
    scale = [float(basis.scale(*torch.tensor([p.alpha, p.sigma], dtype=torch.float64))) for p in (start, at)]
    targets = {j: scale[1] * w for j, w in zip(seen, weights, strict=False) if w != 0}
    return write.add(at, {now: scale[1] / scale[0]}, targets, basis, evaluate=evaluate, step=step)


def table_step(write: Builder, path: GaussianPath, now: int, start: Point, end: Point, step: int | None,
               table: Tableau, basis: Basis = CIRCLE, evaluate: bool = True) -> int:
    """One step of a table: DDIM to t = 0, and from pure noise, where eps has no coordinates, on the circle.

    evaluate: whether the new state is where the next step starts from.
    """
    if end.sigma == 0:
        inner = Integrator(path, Basis("x0"))
        return write.add(end, {now: inner.keep(start, end)}, {now: inner.total(start, end)}, step=step)
    if start.alpha == 0 and basis.target in ("eps", "x0"):
        basis = Basis("v")
    m = basis.measure(torch.tensor([start.q, end.q], dtype=torch.float64))
    length, seen = float(m[1] - m[0]), [now]
    for c, row in zip(table.nodes[1:], table.stages[1:], strict=True):
        at = end if c == 1 else _at_measure(path, basis, float(m[0]) + c * length)
        seen.append(_stage(write, basis, now, start, at, seen, [a * length for a in row]))
    return _stage(write, basis, now, start, end, seen, [b * length for b in table.weights], step, evaluate)


def heun_step(write: Builder, path: GaussianPath, now: int, start: Point, end: Point, step: int | None,
              evaluate: bool = True) -> int:
    """EDM's step (Karras et al. 2022, alg. 1): the trapezoidal rule on d(x/alpha)/dr = eps."""
    return table_step(write, path, now, start, end, step, HEUN, Basis("eps"), evaluate)


def at_q(path: GaussianPath, q: float) -> Point:
    """The point of a path at which log(sigma / alpha) is q."""
    return points(path, path.time(torch.tensor([-2 * q], dtype=torch.float64)))[0]


def _at_measure(path: GaussianPath, basis: Basis, m: float) -> Point:
    """The point of a path at which the measure is m."""
    value = torch.tensor(m, dtype=torch.float64)
    match basis.target:
        case "x0":
            q = -value.log()
        case "eps":
            q = value.log()
        case "v":
            q = (value.tan() * basis.data_std).log()
        case "velocity":
            q = torch.logit(value)
    return at_q(path, float(q))
