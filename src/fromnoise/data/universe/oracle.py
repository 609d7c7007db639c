"""The oracle: reads a picture of the universe back, without knowing its scene.

Objects are the connected regions that differ from the background.  Each is compared with every shape at
every size, drawn at its centre; colour is the nearest of the palette.  Whatever fits nothing well, or two
things about equally well, is unclear, and an unclear picture agrees with no caption.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fromnoise.data.universe.captions import Sentence, Thing, parse
from fromnoise.data.universe.render import BACKGROUND, PALETTE, coverage
from fromnoise.data.universe.scene import COLORS, RADIUS, SHAPES, SIZES

SEEN = 0.35  # distance from the background, in [-1, 1] units of colour, at which a pixel is part of something
SPECK = 0.18  # regions below this share of the smallest object's area are dust, if they are faint and few
MISFIT = 0.30  # largest share of an object's area that may differ from its best template
MARGIN = 0.03  # by how much the best template must beat the best one of another shape or size
COLOR_MISFIT = 0.45  # largest distance to the nearest palette colour
TEMPLATES = [(shape, size) for shape in range(len(SHAPES)) for size in range(len(SIZES))]


@dataclass(frozen=True)
class Seen:
    """An object that was read: what it is, where (in units of the frame), and the share that misfits."""

    thing: Thing
    x: float
    y: float
    misfit: float


@dataclass(frozen=True)
class Reading:
    """What is in a picture; ``unclear`` says why nothing definite is, and is empty otherwise."""

    objects: tuple[Seen, ...]
    unclear: str = ""

    @property
    def count(self) -> int:
        return len(self.objects)


def read(media: Tensor) -> list[Reading]:
    """Readings of pictures ``[B, 1, 3, H, W]`` in [-1, 1]."""
    from scipy import ndimage

    frames = media[:, 0].float().cpu().clamp(-1, 1)
    B, _, H, W = frames.shape
    unit = min(H, W)
    distance = (frames - BACKGROUND.view(1, 3, 1, 1)).norm(dim=1).numpy()
    flat = np.zeros((3, 3, 3), dtype=int)
    flat[1] = 1  # neighbours in the same picture, diagonals too
    labels, count = ndimage.label(distance > SEEN, structure=flat)  # type: ignore[misc]
    if count == 0:
        return [Reading((), "nothing is there")] * B
    regions = _regions(frames.numpy(), distance, labels, count)
    smallest = math.pi * (RADIUS.min() * unit) ** 2 * 0.7
    big = regions.area >= SPECK * smallest
    fits = _fit(frames, distance, labels, regions, np.flatnonzero(big), unit)
    readings: list[list] = [[] for _ in range(B)]
    dust = np.bincount(regions.image[~big], weights=regions.area[~big], minlength=B)
    for region, fit in zip(np.flatnonzero(big), fits, strict=True):
        readings[regions.image[region]].append(fit)
    return [_reading(found, dust[b] > 2 * SPECK * smallest) for b, found in enumerate(readings)]


@dataclass(frozen=True)
class _Regions:
    """R connected regions: picture, soft area in pixels, mean colour of the core ``[R, 3]``, centre ``[R, 2]``."""

    image: np.ndarray
    area: np.ndarray
    color: np.ndarray
    box: np.ndarray


def _regions(frames: np.ndarray, distance: np.ndarray, labels: np.ndarray, count: int) -> _Regions:
    b, y, x = np.nonzero(labels)
    label = labels[b, y, x] - 1
    d = distance[b, y, x]
    strongest = np.zeros(count)
    np.maximum.at(strongest, label, d)
    core = d > 0.75 * strongest[label]
    weight = np.bincount(label, core, count)
    color = np.stack([np.bincount(label, core * frames[b, c, y, x], count) / weight for c in range(3)], 1)
    image = np.zeros(count, dtype=int)
    image[label] = b
    area = np.bincount(label, np.minimum(d / np.maximum(strongest[label], 1e-6), 1), count)
    box = np.full((count, 4), 1 << 20)
    for i, value in enumerate((x, y, -x, -y)):
        np.minimum.at(box[:, i], label, value)
    return _Regions(image, area, color, box)


def _fit(frames: Tensor, distance: np.ndarray, labels: np.ndarray, regions: _Regions, chosen: np.ndarray,
         unit: int) -> list[tuple[Seen | None, str]]:
    """What each chosen region is: the template that fits best, or why none does."""
    if not len(chosen):
        return []
    H, W = distance.shape[1:]
    colors = torch.from_numpy(regions.color[chosen]).float()
    to_palette = torch.cdist(colors, PALETTE)
    nearest = to_palette.argmin(1)
    # Soft mask: how far each pixel has gone from the background to the colour.
    half = math.ceil(RADIUS.max() * 1.45 * unit) + 2
    box = regions.box[chosen]
    middle = np.stack([(box[:, 0] - box[:, 2]) // 2, (box[:, 1] - box[:, 3]) // 2], 1)
    xs = middle[:, :1] + np.arange(-half, half + 1)
    ys = middle[:, 1:] + np.arange(-half, half + 1)
    inside = ((xs >= 0) & (xs < W))[:, None, :] & ((ys >= 0) & (ys < H))[:, :, None]
    where = (regions.image[chosen][:, None, None], ys.clip(0, H - 1)[:, :, None], xs.clip(0, W - 1)[:, None, :])
    own = _grown(labels[where], chosen + 1) & inside
    direction = colors - BACKGROUND
    pixels = frames.permute(0, 2, 3, 1)[where]  # [R, h, w, 3]
    share = ((pixels - BACKGROUND) * direction[:, None, None]).sum(-1) / direction.square().sum(-1)[:, None, None]
    mask = share.clamp(0, 1.15) * torch.from_numpy(own)
    gx, gy = torch.from_numpy(xs + 0.5).float(), torch.from_numpy(ys + 0.5).float()
    misfit, x, y = _match(mask, gx, gy, unit)
    return [_verdict(i, misfit, x, y, nearest, to_palette, W, H) for i in range(len(chosen))]


def _grown(labels: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Whether a window's pixel belongs to its region, or is unlabelled and next to it."""
    from scipy import ndimage

    mine = labels == own[:, None, None]
    near = ndimage.binary_dilation(mine, structure=np.ones((1, 3, 3)))
    return mine | (near & (labels == 0))


