"""Scenes as data: objects with shape, colour, size, position and velocity.

The same description is drawn as a picture here, and can be moved, acted upon or seen by a camera later.
Coordinates are in units of the frame's side, x to the right and y downwards, both in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fromnoise.random import fold, uniforms

SHAPES = ("circle", "square", "triangle", "star")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple")
SIZES = ("small", "large")
RELATIONS = ("above", "below", "left of", "right of")

RADIUS = np.array([0.105, 0.175])  # of each size
EXTENT = 1.25  # the furthest any shape reaches from its position, in radii
MARGIN = 0.02  # room to the frame's edge
GAP = 0.04  # least distance between two objects' extents along the axis of their relation
SLANT = 0.6  # largest offset across that axis, relative to the offset along it: relations are unambiguous
HELD_OUT = 10  # one combination in so many is never trained on

KINDS = len(SHAPES) * len(COLORS) * len(SIZES)


@dataclass(frozen=True)
class Scenes:
    """B scenes of K objects each.

    shape, color, size: ``[B, K]`` int;  position, velocity: ``[B, K, 2]`` float (x, y), velocity per
    second;  relation: ``[B, K - 1]`` int, how object i lies to object i + 1.
    """

    shape: np.ndarray
    color: np.ndarray
    size: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    relation: np.ndarray

    def __len__(self) -> int:
        return len(self.shape)

    @property
    def radius(self) -> np.ndarray:
        """``[B, K]``."""
        return RADIUS[self.size]


def sample_scenes(keys: Sequence[int] | np.ndarray, objects: int, held_out: bool) -> Scenes:
    """One scene for every integer key, from the combinations that are held out, or from the others.

    Objects of a scene differ, do not touch, and lie wholly inside the frame; successive relations of
    three objects are along different axes.
    """
    keys = np.asarray(keys, dtype=np.int64)
    kind, relation = _combinations(keys, objects, held_out)
    size = kind % 2
    inner = 1 - 2 * MARGIN
    position = MARGIN + inner * _place(uniforms(fold(keys, 1), 4 * objects), RADIUS[size] * EXTENT / inner, relation)
    return Scenes(kind // 2 % len(SHAPES), kind // 8, size, position, np.zeros_like(position), relation)


def is_held_out(kind: np.ndarray, relation: np.ndarray) -> np.ndarray:
    """``[...]`` bool for combinations ``kind [..., K]`` and ``relation [..., K - 1]``.

    "A above B" and "B below A" are one combination: both are held out or neither.
    """
    if kind.shape[-1] > 1:
        flipped = relation[..., 0] % 2 == 1  # below, right of: read the sentence from its other end
        kind = np.where(flipped[..., None], kind[..., ::-1], kind)
        relation = np.where(flipped[..., None], (relation ^ 1)[..., ::-1], relation)
    parts = [kind[..., i] for i in range(kind.shape[-1])] + [relation[..., i] for i in range(relation.shape[-1])]
    return fold(20, *parts) % HELD_OUT == 0


def _combinations(keys: np.ndarray, objects: int, held_out: bool) -> tuple[np.ndarray, np.ndarray]:
    """Kinds ``[B, K]`` and relations ``[B, K - 1]``: the first of many draws that is of the wanted split."""
    tries = 16 if not held_out else 256
    chosen = np.zeros((len(keys), 2 * objects - 1), dtype=np.int64)
    open_ = np.arange(len(keys))
    for attempt in range(64):
        draws = uniforms(fold(keys[open_], 0, attempt), tries * (2 * objects - 1)).reshape(len(open_), tries, -1)
        kind = (draws[..., :objects] * KINDS).astype(np.int64)
        relation = (draws[..., objects:] * 4).astype(np.int64)
        if objects == 3:  # the second relation is along the other axis
            relation[..., 1] = (1 - relation[..., 0] // 2) * 2 + relation[..., 1] % 2
        distinct = np.ones(kind.shape[:2], dtype=bool)
        for i in range(objects):
            for j in range(i):
                distinct &= kind[..., i] != kind[..., j]
        good = distinct & (is_held_out(kind, relation) == held_out)
        first = good.argmax(1)
        rows = np.arange(len(open_))
        found = good[rows, first]
        both = np.concatenate([kind, relation], -1)[rows, first]
        chosen[open_[found]] = both[found]
        open_ = open_[~found]
        if not len(open_):
            break
    return chosen[:, :objects], chosen[:, objects:]


def _place(u: np.ndarray, reach: np.ndarray, relation: np.ndarray) -> np.ndarray:
    """Positions ``[B, K, 2]`` from uniforms, for objects that need ``reach [B, K]`` on each side."""
    B, K = reach.shape
    position = np.zeros((B, K, 2))
    if K == 1:
        position[:, 0] = reach + u[:, :2] * (1 - 2 * reach)
        return position
    along = np.where(relation[:, 0] < 2, 1, 0)  # above, below: along y
    sign = np.where(relation[:, 0] % 2 == 0, 1, -1)  # above, left of: the first comes first
    rows = np.arange(B)
    a, b = _pair(u, reach[:, 0], reach[:, 1])
    flip = sign < 0
    a[flip, 0], b[flip, 0] = 1 - a[flip, 0], 1 - b[flip, 0]
    position[rows, 0, along], position[rows, 1, along] = a[:, 0], b[:, 0]
    position[rows, 0, 1 - along], position[rows, 1, 1 - along] = a[:, 1], b[:, 1]
    if K == 3:
        _place_third(u[:, 5:], position, reach, relation, along)
    return position


def _pair(u: np.ndarray, ra: np.ndarray, rb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two places ``[B, 2]`` as (along, across), the first before the second."""
    least = ra + rb + GAP
    distance = least + u[:, 0] * (1 - ra - rb - least)
    start = ra + u[:, 1] * (1 - ra - rb - distance)
    across_a = ra + u[:, 2] * (1 - 2 * ra)
    low, high = np.maximum(rb, across_a - SLANT * distance), np.minimum(1 - rb, across_a + SLANT * distance)
    across_b = low + u[:, 3] * (high - low)
    return np.stack([start, across_a], 1), np.stack([start + distance, across_b], 1)


