"""Motion between walls: exact parabolas, joined at bounces whose times are solved for.

Each coordinate of an object moves by itself.  Between bounces it has a constant acceleration a,

    p(t) = p + v (t - s) + a (t - s)^2 / 2    from t = s on,

and a wall turns its velocity v into -e v, where e in (0, 1] is the restitution.  So a path is a list of such pieces,
known at every time and not only at those of frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Rebounds below this height, in sides, are over: the infinitely many that are left move a thing no further.
REST = 1e-6

Numbers = np.ndarray | float


@dataclass(frozen=True)
class Paths:
    """Coordinates ``[...]`` as functions of time in [0, until], each in at most N pieces.

    start: ``[..., N]`` when each piece begins, infinity for pieces that a path does not have;  position, velocity,
    acceleration: ``[..., N]`` of each piece where it begins;  wall: ``[..., N]`` that it begins at, -1 for the low one
    and 1 for the high one, 0 for the first piece;  until: the last time that they are known at.
    """

    start: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    wall: np.ndarray
    until: float

    def state(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities ``[..., T]`` at ``times [T]``.  ValueError for times outside [0, until]."""
        times = np.asarray(times, dtype=np.float64)
        if len(times) and not 0 <= times.min() <= times.max() <= self.until:
            raise ValueError(f"these paths are known from 0 to {self.until:g} s, not from {times.min():g} to "
                             f"{times.max():g}")
        piece = (self.start[..., None, :] <= times[:, None]).sum(-1) - 1
        s, p, v, a = (np.take_along_axis(x, piece, -1)
                      for x in (self.start, self.position, self.velocity, self.acceleration))
        t = times - s
        return p + (v + a * t / 2) * t, v + a * t

    def at(self, times: np.ndarray) -> np.ndarray:
        """Positions ``[..., T]`` at ``times [T]``, as ``state``."""
        return self.state(times)[0]

    @property
    def first_bounce(self) -> np.ndarray:
        """``[...]`` when a wall is met for the first time, infinity where none is."""
        return self.start[..., 1] if self.start.shape[-1] > 1 else np.full(self.start.shape[:-1], np.inf)


def paths(position: Numbers, velocity: Numbers, acceleration: Numbers, low: Numbers, high: Numbers,
          restitution: Numbers, until: float, rest: float = REST, bounces: int = 10_000) -> Paths:
    """The paths of coordinates from time 0 to ``until``; the arguments before it broadcast to ``[...]``.

    Those that begin outside [low, high] begin at the wall.  rest: the height below which rebounds are over;  bounces:
    how many are followed at most, since walls that add speed can be met without end.
    """
    given = np.broadcast_arrays(position, velocity, acceleration, low, high, restitution)
    shape = given[0].shape
    p, v, a, low, high, e = (np.array(x, dtype=np.float64).ravel() for x in given)
    p, s, wall = np.clip(p, low, high), np.zeros_like(p), np.zeros_like(p)
    v, a = _settled(v, a, np.where(a > 0, high - p, p - low), rest)
    pieces: list[tuple[np.ndarray, ...]] = [(s, p, v, a, wall)]
    rows = np.arange(len(p))
    while len(pieces) <= bounces:
        up, down = meets(high - p, v, a), meets(p - low, -v, -a)
        t = np.minimum(up, down)
        met = s + t <= until
        rows, t, up, down, s, v, a, low, high, e = (x[met] for x in (rows, t, up, down, s, v, a, low, high, e))
        if not len(rows):
            break
        s, wall = s + t, np.where(up < down, 1.0, -1.0)
        p = np.where(up < down, high, low)
        v, a = _settled(-e * (v + a * t), a, np.where(wall * a > 0, 0.0, np.inf), rest)
        pieces.append(tuple(_spread(x, rows, shape, fill) for x, fill in ((s, np.inf), (p, 0), (v, 0), (a, 0),
                                                                          (wall, 0))))
    first = tuple(x.reshape(shape) for x in pieces[0])
    return Paths(*(np.stack(x, -1) for x in zip(first, *pieces[1:], strict=True)), until=until)


def meets(distance: np.ndarray, v: np.ndarray, a: np.ndarray) -> np.ndarray:
    """When a wall at ``distance`` >= 0 ahead is run into: v t + a t^2 / 2 = distance with v + a t >= 0, or infinity.

    The velocity there is w = sqrt(v^2 + 2 a distance), so t = (w - v) / a = 2 distance / (w + v).
    """
    square = v * v + 2 * a * distance
    w = np.sqrt(np.maximum(square, 0))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        t = np.where(v > 0, 2 * distance / (w + v), (w - v) / a)
    return np.where((square >= 0) & ((v > 0) | (a > 0)), t, np.inf)


def _settled(v: np.ndarray, a: np.ndarray, height: np.ndarray, rest: float) -> tuple[np.ndarray, np.ndarray]:
    """Velocity and acceleration, 0 for things so near (``height``) to the wall that draws them that they lie there."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        rests = (a != 0) & (v * v / (2 * np.abs(a)) + height < rest)
    return np.where(rests, 0, v), np.where(rests, 0, a)


def _spread(values: np.ndarray, rows: np.ndarray, shape: tuple[int, ...], fill: float) -> np.ndarray:
    """Values of some rows among all, ``[...]``."""
    whole = np.full(int(np.prod(shape)), float(fill))
    whole[rows] = values
    return whole.reshape(shape)
