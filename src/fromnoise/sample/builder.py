"""Writing down a plan: targets are folded into the states and predictions they are made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from fromnoise.sample.bases import Basis
from fromnoise.sample.plan import Plan, Stage
from fromnoise.sample.weights import Point


class Builder:
    """The stages written so far.  State 0 is the start; ``add`` returns the index of the new state."""

    def __init__(self, grid: Sequence[Point], evaluate_start: bool = True):
        self.grid, self.stages, self.points = grid, [], [grid[0]]
        self.evaluate_start = evaluate_start

    def add(self, at: Point, states: dict[int, float], targets: dict[int, float], basis: Basis | None = None, *,
            noise: float = 0.0, evaluate: bool = True, step: int | None = None) -> int:
        """A state at ``at``: sum of ``states``, and of the ``targets`` F of a basis (x0 itself without one)."""
        x, d = defaultdict(float, states), defaultdict(float)
        for j, weight in targets.items():
            point = self.points[j]
            a, b = (0.0, 1.0) if basis is None else basis.affine(point.alpha, point.sigma)
            x[j] += weight * a
            d[j] += weight * b
        self.stages.append(Stage(at.t, _terms(x), _terms(d), noise, evaluate, step))
        self.points.append(at)
        return len(self.stages)

    def plan(self) -> Plan:
        """The plan; the last state is never evaluated."""
        last = self.stages[-1]
        stages = (*self.stages[:-1], Stage(last.t, last.states, last.predictions, last.noise, False, last.step))
        return Plan(tuple(p.t for p in self.grid), self.grid[0].sigma, stages, self.evaluate_start)


def _terms(weights: dict[int, float]) -> tuple[tuple[int, float], ...]:
    return tuple((j, w) for j, w in sorted(weights.items()) if w != 0)
