"""Paths explained by synthesis: positions that were read, and the path between walls that comes nearest to them.

Each coordinate of each object is fitted by itself, with a beginning, a velocity, an acceleration, a restitution and a
slack of the walls; the bounces follow from these (``motion``).  Least squares by Levenberg and Marquardt, from the best
few of many beginnings, since every further bounce is another valley.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fromnoise.data.universe.motion import Paths, paths

READING = 0.003  # sides by which a reading is taken to be off, a tenth of a pixel of 32
POSITION, VELOCITY, ACCELERATION, RESTITUTION, SLACK = range(5)
# What is known before anything is seen, as mean and standard deviation: hardly anything, but that walls are walls.
MEAN = np.array([0.5, 0.0, 0.0, 0.8, 0.0])
SPREAD = np.array([10.0, 10.0, 10.0, 0.5, 0.02])
LEAST, MOST = np.array([-1.0, -9.0, -9.0, 0.05, -0.1]), np.array([9.0, 9.0, 9.0, 1.6, 0.1])
NUDGE = np.array([1e-5, 1e-5, 1e-4, 1e-4, 1e-5])  # for derivatives
WINDOWS = (0.25, 0.5)  # seconds over which the first velocity is guessed
GUESSES = (0.0, 0.3, 0.5, 0.75, 1.0, 1.3, 1.6, 2.0, 2.5, 3.0, 3.5, 4.0)  # accelerations, in sides / s^2
SHARES = (0.5, 1.0)  # of the clip, through which a parabola is laid
REBOUNDS = (0.5, 0.65, 0.8, 0.9, 1.0)  # restitutions
VALLEYS = 5  # of the beginnings that are followed down
STEPS = 15
LOW = 1e-3  # sides: rebounds below that height are not seen
BOUNCES = 40  # of a path at most
HEAVY = 0.15  # sides / s^2: weaker accelerations are none
WORTH = 10.0  # by how much an acceleration must raise the logarithm of the likelihood, twice
CHUNK = 4096  # paths at once, for memory


@dataclass(frozen=True)
class PathFit:
    """How M coordinates are best explained.

    velocity, acceleration, restitution: ``[M]``, the first at time 0;  acceleration_error, restitution_error: ``[M]``
    their standard errors, were reading errors independent and as large as the residuals (a restitution without a
    bounce is not known, whatever this says);  residual: ``[M, T]``, 0 where nothing was seen;  paths: ``[M]``.
    """

    velocity: np.ndarray
    acceleration: np.ndarray
    restitution: np.ndarray
    acceleration_error: np.ndarray
    restitution_error: np.ndarray
    residual: np.ndarray
    paths: Paths


@dataclass(frozen=True)
class _Seen:
    """M coordinates ``value [M, T]`` at ``times [T]`` where ``seen [M, T]``, between walls ``[M]``."""

    times: np.ndarray
    value: np.ndarray
    seen: np.ndarray
    low: np.ndarray
    high: np.ndarray
    spread: np.ndarray

    def of(self, rows: np.ndarray) -> _Seen:
        return replace(self, value=self.value[rows], seen=self.seen[rows], low=self.low[rows], high=self.high[rows])

    def paths(self, theta: np.ndarray) -> Paths:
        p, v, a, e, slack = theta.T
        return paths(p, v, a, self.low - slack, self.high + slack, e, self.times[-1], LOW, BOUNCES)

    def misfit(self, theta: np.ndarray) -> np.ndarray:
        """``[M, T + 5]``, of which the squares are summed: what the readings leave over, and what was known before."""
        parts = np.array_split(np.arange(len(theta)), max(1, len(theta) // CHUNK))
        at = np.concatenate([self.of(r).paths(theta[r]).at(self.times) for r in parts])
        over = np.where(self.seen, at - self.value, 0) / READING
        return np.concatenate([over, (theta - MEAN) / self.spread], 1)


def fit_paths(times: np.ndarray, value: np.ndarray, seen: np.ndarray, low: np.ndarray, high: np.ndarray,
              falls: bool) -> PathFit:
    """Fits of coordinates ``value [M, T]`` at ``times [T]``, where ``seen [M, T]`` says so, between walls ``[M]``.

    falls: whether there may be an acceleration, as along y.  It is then 0 unless it is ``HEAVY`` at least and explains
    so much more that it is worth one more number.  Two frames at least must be seen of each.
    """
    given = _Seen(times, value, seen, low, high, np.where(np.arange(5) == ACCELERATION, 1e-6, SPREAD))
    theta = _best(given, ((0.0,), ()))
    if falls:
        free = replace(given, spread=SPREAD)
        other = _best(free, (GUESSES, SHARES))
        count = seen.sum(1)
        without, with_ = (np.square(given.misfit(x)[:, : len(times)]).sum(1) + count for x in (theta, other))
        heavy = (np.abs(other[:, ACCELERATION]) > HEAVY) & (count * np.log(without / with_) > WORTH)
        given, theta = free, np.where(heavy[:, None], other, theta)
    return _explained(given, theta)


def _best(given: _Seen, guesses: tuple[tuple[float, ...], tuple[float, ...]]) -> np.ndarray:
    """The parameters ``[M, 5]`` that leave over least."""
    theta = _beginnings(given, *guesses)
    M, S = theta.shape[:2]
    cost = np.square(given.of(np.arange(M).repeat(S)).misfit(theta.reshape(M * S, 5))).sum(1).reshape(M, S)
    best = np.argsort(cost, 1)[:, :VALLEYS]
    theta = np.take_along_axis(theta, best[..., None], 1)
    V = theta.shape[1]
    theta, cost = _descend(given.of(np.arange(M).repeat(V)), theta.reshape(M * V, 5))
    return theta.reshape(M, V, 5)[np.arange(M), cost.reshape(M, V).argmin(1)]


def _beginnings(given: _Seen, accelerations: tuple[float, ...], shares: tuple[float, ...]) -> np.ndarray:
    """``[M, S, 5]``: what the first frames look like under each acceleration, and parabolas through shares of the clip,
    with each restitution."""
    M, rows = len(given.value), np.arange(len(given.value))
    first = given.seen.argmax(1)
    last = given.seen.shape[1] - 1 - given.seen[:, ::-1].argmax(1)
    t, at, found = given.times[first], given.value[rows, first], []
    for window in WINDOWS:
        later = given.seen & (given.times >= t[:, None] + window)
        second = np.where(later.any(1), later.argmax(1), last)
        s = given.times[second]
        slope = (given.value[rows, second] - at) / np.maximum(s - t, 1e-9)
        for a in accelerations:
            v = slope - a * (s + t) / 2
            found.append((at - v * t - a * t * t / 2, v, np.full(M, a)))
    found += [_parabola(given, share * given.times[-1]) for share in shares]
    return np.stack([np.stack([*pva, np.full(M, e), np.zeros(M)], 1) for pva in found for e in REBOUNDS],
                    1).clip(LEAST, MOST)


def _parabola(given: _Seen, until: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position, velocity and acceleration at time 0 ``[M]`` of the parabolas through what is seen up to ``until``."""
    X = np.stack([np.ones_like(given.times), given.times, given.times**2 / 2], 1)
    seen = (given.seen & (given.times <= until)).astype(float)
    XX = np.einsum("mt,ti,tj->mij", seen, X, X) + 1e-9 * np.eye(3)
    p, v, a = np.linalg.solve(XX, np.einsum("mt,ti,mt->mi", seen, X, given.value)[..., None])[..., 0].T
    return p, v, a


