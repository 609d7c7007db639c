"""Solvers that choose their own steps by an estimate of their error.

Both work on the circle, on which all paths are one:  with theta = atan(sigma/alpha),

    y = x / sqrt(alpha^2 + sigma^2),       dy/dtheta = v = (cos theta y - x0) / sin theta        (the ODE)
    dy = (y/2 + score) ds + dW,            s = -log(1 + (sigma/alpha)^2) rising                  (the reverse SDE)

the ODE as in Salimans and Ho 2022, the SDE that of the variance-preserving path on the clock of its own integral of
beta (Song et al. 2021b, eq. 11), B = log(1 + (sigma/alpha)^2) = softplus(-lambda).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.process import expand
from fromnoise.sample.brownian import Brownian
from fromnoise.sample.procedure import Procedure, Task
from fromnoise.sample.progress import Progress, SolveInfo
from fromnoise.types import UserError

# Dormand and Prince's 5(4) pair (1980): nodes, rows, and the difference of its two rules, the last row being the fifth.
NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
ROWS = (
    (), (1 / 5,), (3 / 40, 9 / 40), (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
DIFFERENCE = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


@dataclass(frozen=True)
class RK45(Procedure):
    """The probability-flow ODE by Dormand and Prince's pair with error control (Song et al. 2021b, appendix D.4).

    rtol, atol: of x over sqrt(alpha^2 + sigma^2), in RMS over the whole batch, which shares its steps;  low: the
    sigma/alpha at which x0, as it is predicted there, is returned.
    """

    rtol: float = 1e-4
    atol: float = 1e-4
    low: float = 0.002
    controls = "rtol and atol"

    def __post_init__(self):
        _positive(rtol=self.rtol, atol=self.atol, low=self.low)

    def run(self, task: Task) -> tuple[Tensor, SolveInfo]:
        circle = _Circle(task)
        theta, y = circle.start, circle.first()
        end = min(math.atan(self.low), theta / 2)
        h, slope = (theta - end) / 20, circle.slope(theta, y)
        visited, rejected = [1.0], 0
        while theta > end:
            h = min(h, theta - end)
            after, slopes = self._stages(circle, theta, y, slope, h)
            error = self._error(y, after, slopes, h)  # where it is not a number, the step is not kept either
            if error <= 1:
                last = theta - h <= end * (1 + 1e-9)
                theta, y, slope = (end if last else theta - h), after, slopes[-1]
                x0 = math.cos(theta) * y - math.sin(theta) * slope  # at no cost: the last stage was made here
                visited.append(0.0 if last else circle.time(theta))
                circle.tell(visited, x0 if last else y * circle.length(theta), x0)
            else:
                rejected += 1
            h *= min(5.0, max(0.2, 0.9 * max(error, 1e-10) ** -0.2))
            if h < 1e-6 * theta:
                raise _no_step(task, self.rtol, self.atol)
        return x0.to(task.noise.dtype), SolveInfo(task.name, tuple(visited), circle.nfe, rejected)

    def _stages(self, circle: _Circle, theta: float, y: Tensor, slope: Tensor, h: float) -> tuple[Tensor, list[Tensor]]:
        """(y a step further, the slopes of all stages, of which the last is the first of the next step)."""
        slopes, at = [slope], y
        for c, row in zip(NODES[1:], ROWS[1:], strict=True):
            at = y.clone()
            for a, k in zip(row, slopes, strict=True):
                at.add_(k, alpha=-h * a)
            slopes.append(circle.slope(theta - c * h, at))
        return at, slopes

    def _error(self, y: Tensor, after: Tensor, slopes: list[Tensor], h: float) -> float:
        """RMS of the estimated error over what is tolerated; 1 is as much as may be."""
        difference = sum(h * d * k for d, k in zip(DIFFERENCE, slopes, strict=True))
        tolerated = self.atol + self.rtol * torch.maximum(y.abs(), after.abs())
        return float((difference / tolerated).square().mean().sqrt())


class _Circle:
    """A denoiser seen on the circle; counts what is asked of it."""

    def __init__(self, task: Task):
        self.task, self.nfe = task, 0
        alpha, sigma = (float(f(torch.ones((), dtype=torch.float64))) for f in (task.path.alpha, task.path.sigma))
        self.start, self.start_std = math.atan2(sigma, alpha), sigma / math.hypot(alpha, sigma)

    def first(self) -> Tensor:
        return self.start_std * self.task.noise.to(self.task.dtype)

    def time(self, theta: float) -> float:
        if theta >= self.start:
            return 1.0
        return float(self.task.path.time(torch.tensor(-2 * math.log(math.tan(theta)), dtype=torch.float64)))

    def length(self, theta: float) -> float:
        """sqrt(alpha^2 + sigma^2)."""
        t = torch.tensor(self.time(theta), dtype=torch.float64)
        return float(torch.hypot(self.task.path.alpha(t), self.task.path.sigma(t)))

    def slope(self, theta: float, y: Tensor) -> Tensor:
        """dy/dtheta."""
        self.nfe += 1
        x0 = self.task.predict(y * self.length(theta), torch.tensor(self.time(theta), dtype=torch.float64))
        return (math.cos(theta) * y - x0) / math.sin(theta)

    def tell(self, visited: list[float], x: Tensor, x0: Tensor) -> None:
        if self.task.callback is not None:
            dtype = self.task.noise.dtype
            self.task.callback(Progress(len(visited) - 1, None, visited[-2], visited[-1], x.to(dtype), x0.to(dtype)))


@dataclass(frozen=True)
class AdaptiveSDE(Procedure):
    """The reverse SDE with steps of its own for every sample (Jolicoeur-Martineau et al. 2021, "Gotta go fast").

    Euler-Maruyama and the stochastic improved Euler rule on the same increment of W differ by an estimate of the
    error; the latter is kept (extrapolation).  W is a Brownian path of (seed, sample), so a rejected step does not
    draw again, and no sample depends on its neighbours.

    rtol, atol: tolerances relative to |y| and absolute, atol for data in [-1, 1];  safety, power: the next step is
    h * safety * error^-power;  low: the sigma/alpha at which x0, as it is predicted there, is returned;
    high: the sigma/alpha from which on pure noise is what x is.
    """

    rtol: float = 0.02
    atol: float = 0.0078
    safety: float = 0.9
    power: float = 0.9
    low: float = 0.01
    high: float = 200.0
    controls = "rtol and atol"

    def __post_init__(self):
        _positive(rtol=self.rtol, atol=self.atol, low=self.low, safety=self.safety, power=self.power, high=self.high)

    def run(self, task: Task) -> tuple[Tensor, SolveInfo]:
        walk = _Walk(self, task)
        while bool(walk.going.any()):
            walk.attempt(self)
        x0 = walk.predict(walk.y, walk.clock)
        walk.tell(0.0, x0)
        return x0.to(task.noise.dtype), SolveInfo(task.name, tuple(walk.visited), 2 * walk.attempts + 1,
                                                  int(walk.rejected.max()))


class _Walk:
    """Where every sample is: its clock B, its state y, the step it will try and its Brownian path.

    Samples that have arrived stay in the calls of the network, which may know them by their place in the batch; so
    the evaluations are those of the slowest.
    """

    def __init__(self, rule: AdaptiveSDE, task: Task):
        self.task, self.end, self.attempts = task, math.log1p(rule.low**2), 0
        start = -float(task.path.logsnr(torch.ones((), dtype=torch.float64)))
        start = math.log1p(math.exp(min(start, 2 * math.log(rule.high))))
        count = len(task.noise)
        self.y = self.guess = math.sqrt(-math.expm1(-start)) * task.noise.to(task.dtype)
        self.clock = torch.full((count,), start, dtype=torch.float64)
        self.h = torch.full((count,), start / 10, dtype=torch.float64)
        self.rejected = torch.zeros(count, dtype=torch.long)
        self.brownian = Brownian(self.y, task.seed, task.first)
        self.visited = [float(self.times().max())]

    @property
    def going(self) -> Tensor:
        """Which samples are not there yet ``[B]``."""
        return self.clock > self.end

    def attempt(self, rule: AdaptiveSDE) -> None:
        """One step of every sample, kept where its error is small enough."""
        h = torch.minimum(self.h, self.clock - self.end)
        after = torch.where(self.h >= self.clock - self.end, self.end, self.clock - self.h)
        length, dw = expand(h.to(self.y), self.y), self._increments(after)
        guess = self.y + length * self._drift(self.y, self.clock) + dw
        better = (guess + self.y + length * self._drift(guess, after) + dw) / 2
        tolerated = (rule.rtol * torch.maximum(guess.abs(), self.guess.abs())).clamp(min=rule.atol)
        error = ((guess - better) / tolerated).flatten(1).square().mean(1).sqrt().double().nan_to_num(nan=math.inf)
        kept = error <= 1
        self.rejected += ~kept
        self.attempts += 1
        keep = expand(kept, self.y)
        self.y, self.guess = torch.where(keep, better, self.y), torch.where(keep, guess, self.guess)
        self.clock = torch.where(kept, after, self.clock)
        self.h = h * (rule.safety * error.clamp(min=1e-10) ** -rule.power).clamp(max=10.0)
        if bool((self.h < 1e-7 * self.clock)[self.going].any()):
            raise _no_step(self.task, rule.rtol, rule.atol)
        self.tell(float(self.times().max()), self.x0)

    def predict(self, y: Tensor, clock: Tensor) -> Tensor:
        """x0 of every sample at its own time."""
        t, path = self.times(clock), self.task.path
        self.x0 = self.task.predict(expand(torch.hypot(path.alpha(t), path.sigma(t)).to(y), y) * y, t)
        return self.x0

    def times(self, clock: Tensor | None = None) -> Tensor:
        """t ``[B]``, from B = softplus(-lambda)."""
        return self.task.path.time(-torch.expm1(self.clock if clock is None else clock).log())

    def tell(self, t: float, x0: Tensor) -> None:
        """The callback, once the last sample has moved on; x is then where each of them is."""
        if t == self.visited[-1]:
            return
        self.visited.append(t)
        if self.task.callback is not None:
            times, dtype, path = self.times(), self.task.noise.dtype, self.task.path
            x = expand(torch.hypot(path.alpha(times), path.sigma(times)).to(self.y), self.y) * self.y if t else x0
            self.task.callback(Progress(len(self.visited) - 1, None, self.visited[-2], t, x.to(dtype), x0.to(dtype)))

    def _drift(self, y: Tensor, clock: Tensor) -> Tensor:
        """y/2 + score, with score = (cos theta x0 - y) / sin^2 theta."""
        cos, variance = (expand(f.to(y), y) for f in (torch.exp(-clock / 2), -torch.expm1(-clock)))
        return y / 2 + (cos * self.predict(y, clock) - y) / variance

    def _increments(self, after: Tensor) -> Tensor:
        """sqrt(h) z of each sample's own path, nothing for those that have arrived."""
        z = self.brownian.normal(-torch.expm1(self.clock).log(), -torch.expm1(after).log())
        return expand((self.clock - after).sqrt().to(z), z) * z


def _no_step(task: Task, rtol: float, atol: float) -> UserError:
    return UserError(f"{task.name} finds no step small enough for rtol {rtol:g} and atol {atol:g} in "
                     f"{str(task.dtype)[6:]}: raise them, unless the network's outputs are not finite.")


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise UserError(f"{name} must be greater than 0 (got {value}).")