def _place_third(u: np.ndarray, position: np.ndarray, reach: np.ndarray, relation: np.ndarray,
                 along: np.ndarray) -> None:
    """Room for the third: the first two move to one side, and it goes to the other along the other axis."""
    rows, across = np.arange(len(reach)), 1 - along
    ra, rb, rc = reach.T
    first = relation[:, 1] % 2 == 0  # the second object comes before the third
    # Along the second relation's axis: object 1 in the near part, object 2 beyond it.
    rm = np.maximum(ra, rb)  # so that the first and the third cannot meet either
    least = rm + rc + GAP
    distance = least + u[:, 0] * (1 - rm - rc - least) * 0.6
    near = rm + u[:, 1] * (1 - rm - rc - distance)
    # The first keeps its slant to the second, on the side away from the third.
    old = position[rows, 0, across] - position[rows, 1, across]
    gap = np.abs(position[rows, 1, along] - position[rows, 0, along])
    slant = np.minimum(np.abs(old), np.minimum(SLANT * gap, np.maximum(near - ra, 0)))
    a = np.maximum(near - slant, ra)
    b, c = near, near + distance
    for k, value in ((0, a), (1, b), (2, c)):
        position[rows, k, across] = np.where(first, value, 1 - value)
    # Across it: within the slant of the second, and never nearer to the first than the second is.
    away = np.sign(position[rows, 1, along] - position[rows, 0, along])
    drift = u[:, 2] * SLANT * distance * 0.5
    place = position[rows, 1, along] + away * drift
    position[rows, 2, along] = np.clip(place, rc, 1 - rc)
