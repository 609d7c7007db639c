"""What a region of a picture shows: every shape and size laid over it, and the best one drawn again in colour."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fromnoise.data.universe.render import CENTROID, coverage
from fromnoise.data.universe.scene import RADIUS, SHAPES, SIZES

TEMPLATES = [(shape, size) for shape in range(len(SHAPES)) for size in range(len(SIZES))]
CANDIDATES = 3  # templates that are moved into place; the others are clearly worse where they were first laid
SOFTEST = 1.3  # how far a drawing may be softened; 1 is a blur of 0.7 pixels, 1 pixel for colour
PATCH = 3 / 32  # side of the patches in which flaws are sought, in units
LUMA = torch.tensor([0.299, 0.587, 0.114])  # JPEG's brightness


@dataclass(frozen=True)
class Fit:
    """How R regions are best explained.

    template: ``[R]`` index of TEMPLATES;  x, y: ``[R]`` pixels;  color: ``[R, 3]`` less the background;
    misfit: ``[R]`` what is left over, as a share of the drawing;  flaw: ``[R]`` the same, averaged over the
    worst patch;  margin: ``[R]`` by what share it leaves over less than the second best template does.
    """

    template: Tensor
    x: Tensor
    y: Tensor
    color: Tensor
    misfit: Tensor
    flaw: Tensor
    margin: Tensor


def fit(pixels: Tensor, color: Tensor, xs: Tensor, ys: Tensor, unit: int) -> Fit:
    """Fits of regions ``pixels [R, 3, h, w]`` (less the background, 0 where something else is).

    color: ``[R, 3]`` a first guess, less the background;  xs ``[R, w]``, ys ``[R, h]``: centres of the pixels;
    unit: pixels to the unit of length.
    """
    # How far each pixel has gone from the background to the colour: ~1 within, 0 outside.
    mask = (pixels * color[:, :, None, None]).sum(1) / color.square().sum(1)[:, None, None]
    template, x, y = _candidates(mask, xs, ys, unit)
    R, rows = len(mask), torch.arange(len(mask))
    pixels, color, mask, xs, ys = (v.repeat_interleave(CANDIDATES, 0) for v in (pixels, color, mask, xs, ys))
    drawn, x, y = _settle(mask, xs, ys, template.flatten(), x.flatten(), y.flatten(), unit)
    color, over = _paint(pixels, drawn, color)
    contrast = color.norm(dim=1).clamp(min=1e-6)
    misfit = (_length(over).sum((1, 2)) / (drawn.sum((1, 2)).clamp(min=1e-6) * contrast)).view(R, -1)
    least = misfit.topk(2, largest=False)
    best = rows * CANDIDATES + least.indices[:, 0]
    patch = round(unit * PATCH) // 2 * 2 + 1
    return Fit(
        template=template.flatten()[best], x=x[best], y=y[best], color=color[best],
        misfit=least.values[:, 0],
        flaw=_length(F.avg_pool2d(over[best], patch, 1)).amax((1, 2)) / contrast[best],
        margin=1 - least.values[:, 0] / least.values[:, 1].clamp(min=1e-6),
    )


def _candidates(mask: Tensor, xs: Tensor, ys: Tensor, unit: int) -> tuple[Tensor, Tensor, Tensor]:
    """The templates that fit best centroid on centroid, ``[R, CANDIDATES]``, and their places x and y."""
    R = len(mask)
    weight = mask.clamp(min=0)
    total = weight.sum((1, 2)).clamp(min=1e-6)
    x, y = (weight.sum(1) * xs).sum(1) / total, (weight.sum(2) * ys).sum(1) / total
    places, left = [], []
    for i, (shape, size) in enumerate(TEMPLATES):
        places.append(y - CENTROID[shape] * float(RADIUS[size]) * unit)
        drawn = _draw(xs, ys, torch.full((R,), i), x, places[-1], unit)
        left.append((mask - drawn).abs().sum((1, 2)) / drawn.sum((1, 2)).clamp(min=1e-6))
    template = torch.stack(left, 1).topk(CANDIDATES, largest=False).indices
    return template, x[:, None].expand(R, CANDIDATES), torch.stack(places, 1).gather(1, template)


def _settle(mask: Tensor, xs: Tensor, ys: Tensor, template: Tensor, x: Tensor, y: Tensor,
            unit: int) -> tuple[Tensor, Tensor, Tensor]:
    """Templates moved into place: the drawings ``[R, h, w]`` and their places x, y ``[R]``.

    Gauss-Newton on mask = a drawn(x, y) + b (blurred - drawn), each coordinate by itself.
    """
    for _ in range(2):
        drawn = _draw(xs, ys, template, x, y, unit)
        blurred = _blur(drawn)
        error = mask - drawn - _softness(mask, drawn, blurred)[:, None, None] * (blurred - drawn)
        dx = F.pad(blurred[:, :, :-2] - blurred[:, :, 2:], (1, 1)) / 2
        dy = F.pad(blurred[:, :-2] - blurred[:, 2:], (0, 0, 1, 1)) / 2
        x = x + (_dot(error, dx) / _dot(dx, dx).clamp(min=1e-3)).clamp(-1, 1)
        y = y + (_dot(error, dy) / _dot(dy, dy).clamp(min=1e-3)).clamp(-1, 1)
    return _draw(xs, ys, template, x, y, unit), x, y


def _paint(pixels: Tensor, drawn: Tensor, color: Tensor) -> tuple[Tensor, Tensor]:
    """Drawings ``[R, h, w]`` in the colours ``[R, 3]`` that fit best, and what they leave over ``[R, 3, h, w]``.

    Brightness and colour are softened apart from each other: JPEG keeps colour at half the resolution.
    """
    blurred = _blur(drawn)
    luma = torch.einsum("rchw,c->rhw", pixels, LUMA)
    bright = drawn + _softness(luma, drawn, blurred)[:, None, None] * (blurred - drawn)
    brightness = _dot(luma, bright) / _dot(bright, bright).clamp(min=1e-6)
    chroma = pixels - luma[:, None]
    hue = color - (color @ LUMA)[:, None]
    blurred = _blur(blurred)
    soft = _softness(torch.einsum("rchw,rc->rhw", chroma, hue), drawn, blurred)
    tinted = drawn + soft[:, None, None] * (blurred - drawn)
    hue = torch.einsum("rchw,rhw->rc", chroma, tinted) / _dot(tinted, tinted).clamp(min=1e-6)[:, None]
    over = pixels - (brightness[:, None, None] * bright)[:, None] - tinted[:, None] * hue[:, :, None, None]
    return brightness[:, None] + hue, over


def _softness(plane: Tensor, drawn: Tensor, blurred: Tensor) -> Tensor:
    """``[R]``: how far from drawn (0) to blurred (1) a plane of unknown strength is, by least squares."""
    change = blurred - drawn
    dd, dc, cc = _dot(drawn, drawn), _dot(drawn, change), _dot(change, change)
    pd, pc = _dot(plane, drawn), _dot(plane, change)
    strength, part = pd * cc - pc * dc, pc * dd - pd * dc  # both times the same determinant, which is positive
    return torch.where(strength.abs() > 1e-6, part / strength, 0).clamp(0, SOFTEST)


def _draw(xs: Tensor, ys: Tensor, template: Tensor, x: Tensor, y: Tensor, unit: int) -> Tensor:
    shape, size = torch.tensor(TEMPLATES)[template].T
    h, w = ys.shape[1], xs.shape[1]
    dx = (xs - x[:, None])[:, None, :].expand(-1, h, w)
    dy = (ys - y[:, None])[:, :, None].expand(-1, h, w)
    return coverage(dx, dy, torch.from_numpy(RADIUS)[size].float() * unit, shape)


def _blur(drawn: Tensor) -> Tensor:
    """[1, 2, 1] / 4 along both axes: a standard deviation of 0.7 pixels."""
    p = F.pad(drawn, (1, 1, 1, 1))
    p = (p[:, :, :-2] + 2 * p[:, :, 1:-1] + p[:, :, 2:]) / 4
    return (p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]) / 4


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2))


def _length(colors: Tensor) -> Tensor:
    """``[R, 3, h, w]`` to ``[R, h, w]``; Tensor.norm is far slower along a middle axis."""
    return colors.square().sum(1).sqrt()
