"""The oracle over time: reads a clip back, and says what each thing in it does.

Every frame is read by itself (``oracle``).  The things of a clip are those that most of its frames show; a frame that
shows just these says where each of them is, and the paths through these places are explained by bodies between walls
(``motion_fit``).  Where two things lie before each other a frame need not be readable; anywhere else it is a fault.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from torch import Tensor

from fromnoise.data.universe.actions import APART, DIRECTIONS, SPEEDS, Action, walls
from fromnoise.data.universe.captions import Thing
from fromnoise.data.universe.motion_fit import HEAVY, PathFit, fit_paths
from fromnoise.data.universe.oracle import Reading, read
from fromnoise.data.universe.scene import SHAPES, SIZES
from fromnoise.data.universe.stories import Clause, Story, parse_story

# Limits lie in the gaps of ``actions``: no scene is near to one of them.
STILL = 0.03  # sides: what moves by less along an axis does not move along it
DROPPED = 0.07  # sides that the beginning of a fall is above or below one from rest; a jump rises by more
SIDE = 0.075  # sides / s along x from which on a fall or a jump goes to a side
SLOW, QUICK = 0.06, 0.28  # sides / s from which on a thing moves, and moves quickly
LATE, EARLY = 0.15, 0.1  # seconds from the last frame and from the first in which a bounce is not one that is seen
ROUGH, OFF = 0.015, 0.045  # sides that a thing may be away from its path: root mean square, and in any one frame
GAIN = 0.12  # by how much a bounce may add to a speed
STUCK = 0.25  # restitution below which a thing sticks to a wall and does not bounce
LOST = 1 / 8  # share of the frames that may be unreadable without a reason
WALLS = (("left wall", "right wall"), ("ceiling", "floor"))


@dataclass(frozen=True)
class Bounce:
    """When a thing meets which wall."""

    time: float
    wall: str


@dataclass(frozen=True)
class Moved:
    """A thing and what it does.

    action: None where it is none of ACTIONS;  velocity: (x, y) at time 0 in sides / s;  gravity, restitution: what was
    fitted with its standard error, None where nothing falls and where nothing bounces;  rough, misfit: how far it is
    from its path, in sides, as a root mean square and at most.
    """

    thing: Thing
    action: Action | None
    velocity: tuple[float, float] = (0.0, 0.0)
    bounces: tuple[Bounce, ...] = ()
    gravity: tuple[float, float] | None = None
    restitution: tuple[float, float] | None = None
    rough: float = 0.0
    misfit: float = 0.0

    @property
    def speed(self) -> float:
        """In sides / s, at time 0."""
        return float(np.hypot(*self.velocity))

    @property
    def smooth(self) -> bool:
        """Whether it goes as a body between walls does: along its path, and no faster after a bounce."""
        gains = self.restitution is not None and self.restitution[0] > 1 + max(GAIN, 3 * self.restitution[1])
        return self.rough <= ROUGH and self.misfit <= OFF and not gains

    @property
    def clause(self) -> Clause | None:
        """What is to be said of it."""
        return None if self.action is None else Clause(self.thing, self.action, bool(self.bounces))


@dataclass(frozen=True)
class Watched:
    """What is in a clip.

    objects: in the order of their kinds;  steady: whether all things stay what they are, in every frame;  unclear: why
    nothing definite can be said, None otherwise.
    """

    objects: tuple[Moved, ...] = ()
    steady: bool = False
    unclear: str | None = None

    @property
    def smooth(self) -> bool:
        return all(moved.smooth for moved in self.objects)


def watch(media: Tensor, fps: float) -> list[Watched]:
    """What is in clips ``[B, T, 3, H, W]`` in [-1, 1] of ``fps`` frames a second."""
    B, T, _, H, W = media.shape
    readings = read(media.flatten(0, 1)[:, None])
    clips = [readings[i * T : (i + 1) * T] for i in range(B)]
    shown = [_shown(clip) for clip in clips]
    frame = np.array([W, H]) / min(H, W)
    tracks = _Tracks.of(clips, shown, frame, T)
    explained = _Explained.of(tracks, np.arange(T) / fps)
    found, first = [], 0
    for clip, things in zip(clips, shown, strict=True):
        if isinstance(things, str):
            found.append(Watched(unclear=things))
            continue
        rows = range(first, first + len(things))
        first += len(things)
        objects = tuple(_moved(tracks, explained, row) for row in rows)
        found.append(Watched(objects, _steady(clip, things, _covered(tracks, explained, rows))))
    return found


def _shown(clip: Sequence[Reading]) -> tuple[Thing, ...] | str:
    """The things that most frames show, or why there are none that can be followed."""
    counts = Counter(_things(reading) for reading in clip if not reading.unclear)
    things, count = counts.most_common(1)[0] if counts else ((), 0)
    if count < max(3, len(clip) / 2):
        return "too few frames that show the same things"
    return "two things of one kind" if len(set(things)) < len(things) else things


def _things(reading: Reading) -> tuple[Thing, ...]:
    return tuple(sorted(seen.thing for seen in reading.objects))


@dataclass(frozen=True)
class _Tracks:
    """M things, each of one clip.

    things: M of them;  at: ``[M, 2, T]`` in shorter sides;  seen: ``[M, T]``;  low, high: walls ``[M, 2]``.
    """

    things: list[Thing]
    at: np.ndarray
    seen: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @staticmethod
    def of(clips: Sequence[Sequence[Reading]], shown: Sequence[tuple[Thing, ...] | str], frame: np.ndarray,
           T: int) -> _Tracks:
        pairs = [(clip, things) for clip, things in zip(clips, shown, strict=True) if not isinstance(things, str)]
        things = [thing for _, some in pairs for thing in some]
        at, seen, row = np.zeros((len(things), 2, T)), np.zeros((len(things), T), dtype=bool), 0
        for clip, some in pairs:
            for t, reading in enumerate(clip):
                if not reading.unclear and _things(reading) == some:
                    places = sorted((s.thing, s.x, s.y) for s in reading.objects)
                    at[row : row + len(some), :, t] = [place[1:] for place in places] * frame
                    seen[row : row + len(some), t] = True
            row += len(some)
        shape = np.array([SHAPES.index(thing.shape) for thing in things], dtype=int)
        size = np.array([SIZES.index(thing.size) for thing in things], dtype=int)
        return _Tracks(things, at, seen, *walls(shape, size, *frame))


@dataclass(frozen=True)
class _Explained:
    """The paths of M things.

    fits: of x and of y;  at: ``[M, 2, T]`` where they are in every frame;  still: ``[M, 2]`` whether a thing does not
    move along an axis.
    """

    fits: tuple[PathFit, PathFit]
    at: np.ndarray
    still: np.ndarray

    @staticmethod
    def of(tracks: _Tracks, times: np.ndarray) -> _Explained:
        x, y = (fit_paths(times, tracks.at[:, axis], tracks.seen, tracks.low[:, axis], tracks.high[:, axis], axis == 1)
                for axis in (0, 1))
        seen = tracks.seen[:, None]
        span = np.where(seen, tracks.at, -np.inf).max(-1) - np.where(seen, tracks.at, np.inf).min(-1)
        return _Explained((x, y), np.stack([fit.paths.at(times) for fit in (x, y)], 1), span <= STILL)


def _moved(tracks: _Tracks, explained: _Explained, row: int) -> Moved:
    """What one thing does."""
    velocity, bounces, gravity, restitution, rough, misfit = [0.0, 0.0], [], None, None, 0.0, 0.0
    for axis, fit in enumerate(explained.fits):
        if explained.still[row, axis]:
            continue
        velocity[axis] = float(fit.velocity[row])
        left = np.abs(fit.residual[row][tracks.seen[row]])
        rough, misfit = max(rough, float(np.sqrt(np.square(left).mean()))), max(misfit, float(left.max()))
        met = [Bounce(float(t), WALLS[axis][int(wall > 0)])
               for t, wall in zip(fit.paths.start[row, 1:], fit.paths.wall[row, 1:], strict=True)
               if EARLY <= t <= fit.paths.until - LATE and fit.restitution[row] > STUCK]
        bounces += met
        known = float(fit.restitution[row]), float(fit.restitution_error[row])
        if met and (restitution is None or known[1] < restitution[1]):
            restitution = known
        if abs(fit.acceleration[row]) > HEAVY:
            gravity = float(fit.acceleration[row]), float(fit.acceleration_error[row])
    action = action_of(velocity[0], velocity[1], gravity[0] if gravity else 0.0)
    return Moved(tracks.things[row], action, (velocity[0], velocity[1]), tuple(sorted(bounces, key=lambda b: b.time)),
                 gravity, restitution, rough, misfit)


def action_of(vx: float, vy: float, gravity: float) -> Action | None:
    """What a thing does, by its velocity at time 0 and its acceleration; None for what no action is."""
    if abs(gravity) <= HEAVY:
        if np.hypot(vx, vy) < SLOW:
            return Action("stays")
        direction = DIRECTIONS[round(np.arctan2(vy, vx) / (np.pi / 4)) % 8]
        slowly, quickly = SPEEDS
        return Action("moves", direction, slowly if np.hypot(vx, vy) < QUICK else quickly)
    rise = -np.sign(vy) * vy**2 / (2 * gravity)
    if gravity < 0 or rise < -DROPPED:
        return None  # it falls upwards, or was thrown down
    side = None if abs(vx) < SIDE else "left" if vx < 0 else "right"
    return Action("jumps" if rise > DROPPED else "falls", side)


def _covered(tracks: _Tracks, explained: _Explained, rows: range) -> np.ndarray:
    """``[T]`` bool, in which frames two things are so near to each other that they cannot be told apart."""
    covered = np.zeros(tracks.seen.shape[1], dtype=bool)
    for i, j in combinations(rows, 2):
        reach = tracks.low[i] + tracks.low[j]
        covered |= (np.abs(explained.at[i] - explained.at[j]) - reach[:, None] < APART).all(0)
    return covered


def _steady(clip: Sequence[Reading], things: tuple[Thing, ...], covered: np.ndarray) -> bool:
    """Whether no frame shows anything else, but where things cover each other, and few cannot be read."""
    apart = [reading for reading, hidden in zip(clip, covered, strict=True) if not hidden]
    changed = any(not reading.unclear and _things(reading) != things for reading in apart)
    return not changed and sum(bool(reading.unclear) for reading in apart) <= LOST * len(clip)


# ---- captions --------------------------------------------------------------------------------------------


def tells(watched: Watched, caption: str | Story) -> bool:
    """Whether the caption says what happens in the clip, and nothing in it is wrong otherwise."""
    story = parse_story(caption) if isinstance(caption, str) else caption
    seen = {moved.clause for moved in watched.objects}
    return (not watched.unclear and watched.steady and watched.smooth
            and len(watched.objects) == len(story.clauses) and seen == set(story.clauses))


MOTION_SCORES = ("all_correct", "kinds", "verb", "direction", "speed", "bounce", "steady", "smooth", "unclear")


def score_motion(watched: Sequence[Watched], captions: Sequence[str]) -> dict[str, float]:
    """Share of clips in which the oracle finds what the caption says.

    all_correct: everything at once;  kinds: the things of the caption and no others;  verb, direction, speed, bounce:
    that part of what every thing of the caption does, where also its absence must be right;  steady: all things stay
    what they are;  smooth: all go as bodies between walls do;  unclear: the share in which no thing can be followed,
    which counts as wrong in everything.
    """
    totals = dict.fromkeys(MOTION_SCORES, 0)
    for clip, caption in zip(watched, captions, strict=True):
        story = parse_story(caption)
        totals["unclear"] += bool(clip.unclear)
        if clip.unclear:
            continue
        totals["all_correct"] += tells(clip, story)
        totals["steady"] += clip.steady
        totals["smooth"] += clip.smooth
        totals["kinds"] += sorted(moved.thing for moved in clip.objects) == sorted(story.things)
        seen = {moved.thing: moved for moved in clip.objects}
        pairs = [(clause, seen.get(clause.thing)) for clause in story.clauses]
        totals["bounce"] += all(moved and bool(moved.bounces) == clause.bounces for clause, moved in pairs)
        for part in ("verb", "direction", "speed"):
            totals[part] += all(moved and moved.action and getattr(moved.action, part) == getattr(clause.action, part)
                                for clause, moved in pairs)
    return {name: total / max(1, len(captions)) for name, total in totals.items()}
