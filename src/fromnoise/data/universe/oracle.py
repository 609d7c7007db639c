"""The oracle: reads a picture of the universe back, without knowing its scene.

Objects are the connected regions that differ from the background.  Each is explained by synthesis (``fit``):
the shape and size that fit best are drawn again in the colour that fits best, and what is left over must be
little everywhere.  Whatever fits nothing well, or two things about equally well, is unclear, and an unclear
picture agrees with no caption.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fromnoise.data.universe.captions import Sentence, Thing, parse
from fromnoise.data.universe.fit import TEMPLATES, Fit, fit
from fromnoise.data.universe.render import BACKGROUND, PALETTE
from fromnoise.data.universe.scene import COLORS, RADIUS, RELATIONS, SHAPES, SIZES

# The first four limits lie between what mild noise, blur and JPEG leave over and what visible faults do
# (tests/test_universe.py holds both sides).
MISFIT = 0.32  # largest share of an object's colour that its best template may leave unexplained, summed
FLAW = 0.16  # the same, averaged over any one patch: holes, missing pieces, second colours
MARGIN = 0.10  # share by which the best template must leave over less than the best of another shape or size
COLOR_MISFIT = 0.25  # largest distance to the palette; the nearest two of it, yellow and orange, are 0.57 apart
SEEN = 0.35  # distance from the background, in [-1, 1] units of colour, at which a pixel is part of something
SPECK = 0.18  # share of the smallest object's area up to which regions are dust, and dust is overlooked
FULL = float((PALETTE - BACKGROUND).norm(dim=1).min())  # the distance at which a pixel counts whole
CHUNK = 64  # regions fitted at once, for the processor's cache


@dataclass(frozen=True)
class Seen:
    """An object that was read: what it is, where (in units of the frame), and the share that misfits."""

    thing: Thing
    x: float
    y: float
    misfit: float

    @property
    def confidence(self) -> float:
        """1 for a perfect drawing, 0 for the worst that is still read."""
        return max(0.0, 1 - self.misfit / MISFIT)


@dataclass(frozen=True)
class Reading:
    """What is in a picture; ``unclear`` says why nothing definite is, and is None otherwise."""

    objects: tuple[Seen, ...]
    unclear: str | None = None

    @property
    def count(self) -> int:
        return len(self.objects)

    @property
    def relations(self) -> tuple[str | None, ...]:
        """How each object lies to the next; None where it is exactly diagonal."""
        return tuple(next((r for r in RELATIONS if lies(a, r, b)), None)
                     for a, b in zip(self.objects, self.objects[1:], strict=False))


def read(media: Tensor) -> list[Reading]:
    """Readings of pictures ``[B, 1, 3, H, W]`` in [-1, 1]."""
    from scipy import ndimage

    frames = media[:, 0].float().cpu().clamp(-1, 1)
    B, _, H, W = frames.shape
    unit = min(H, W)
    away = frames - BACKGROUND.view(1, 3, 1, 1)
    distance = away.square().sum(1).sqrt().numpy()  # Tensor.norm is far slower along a middle axis
    flat = np.zeros((3, 3, 3), dtype=int)
    flat[1] = 1  # neighbours in the same picture, diagonals too
    labels, count = ndimage.label(distance > SEEN, structure=flat)  # type: ignore[misc]
    regions = _regions(away.numpy(), distance, labels, count)
    dust_limit = SPECK * 0.7 * math.pi * (RADIUS.min() * unit) ** 2
    big = regions.area >= dust_limit
    dust = np.bincount(regions.image[~big], weights=regions.area[~big], minlength=B)
    found: list[list[tuple[Seen | None, str]]] = [[] for _ in range(B)]
    for chosen in np.split(np.flatnonzero(big), range(CHUNK, int(big.sum()), CHUNK)):
        if len(chosen):
            fits = _explain(away, labels, regions, chosen, unit)
            for i, region in enumerate(chosen):
                found[regions.image[region]].append(_verdict(fits, i, W, H))
    return [_reading(f, d > dust_limit) for f, d in zip(found, dust, strict=True)]


@dataclass(frozen=True)
class _Regions:
    """R connected regions.

    image: ``[R]``;  area: ``[R]`` pixels, faint ones counted in part;  color: ``[R, 3]`` of the core, less the
    background;  box: ``[R, 4]`` least x, least y, minus greatest x, minus greatest y.
    """

    image: np.ndarray
    area: np.ndarray
    color: np.ndarray
    box: np.ndarray


def _regions(away: np.ndarray, distance: np.ndarray, labels: np.ndarray, count: int) -> _Regions:
    b, y, x = np.nonzero(labels)
    label = labels[b, y, x] - 1
    d = distance[b, y, x]
    strongest = np.zeros(count)
    np.maximum.at(strongest, label, d)
    core = d > 0.75 * strongest[label]
    weight = np.bincount(label, core, count)
    color = np.stack([np.bincount(label, core * away[b, c, y, x], count) / weight for c in range(3)], 1)
    image = np.zeros(count, dtype=int)
    image[label] = b
    area = np.bincount(label, np.minimum(d / FULL, 1), count)
    box = np.full((count, 4), 1 << 20)
    for i, value in enumerate((x, y, -x, -y)):
        np.minimum.at(box[:, i], label, value)
    return _Regions(image, area, color, box)


def _explain(away: Tensor, labels: np.ndarray, regions: _Regions, chosen: np.ndarray, unit: int) -> Fit:
    """The fits of the chosen regions, each cut out of its picture with everything else taken away."""
    H, W = labels.shape[1:]
    half = math.ceil(RADIUS.max() * 1.45 * unit) + 2
    box = regions.box[chosen]
    xs = ((box[:, 0] - box[:, 2]) // 2)[:, None] + np.arange(-half, half + 1)
    ys = ((box[:, 1] - box[:, 3]) // 2)[:, None] + np.arange(-half, half + 1)
    inside = ((xs >= 0) & (xs < W))[:, None, :] & ((ys >= 0) & (ys < H))[:, :, None]
    image, rows, columns = regions.image[chosen], ys.clip(0, H - 1), xs.clip(0, W - 1)
    own = _grown(labels[image[:, None, None], rows[:, :, None], columns[:, None, :]], chosen + 1) & inside
    pixels = away[image[:, None, None, None], torch.arange(3)[:, None, None], rows[:, None, :, None],
                  columns[:, None, None, :]] * torch.from_numpy(own)[:, None]
    xs, ys = torch.from_numpy(xs + 0.5).float(), torch.from_numpy(ys + 0.5).float()
    return fit(pixels, torch.from_numpy(regions.color[chosen]).float(), xs, ys, unit)


def _grown(labels: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Whether a window's pixel belongs to its region, or is unlabelled and next to it."""
    from scipy import ndimage

    mine = labels == own[:, None, None]
    near = ndimage.binary_dilation(mine, structure=np.ones((1, 3, 3)))
    return mine | (near & (labels == 0))