def _match(mask: Tensor, gx: Tensor, gy: Tensor, unit: int) -> tuple[Tensor, Tensor, Tensor]:
    """Misfit ``[R, templates]`` of each template at its best place, and the places ``[R, templates]``.

    A template is first laid centroid on centroid and then moved by Gauss-Newton steps on its own gradient.
    """
    R = len(mask)
    total = mask.sum((1, 2)).clamp(min=1e-6)
    cx, cy = (mask.sum(1) * gx).sum(1) / total, (mask.sum(2) * gy).sum(1) / total
    misfits, xs, ys = [], [], []
    for shape, size in TEMPLATES:
        radius = torch.full((R,), float(RADIUS[size] * unit))
        kind = torch.full((R,), shape)

        def draw(x: Tensor, y: Tensor, radius=radius, kind=kind) -> Tensor:
            dx = (gx - x[:, None])[:, None, :].expand(R, gy.shape[1], gx.shape[1])
            dy = (gy - y[:, None])[:, :, None].expand(R, gy.shape[1], gx.shape[1])
            return coverage(dx, dy, radius, kind)

        drawn = draw(cx, cy)
        area = drawn.sum((1, 2))
        x = cx - ((drawn.sum(1) * gx).sum(1) / area - cx)
        y = cy - ((drawn.sum(2) * gy).sum(1) / area - cy)
        for _ in range(2):
            drawn = draw(x, y)
            error = mask - drawn
            sx, sy = draw(x + 0.5, y) - draw(x - 0.5, y), draw(x, y + 0.5) - draw(x, y - 0.5)
            x = x + ((error * sx).sum((1, 2)) / sx.square().sum((1, 2)).clamp(min=1e-3)).clamp(-1, 1)
            y = y + ((error * sy).sum((1, 2)) / sy.square().sum((1, 2)).clamp(min=1e-3)).clamp(-1, 1)
        misfits.append((mask - draw(x, y)).abs().sum((1, 2)) / area)
        xs.append(x)
        ys.append(y)
    return torch.stack(misfits, 1), torch.stack(xs, 1), torch.stack(ys, 1)


def _verdict(i: int, misfit: Tensor, x: Tensor, y: Tensor, nearest: Tensor, to_palette: Tensor, W: int,
             H: int) -> tuple[Seen | None, str]:
    best = int(misfit[i].argmin())
    second = float(misfit[i].topk(2, largest=False).values[1])
    if float(misfit[i, best]) > MISFIT:
        return None, "a shape that is none of the shapes"
    if second - float(misfit[i, best]) < MARGIN:
        return None, "a shape between two shapes"
    if float(to_palette[i, nearest[i]]) > COLOR_MISFIT:
        return None, "a colour that is none of the colours"
    shape, size = TEMPLATES[best]
    thing = Thing(SIZES[size], COLORS[int(nearest[i])], SHAPES[shape])
    return Seen(thing, float(x[i, best]) / W, float(y[i, best]) / H, float(misfit[i, best])), ""


def _reading(found: list[tuple[Seen | None, str]], dusty: bool) -> Reading:
    objects = tuple(seen for seen, _ in found if seen is not None)
    reasons = [why for _, why in found if why]
    if dusty:
        reasons.append("dust")
    return Reading(objects, reasons[0] if reasons else "" if objects else "nothing is there")


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
