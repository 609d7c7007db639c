"""Exponential multistep solvers: the target is extrapolated from earlier evaluations.

One class, of which DDIM, DPM-Solver++ 2M and 3M, DEIS, iPNDM, LMS, UniPC and SA-Solver are settings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from fromnoise.process import GaussianPath
from fromnoise.sample.bases import Basis, Target, Variable
from fromnoise.sample.builder import Builder
from fromnoise.sample.plan import Plan
from fromnoise.sample.weights import Integrator, Point, points

# Adams and Bashforth's weights for even steps, newest first.
ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


@dataclass(frozen=True)
class Multistep:
    """A linear part, a target, the variable of its polynomial, an order, a corrector and a rule for the end.

    target, data_std, tau, extended: see ``bases``;  order: targets in a step, as soon as there are so many;
    weights: exact integrals of the polynomial (exact), for two targets the shorter forms of DPM-Solver++ 2M and
    UniPC (bh2, bh1), or those of even steps, whatever the steps are (even: PNDM);  corrector: after every
    evaluation but the last the state is made again with it, at no cost (UniC, Zhao et al. 2023);  final: the step
    to t = 0 returns the last x0 (denoise) or extrapolates like any other (extrapolate);  lower_final: no step
    has a higher order than steps that are left.
    """

    order: int = 1
    target: Target = "x0"
    variable: Variable = "logsnr"
    weights: Literal["exact", "bh1", "bh2", "even"] = "exact"
    corrector: bool = False
    final: Literal["denoise", "extrapolate"] = "denoise"
    lower_final: bool = False
    data_std: float = 1.0
    tau: float = 0.0
    extended: bool = False

    multiple = 1  # evaluations a step

    def steps(self, nfe: int) -> int | None:
        """Steps that spend exactly ``nfe`` evaluations, or None."""
        return nfe

    @property
    def basis(self) -> Basis:
        return Basis(self.target, self.data_std, self.tau, self.extended)

    def plan(self, path: GaussianPath, times) -> Plan:
        grid = points(path, times)
        write, integrator = Builder(grid), Integrator(path, self.basis, self.variable)
        seen, now = [0], 0  # states that were evaluated, newest first; the newest state, corrected
        count = len(grid) - 1
        for n, (start, end) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
            inner, order = integrator, min(self.order, count - n) if self.lower_final else self.order
            if self._at_an_end(start, end, integrator):
                inner, order = replace(integrator, basis=Basis("x0", tau=self.tau, extended=self.extended)), 1
            nodes = self._nodes(inner, seen, order, write)
            kept, noise = inner.keep(start, end), inner.basis.noise(start.alpha, start.sigma, end.alpha, end.sigma)
            weights = self._weights(inner, start, end, [write.points[j] for j in nodes])
            targets = dict(zip(nodes, weights, strict=True))
            corrected = self.corrector and n + 1 < count and inner is integrator
            now = guess = write.add(end, {now: kept}, targets, inner.basis, noise=noise,
                                    step=None if corrected else n + 1)
            if corrected:  # the same step with the new target as well; written as what it adds to the guess
                nodes = self._nodes(inner, [guess, *seen], order + 1, write)
                weights = self._corrected(inner, start, end, [write.points[j] for j in nodes])
                change = {j: w - targets.get(j, 0.0) for j, w in zip(nodes, weights, strict=True)}
                now = write.add(end, {guess: 1.0}, change, inner.basis, evaluate=False, step=n + 1)
            seen = [guess, *seen][: self.order]
        return write.plan()

    def _at_an_end(self, start: Point, end: Point, integrator: Integrator) -> bool:
        """Whether a step is one of first order in x0, which is right at both ends."""
        to_clean = end.sigma == 0 and (self.final == "denoise" or not integrator.finite(end))
        return to_clean or (start.alpha == 0 and self.target == "eps")

    def _nodes(self, inner: Integrator, seen: list[int], order: int, write: Builder) -> list[int]:
        """The newest states, at most ``order``, at which the variable of the polynomial is finite."""
        return [j for j in seen[:order] if order > 1 and inner.finite(write.points[j])] or seen[:1]

    def _weights(self, inner: Integrator, start: Point, end: Point, nodes: list[Point]) -> list[float]:
        if len(nodes) == 1:
            return [inner.total(start, end)]
        if self.weights == "even":
            return [inner.total(start, end) * w for w in ADAMS_BASHFORTH[len(nodes) - 1]]
        if self.weights in ("bh1", "bh2") and len(nodes) == 2 and end.sigma > 0:
            # D_n + h / (2 h_previous) (D_n - D_n-1)  (Lu et al. 2022b, alg. 2)
            total, h = inner.total(start, end), start.q - end.q
            ratio = h / (2 * (nodes[1].q - nodes[0].q))
            slope = ratio * (total if self.weights == "bh2" else self._first(end, h))
            return [total + slope, -slope]
        return inner.weights(start, end, nodes)

    def _corrected(self, inner: Integrator, start: Point, end: Point, nodes: list[Point]) -> list[float]:
        if self.weights in ("bh1", "bh2") and len(nodes) == 2:
            total = inner.total(start, end)
            half = (total if self.weights == "bh2" else self._first(end, start.q - end.q)) / 2
            return [half, total - half]
        return inner.weights(start, end, nodes)

    def _first(self, end: Point, h: float) -> float:
        """The total weight to first order in h, which UniPC's bh1 takes in place of it."""
        return end.alpha * (1 + self.tau**2) * h if self.target == "x0" else -end.sigma * h