def _verdict(fits: Fit, i: int, W: int, H: int) -> tuple[Seen | None, str]:
    to_palette = (PALETTE - BACKGROUND - fits.color[i]).norm(dim=1)
    color = int(to_palette.argmin())
    if fits.misfit[i] > MISFIT:
        return None, "a shape that is none of the shapes"
    if fits.flaw[i] > FLAW:
        return None, "a shape that is not whole, or not of one colour"
    if fits.margin[i] < MARGIN:
        return None, "a shape between two shapes"
    if to_palette[color] > COLOR_MISFIT:
        return None, "a colour that is none of the colours"
    shape, size = TEMPLATES[int(fits.template[i])]
    thing = Thing(SIZES[size], COLORS[color], SHAPES[shape])
    return Seen(thing, float(fits.x[i]) / W, float(fits.y[i]) / H, float(fits.misfit[i])), ""


def _reading(found: list[tuple[Seen | None, str]], dusty: bool) -> Reading:
    objects = tuple(seen for seen, _ in found if seen is not None)
    reasons = [why for _, why in found if why]
    if dusty:
        reasons.append("dust")
    return Reading(objects, reasons[0] if reasons else None if objects else "nothing is there")


# ---- captions --------------------------------------------------------------------------------------------


def lies(a: Seen, relation: str, b: Seen) -> bool:
    """Whether a is above, below, left of or right of b, more than it is anything else."""
    dx, dy = a.x - b.x, a.y - b.y
    along, across = (dy, dx) if relation in ("above", "below") else (dx, dy)
    return (along < 0) == (relation in ("above", "left of")) and abs(along) > abs(across)


def agrees(reading: Reading, caption: str | Sentence) -> bool:
    """Whether everything the caption says is so, and nothing else is there."""
    sentence = parse(caption) if isinstance(caption, str) else caption
    return not reading.unclear and _same_things(reading, sentence) and _same_relations(reading, sentence)


def score(media: Tensor, captions: Sequence[str]) -> dict[str, float]:
    """Share of pictures ``[B, 1, 3, H, W]`` in which the oracle finds what the caption says.

    all_correct: everything at once;  count, colour, shape, size: that attribute of all objects, as a
    multiset;  relation: the objects and how they lie (1 for captions without);  unclear: the share that
    cannot be read, which counts as wrong in everything.
    """
    names = ("all_correct", "count", "color", "shape", "size", "relation", "unclear")
    totals = dict.fromkeys(names, 0)
    for reading, caption in zip(read(media), captions, strict=True):
        sentence = parse(caption)
        totals["unclear"] += bool(reading.unclear)
        if reading.unclear:
            continue
        totals["count"] += reading.count == len(sentence.things)
        for part in ("color", "shape", "size"):
            got = sorted(getattr(seen.thing, part) for seen in reading.objects)
            totals[part] += got == sorted(getattr(thing, part) for thing in sentence.things)
        related = _same_relations(reading, sentence)
        totals["relation"] += related
        totals["all_correct"] += related and _same_things(reading, sentence)
    return {name: totals[name] / max(1, len(captions)) for name in names}


def _same_things(reading: Reading, sentence: Sentence) -> bool:
    return sorted(seen.thing for seen in reading.objects) == sorted(sentence.things)


def _same_relations(reading: Reading, sentence: Sentence) -> bool:
    """The named things are there and lie as said."""
    where = {seen.thing: seen for seen in reading.objects}
    if any(thing not in where for thing in sentence.things):
        return False
    pairs = zip(sentence.things, sentence.relations, sentence.things[1:], strict=False)
    return all(lies(where[a], relation, where[b]) for a, relation, b in pairs)
