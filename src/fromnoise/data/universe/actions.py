"""What things do in a clip: actions as data, and scenes in which they are done so that everyone can tell.

Speeds are in sides of the frame (the shorter one) a second, gravity in sides / s^2, downwards.  Between the ranges of
two words lies a gap that no scene falls into, and a bounce is either well inside the clip or not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fromnoise.data.universe.motion import Paths, paths
from fromnoise.data.universe.render import REACH, render
from fromnoise.data.universe.scene import HELD_OUT, KINDS, RADIUS, SHAPES, Scenes
from fromnoise.random import fold, uniforms

DIRECTIONS = ("right", "down right", "down", "down left", "left", "up left", "up", "up right")  # by 45 degrees each
SPEEDS = {"slowly": (0.12, 0.22), "quickly": (0.36, 0.60)}
SIDEWAYS = (0.15, 0.30)  # speed along x of what falls or jumps to a side
TILT = np.pi / 18  # by how much a diagonal may be off 45 degrees
RISE = (0.4, 0.85)  # how high things jump, of the room between floor and ceiling
CROUCH = 0.15  # how high above the floor they may begin to, of the same
DROP = 0.2  # from how high things fall at least, of the same
STAYING = 0.125  # share of things that stay where they are

SOON = 0.35  # seconds from the beginning to the first bounce, and from there to the end, at least
AFTER = 0.05  # seconds from the end to the next bounce of a thing that does not bounce in the clip, at least
APART = 0.06  # least gap between two things that can be told from each other in a frame
ENDS = 3  # frames at both ends in which things are apart
SEEN = 0.6  # share of the frames in which they are
MOST = 200  # combinations that are tried for a scene


@dataclass(frozen=True)
class Action:
    """What one thing does: it "stays", "moves", "falls" from rest, or "jumps" off the floor."""

    verb: str
    direction: str | None = None
    speed: str | None = None

    def __str__(self) -> str:
        return " ".join(filter(None, (self.verb, self.direction, self.speed)))

    @property
    def heavy(self) -> bool:
        """Whether it takes gravity."""
        return self.verb in ("falls", "jumps")


ACTIONS = (Action("stays"),
           *(Action("moves", direction, speed) for speed in SPEEDS for direction in DIRECTIONS),
           *(Action(verb, side) for verb in ("falls", "jumps") for side in (None, "left", "right")))
FREE = np.array([i for i, action in enumerate(ACTIONS) if not action.heavy])
HEAVY = np.array([i for i, action in enumerate(ACTIONS) if action.heavy or action.verb == "stays"])
_VERB = np.array([a.verb for a in ACTIONS])
_ANGLE = np.array([DIRECTIONS.index(a.direction or "right") * np.pi / 4 for a in ACTIONS])
_SPEED = np.array([SPEEDS.get(a.speed or "", (0, 0)) for a in ACTIONS])
_SIDE = np.array([{"left": -1, "right": 1}.get(a.direction or "", 0) for a in ACTIONS])


@dataclass(frozen=True)
class World:
    """The laws and the frame of a clip.

    gravity: in sides / s^2 where it acts;  heavy: share of the scenes in which it does;  restitution: of all walls;
    width, height: of the frame, in units of its shorter side;  times: ``[T]`` seconds, of the frames.
    """

    gravity: float
    heavy: float
    restitution: float
    width: float
    height: float
    times: np.ndarray

    @property
    def until(self) -> float:
        """As far as paths are followed: a little further than they are seen."""
        return float(self.times[-1]) + AFTER


@dataclass(frozen=True)
class MovingScenes:
    """B scenes of K objects that move.

    scenes: where they are (in shorter sides) and how fast at time 0;  action: ``[B, K]`` index of ACTIONS;
    heavy: ``[B]`` bool, whether gravity acts;  paths: of ``[B, K, 2]`` coordinates.
    """

    scenes: Scenes
    action: np.ndarray
    heavy: np.ndarray
    paths: Paths
    world: World

    def __len__(self) -> int:
        return len(self.action)

    @property
    def bounces(self) -> np.ndarray:
        """``[B, K]`` bool, whether each object bounces in the clip."""
        return self.paths.first_bounce.min(-1) <= self.world.times[-1]

    def frames(self) -> Scenes:
        """The scenes at the times of the world, ``[B * T]`` of them, as ``render`` takes them."""
        s, (B, K), T = self.scenes, self.action.shape, len(self.world.times)
        position = self.paths.at(self.world.times).transpose(0, 3, 1, 2).reshape(B * T, K, 2)
        shape, color, size = (x.repeat(T, 0) for x in (s.shape, s.color, s.size))
        frame = np.array([self.world.width, self.world.height])
        return Scenes(shape, color, size, position / frame, np.zeros_like(position), s.relation.repeat(T, 0))

    def render(self, height: int = 32, width: int = 32) -> Tensor:
        """Clips ``[B, T, 3, height, width]`` in [-1, 1]; ValueError for a frame of another shape than the world's."""
        unit = min(height, width)
        if (width / unit, height / unit) != (self.world.width, self.world.height):
            raise ValueError(f"a frame of {width}x{height} has another shape than this world, which is "
                             f"{self.world.width:g}x{self.world.height:g}")
        return render(self.frames(), height, width)[:, 0].unflatten(0, (len(self), -1))