def _descend(given: _Seen, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where Levenberg and Marquardt lead from ``theta [R, 5]``, and the costs there ``[R]``."""
    damping = np.full(len(theta), 1e-2)
    over = given.misfit(theta)
    cost = np.square(over).sum(1)
    for _ in range(STEPS):
        J = _slopes(given, theta, over)
        JJ = np.einsum("rni,rnj->rij", J, J)
        raised = JJ + damping[:, None, None] * JJ * np.eye(5)
        step = np.linalg.solve(raised, np.einsum("rni,rn->ri", J, over)[..., None])[..., 0]
        tried = (theta - step).clip(LEAST, MOST)
        left = given.misfit(tried)
        better = np.square(left).sum(1) < cost
        theta, over = np.where(better[:, None], tried, theta), np.where(better[:, None], left, over)
        cost, damping = np.square(over).sum(1), np.where(better, damping / 5, damping * 5)
    return theta, cost


def _slopes(given: _Seen, theta: np.ndarray, over: np.ndarray) -> np.ndarray:
    """Derivatives ``[R, T + 5, 5]`` of the misfit."""
    return np.stack([(given.misfit(theta + NUDGE * (np.arange(5) == i)) - over) / NUDGE[i] for i in range(5)], -1)


def _explained(given: _Seen, theta: np.ndarray) -> PathFit:
    over = given.misfit(theta)
    J = _slopes(given, theta, over)
    residual = over[:, : len(given.times)] * READING
    free = np.maximum(given.seen.sum(1) - 4, 1)
    variance = np.square(over[:, : len(given.times)]).sum(1) / free
    covariance = np.linalg.inv(np.einsum("rni,rnj->rij", J, J)) * variance[:, None, None]
    errors = np.sqrt(np.maximum(np.einsum("rii->ri", covariance), 0))
    return PathFit(theta[:, VELOCITY], theta[:, ACCELERATION], theta[:, RESTITUTION], errors[:, ACCELERATION],
                   errors[:, RESTITUTION], residual, given.paths(theta))
