"""Solvers of the reverse SDE, and ODE solvers that add noise on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from fromnoise.process import GaussianPath
from fromnoise.sample.builder import Builder
from fromnoise.sample.plan import Plan, whole_steps
from fromnoise.sample.runge_kutta import at_q, heun_step
from fromnoise.sample.weights import Point, points
from fromnoise.types import UserError


@dataclass(frozen=True)
class Ancestral:
    """DDIM with fresh noise (Song et al. 2021a, eq. 16); eta = 1 is DDPM's ancestral sampling, eta = 0 DDIM.

        x' = alpha' x0 + sqrt(sigma'^2 - up^2) eps + up z,      up^2 = eta^2 sigma'^2 (1 - (r'/r)^2),    r = sigma/alpha
    """

    eta: float = 1.0
    multiple = 1

    def steps(self, nfe: int) -> int | None:
        return nfe

    def plan(self, path: GaussianPath, times: torch.Tensor) -> Plan:
        grid = points(path, times)
        write, now = Builder(grid), 0
        for n, (start, end) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
            now = self.add(write, now, start, end, n + 1)
        return write.plan()

    def add(self, write: Builder, now: int, start: Point, end: Point, step: int | None,
            told: int | None = None) -> int:
        """A step from ``now``, with the x0 that was predicted there or at the state ``told``."""
        up = self.eta * end.sigma * math.sqrt(max(0.0, 1 - math.exp(2 * (end.q - start.q)))) if end.sigma else 0.0
        kept = math.sqrt(max(0.0, end.sigma**2 - up**2)) / start.sigma  # of x, through eps = (x - alpha x0) / sigma
        told = now if told is None else told
        return write.add(end, {now: kept}, {told: end.alpha - kept * start.alpha}, noise=up, step=step)


@dataclass(frozen=True)
class AncestralMidpoint:
    """DPM-Solver++ SDE (Lu et al. 2022b, in k-diffusion's single-step form): ancestral steps, the x0 of their middle.

    It is predicted halfway in log-SNR, at a state that an ancestral step of its own has led to.
    """

    eta: float = 1.0
    multiple = 2

    def steps(self, nfe: int) -> int | None:
        return whole_steps(nfe, 2)

    def plan(self, path: GaussianPath, times: torch.Tensor) -> Plan:
        grid, rule = points(path, times), Ancestral(self.eta)
        write, now = Builder(grid), 0
        for n, (start, end) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
            told = now
            if end.sigma:
                told = rule.add(write, now, start, at_q(path, _halfway(start.q, end.q)), None)
            now = rule.add(write, now, start, end, n + 1, told)
        return write.plan()


def _halfway(q: float, q_next: float) -> float:
    """The mean, and from pure noise, where q is infinite, that of the angle atan(sigma / alpha)."""
    if math.isfinite(q):
        return (q + q_next) / 2
    return math.log(math.tan((math.pi / 2 + math.atan(math.exp(q_next))) / 2))


@dataclass(frozen=True)
class EulerMaruyama:
    """The reverse SDE (Song et al. 2021b, eq. 6) on the path's clock: x' = x - dt (f x - g^2 score) + g sqrt(dt) z."""

    multiple = 1

    def steps(self, nfe: int) -> int | None:
        return nfe

    def plan(self, path: GaussianPath, times: torch.Tensor) -> Plan:
        grid = points(path, times)
        drift, squared = path.drift(times).tolist(), path.diffusion_squared(times).tolist()
        write, now = Builder(grid), 0
        for n, (start, end) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
            if end.sigma == 0 or start.alpha < 1e-3:  # the drift is not defined at these ends
                now = Ancestral().add(write, now, start, end, n + 1)
                continue
            dt, pull = start.t - end.t, squared[n] / start.sigma**2
            now = write.add(end, {now: 1 - dt * (drift[n] + pull)}, {now: dt * pull * start.alpha},
                            noise=math.sqrt(squared[n] * dt), step=n + 1)
        return write.plan()


@dataclass(frozen=True)
class PredictorCorrector:
    """Ancestral steps, each followed by a step of Langevin dynamics at the new noise level (Song et al. 2021b, alg. 2).

        x <- x + e score + sqrt(2 e) z,      e = 2 snr^2 sigma^2

    Song et al. measure the norm of the score; its expected value 1 / sigma stands for it here, so that nothing
    waits for the device.
    """

    snr: float = 0.16
    multiple = 2

    def steps(self, nfe: int) -> int | None:
        return whole_steps(nfe, 2)

    def plan(self, path: GaussianPath, times: torch.Tensor) -> Plan:
        grid = points(path, times)
        write, now, share = Builder(grid), 0, 2 * self.snr**2
        for n, (start, end) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
            clean = end.sigma == 0
            now = Ancestral().add(write, now, start, end, n + 1 if clean else None)
            if not clean:
                now = write.add(end, {now: 1 - share}, {now: share * end.alpha},
                                noise=2 * self.snr * end.sigma, step=n + 1)
        return write.plan()


@dataclass(frozen=True)
class Churn:
    """EDM's stochastic sampler (Karras et al. 2022, alg. 2): noise is added before each of Heun's steps.

    churn: S_churn over all steps;  low, high: the sigma/alpha between which it acts;  inflate: S_noise.
    """

    churn: float = 40.0
    low: float = 0.05
    high: float = 50.0
    inflate: float = 1.003
    multiple = 2

    def steps(self, nfe: int) -> int | None:
        return whole_steps(nfe, 2)

    def plan(self, path: GaussianPath, times: torch.Tensor) -> Plan:
        grid = points(path, times)
        gamma = min(self.churn / (len(grid) - 1), math.sqrt(2) - 1)
        top = float(-path.logsnr(torch.ones((), dtype=torch.float64)) / 2)
        raised = [self._raised(path, p, gamma, top) for p in grid[:-1]]
        write, now = Builder(grid, evaluate_start=raised[0] is None), 0
        for n, (start, end) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
            if (up := raised[n]) is not None:
                now, start = self._raise(write, now, start, up), up
            evaluate = n + 2 == len(grid) or raised[n + 1] is None
            now = heun_step(write, path, now, start, end, n + 1, evaluate)
        return write.plan()

    def _raised(self, path: GaussianPath, p: Point, gamma: float, top: float) -> Point | None:
        """Where a step starts from, where that is not the grid's own point."""
        inside = math.log(self.low) <= p.q <= math.log(self.high) and gamma > 0
        q = p.q + math.log1p(gamma)
        return at_q(path, q) if inside and q < top else None

    def _raise(self, write: Builder, now: int, start: Point, up: Point) -> int:
        noise = up.alpha * math.sqrt(math.exp(2 * up.q) - math.exp(2 * start.q))
        return write.add(up, {now: up.alpha / start.alpha}, {}, noise=self.inflate * noise)


@dataclass(frozen=True)
class Restart:
    """Heun's rule that goes back up a stretch of noise levels ``times`` times (Xu et al. 2023).

    low, high: that stretch, in sigma/alpha;  inner: steps in each repetition.
    """

    low: float = 0.06
    high: float = 0.4
    times: int = 2
    inner: int = 3
    multiple = 2

    def steps(self, nfe: int) -> int | None:
        whole = whole_steps(nfe - self.times * self.inner * 2, 2)
        return whole if whole is not None and whole >= 3 else None

    def plan(self, path: GaussianPath, times: torch.Tensor) -> Plan:
        grid = points(path, times)
        write, now, left = Builder(grid), 0, True
        for n, (start, end) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
            here = left and n + 2 < len(grid) and grid[n + 2].q < math.log(self.low)
            now = heun_step(write, path, now, start, end, n + 1, evaluate=not here)
            if here:
                left = False
                now = self._again(write, path, now, end)
        if left:
            raise UserError(f"Restart goes back up from sigma/alpha = {self.low}, which this grid passes in its first "
                            "step: take more steps.")
        return write.plan()

    def _again(self, write: Builder, path: GaussianPath, now: int, low: Point) -> int:
        """Up to ``high`` and down again, in even steps of r^(1/7)."""
        ends = [math.exp(low.q), max(self.high, 1.5 * math.exp(low.q))]
        edges = torch.linspace(ends[1] ** (1 / 7), ends[0] ** (1 / 7), self.inner + 1, dtype=torch.float64) ** 7
        down = [at_q(path, q) for q in edges.log().tolist()[:-1]] + [low]
        for k in range(self.times):
            high = down[0]
            noise = high.alpha * math.sqrt(ends[1] ** 2 - ends[0] ** 2)
            now = write.add(high, {now: high.alpha / low.alpha}, {}, noise=noise)
            for i, (start, end) in enumerate(zip(down[:-1], down[1:], strict=True)):
                more = i + 1 < self.inner or k + 1 == self.times
                now = heun_step(write, path, now, start, end, None, evaluate=more)
        return now