def walls(shape: np.ndarray, size: np.ndarray, width: float, height: float) -> tuple[np.ndarray, np.ndarray]:
    """Low and high walls ``[..., 2]`` for the positions of things, in a frame of so many shorter sides."""
    reach = REACH[shape] * RADIUS[size][..., None]
    return reach, np.array([width, height]) - reach


def _shape(kind: np.ndarray) -> np.ndarray:
    return kind // 2 % len(SHAPES)


def _size(kind: np.ndarray) -> np.ndarray:
    return kind % 2


def sample_motion(keys: Sequence[int] | np.ndarray, objects: int, held_out: bool, world: World) -> MovingScenes:
    """One scene for every integer key, of combinations of things and actions that are held out, or of the others.

    A combination is drawn anew where no way to begin it was found that lets everyone tell what happens.
    """
    keys = np.asarray(keys, dtype=np.int64)
    kind, action = np.zeros((2, len(keys), objects), dtype=np.int64)
    position, velocity = np.zeros((2, len(keys), objects, 2))
    heavy = uniforms(fold(keys, 3), 1)[:, 0] < world.heavy
    open_ = np.arange(len(keys))
    for attempt in range(MOST):
        kind[open_], action[open_], right = _combinations(keys[open_], attempt, objects, held_out, heavy[open_])
        position[open_], velocity[open_], clear = _beginnings(keys[open_], attempt, kind[open_], action[open_],
                                                              heavy[open_], world)
        open_ = open_[~(right & clear)]
        if not len(open_):
            break
    else:
        raise ValueError(f"no scene was found in which everything can be told in {world.times[-1]:.2g} s")
    shape, size = _shape(kind), _size(kind)
    scenes = Scenes(shape, kind // 8, size, position, velocity, np.zeros((len(keys), 0), dtype=np.int64))
    return MovingScenes(scenes, action, heavy, _paths(position, velocity, kind, heavy[:, None], world), world)


def is_held_out_motion(kind: np.ndarray, action: np.ndarray) -> np.ndarray:
    """``[...]`` bool for things ``kind [..., K]`` and what they do ``action [..., K]``, in either order."""
    both = np.sort(kind * len(ACTIONS) + action, axis=-1)
    return fold(21, *np.moveaxis(both, -1, 0)) % HELD_OUT == 0


def _combinations(keys: np.ndarray, attempt: int, objects: int, held_out: bool,
                  heavy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kinds and actions ``[B, K]``, the first of many draws that is of the split, and ``[B]`` whether one was."""
    tries = 64 if held_out else 8
    draws = uniforms(fold(keys, 4, attempt), tries * objects * 2).reshape(len(keys), tries, objects, 2)
    kind = (draws[..., 0] * KINDS).astype(np.int64)
    moving = ((draws[..., 1] - STAYING) / (1 - STAYING)).clip(-0.5)  # below 0 it stays, which is first in both lists
    action = np.where(heavy[:, None, None], HEAVY[np.floor(1 + moving * (len(HEAVY) - 1)).astype(int).clip(0)],
                      FREE[np.floor(1 + moving * (len(FREE) - 1)).astype(int).clip(0)])
    good = is_held_out_motion(kind, action) == held_out
    if objects == 2:
        good &= kind[..., 0] != kind[..., 1]
    rows, first = np.arange(len(keys)), good.argmax(1)
    return kind[rows, first], action[rows, first], good[rows, first]


def _beginnings(keys: np.ndarray, attempt: int, kind: np.ndarray, action: np.ndarray, heavy: np.ndarray,
                world: World, tries: int = 16) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions and velocities ``[B, K, 2]`` at time 0, the first of many draws in which everyone can tell what
    happens, and ``[B]`` whether there is one."""
    B, K = action.shape
    draws = uniforms(fold(keys, 5, attempt), tries * K * 4).reshape(B, tries, K, 4)
    kind, action, heavy = (np.broadcast_to(x[:, None], (B, tries, K)) for x in (kind, action, heavy[:, None]))
    p, v = _begin(draws, kind, action, heavy, world)
    good = _clear(_paths(p, v, kind, heavy, world), kind, world)
    rows, first = np.arange(B), good.argmax(1)
    return p[rows, first], v[rows, first], good[rows, first]


def _begin(u: np.ndarray, kind: np.ndarray, action: np.ndarray, heavy: np.ndarray,
           world: World) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities ``[..., 2]`` from uniforms ``[..., 4]`` for things ``kind`` that do ``action``."""
    low, high = walls(_shape(kind), _size(kind), world.width, world.height)
    space, verb = high - low, _VERB[action]
    p = low + space * u[..., :2]
    up = np.select([verb == "jumps", verb == "falls", (verb == "stays") & heavy],
                   [CROUCH * u[..., 1], DROP + (1 - DROP) * u[..., 1], 0], u[..., 1])
    p[..., 1] = high[..., 1] - space[..., 1] * up
    speed = _SPEED[action, 0] + (_SPEED[action, 1] - _SPEED[action, 0]) * u[..., 2]
    diagonal = (verb == "moves") & (np.rint(_ANGLE[action] * 4 / np.pi) % 2 == 1)
    angle = _ANGLE[action] + np.where(diagonal, TILT * (2 * u[..., 3] - 1), 0)
    v = speed[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    aside = _SIDE[action] * (SIDEWAYS[0] + (SIDEWAYS[1] - SIDEWAYS[0]) * u[..., 3])
    rise = space[..., 1] * (RISE[0] + (RISE[1] - RISE[0]) * u[..., 2])
    takes = (verb == "falls") | (verb == "jumps")
    v[..., 0] = np.where(takes, aside, v[..., 0])
    v[..., 1] = np.where(verb == "jumps", -np.sqrt(2 * world.gravity * rise), v[..., 1])
    return p, v


def _paths(position: np.ndarray, velocity: np.ndarray, kind: np.ndarray, heavy: np.ndarray, world: World) -> Paths:
    """Those of both coordinates of things ``kind [..., K]``."""
    low, high = walls(_shape(kind), _size(kind), world.width, world.height)
    down = world.gravity * np.broadcast_to(heavy, kind.shape)[..., None] * np.array([0, 1])
    return paths(position, velocity, down, low, high, world.restitution, world.until)


def _clear(path: Paths, kind: np.ndarray, world: World) -> np.ndarray:
    """``[...]`` whether everyone can tell what things ``kind [..., K]`` do.

    Bounces are well inside the clip or not in it, and two things are apart at both ends and most of the time between.
    """
    first, last = path.first_bounce.min(-1), world.times[-1]
    good = (((first >= SOON) & (first <= last - SOON)) | (first == np.inf)).all(-1)
    if kind.shape[-1] == 1:
        return good
    low, _ = walls(_shape(kind), _size(kind), world.width, world.height)
    at = path.at(world.times)
    gap = np.abs(at[..., 0, :, :] - at[..., 1, :, :]) - (low[..., 0, :] + low[..., 1, :])[..., None]
    apart: np.ndarray = gap.max(-2) > APART
    return good & apart[..., :ENDS].all(-1) & apart[..., -ENDS:].all(-1) & (apart.mean(-1) >= SEEN)
