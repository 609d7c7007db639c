"""Scenes drawn: antialiased from signed distances, all objects of a batch at once."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fromnoise.data.universe.scene import EXTENT, SHAPES, Scenes

BACKGROUND = torch.tensor([247, 244, 237]) / 127.5 - 1
PALETTE = torch.tensor([
    [222, 53, 62],  # red
    [245, 133, 32],  # orange
    [246, 205, 38],  # yellow
    [42, 161, 92],  # green
    [45, 108, 223],  # blue
    [139, 67, 189],  # purple
]) / 127.5 - 1

# Position is the centre of the bounding box; sizes are chosen so that all shapes look equally large.
SQUARE, TRIANGLE, STAR, STAR_INNER = 0.9, 1.38, 1.3, 0.5
# How far below its position a shape's centroid lies, in radii.
CENTROID = (0.0, 0.0, 0.25 * TRIANGLE, STAR * (1 - math.cos(math.pi / 5)) / 2)
# How far each shape reaches from its position to either side, and up and down, in radii.
REACH = np.array([(1, 1), (SQUARE, SQUARE), (TRIANGLE * math.sqrt(3) / 2, TRIANGLE * 0.75),
                  (STAR * math.cos(math.pi / 10), STAR * (1 + math.cos(math.pi / 5)) / 2)])


def render(scenes: Scenes, height: int = 32, width: int = 32) -> Tensor:
    """``[B, 1, 3, height, width]`` in [-1, 1].  The unit of the scene is the shorter side."""
    B, K = scenes.shape.shape
    unit = min(height, width)
    frame = torch.tensor([width, height])
    centre = torch.from_numpy(scenes.position).float() * frame  # in pixels
    radius = torch.from_numpy(scenes.radius).float() * unit
    color = PALETTE[torch.from_numpy(scenes.color)]
    # Each object is drawn in a window of its own.
    window = min(2 * math.ceil(EXTENT * float(radius.max())) + 3, height, width) if B else 0
    corner = (centre - window / 2).round().long()
    corner = torch.minimum(corner.clamp(min=0), frame - window)
    xs, ys = corner[..., 0, None] + torch.arange(window), corner[..., 1, None] + torch.arange(window)
    dx = (xs + 0.5 - centre[..., 0, None])[:, :, None, :].expand(B, K, window, window)
    dy = (ys + 0.5 - centre[..., 1, None])[:, :, :, None].expand(B, K, window, window)
    kind = torch.from_numpy(scenes.shape)
    cover = coverage(dx.flatten(0, 1), dy.flatten(0, 1), radius.flatten(), kind.flatten()).view(B, K, -1, 1)
    where = (torch.arange(B).view(B, 1, 1, 1) * height + ys[..., None]) * width + xs[..., None, :]
    where = where.view(B, K, -1)
    media = BACKGROUND.repeat(B * height * width, 1)
    for k in range(K):  # later objects lie before earlier ones
        rows = where[:, k].flatten()
        below = media.index_select(0, rows).view(B, -1, 3)
        media.index_copy_(0, rows, below.lerp(color[:, k, None], cover[:, k]).view(-1, 3))
    return media.view(B, 1, height, width, 3).permute(0, 1, 4, 2, 3).contiguous()


def coverage(dx: Tensor, dy: Tensor, radius: Tensor, kind: Tensor) -> Tensor:
    """How much of each pixel an object covers, ``[M, h, w]`` in [0, 1].

    dx, dy: ``[M, h, w]`` pixels from its position;  radius: ``[M]`` pixels;  kind: ``[M]`` index of SHAPES.
    """
    distance = torch.empty_like(dx)
    for index, signed_distance in enumerate(DISTANCES):
        chosen = (kind == index).nonzero()[:, 0]
        if len(chosen):
            distance[chosen] = signed_distance(dx[chosen], dy[chosen], radius[chosen, None, None])
    return (0.5 - distance).clamp_(0, 1)


def circle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return torch.hypot(x, y) - r


def square(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - SQUARE * r


def triangle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Upright and equilateral, of circumradius TRIANGLE r: the largest of three half-planes."""
    y = y - CENTROID[2] * r  # from the centre of the bounding box to the centroid
    inradius = 0.5 * TRIANGLE * r
    return torch.maximum(y, 0.5 * (math.sqrt(3) * x.abs() - y)) - inradius


def star(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Five points up, by mirroring the plane onto one edge (after Quilez, "2D distance functions")."""
    outer = STAR * r
    y = CENTROID[3] * r - y
    x = x.abs()
    cos, sin = math.cos(math.pi / 5), math.sin(math.pi / 5)
    for nx in (cos, -cos):  # the mirrors' normals are (nx, -sin)
        over = 2 * (x * nx - y * sin).clamp(min=0)
        x, y = x - over * nx, y + over * sin
    x, y = x.abs(), y - outer
    # One edge: from the tip (0, 0) to the inner corner at angle pi/5.
    ex, ey = outer * STAR_INNER * sin, outer * (STAR_INNER * cos - 1)
    along = ((x * ex + y * ey) / (ex * ex + ey * ey)).clamp(0, 1)
    distance = torch.hypot(x - along * ex, y - along * ey)
    return torch.where(ex * y < ey * x, -distance, distance)


DISTANCES = (circle, square, triangle, star)
assert len(DISTANCES) == len(SHAPES)


def supersampled(scenes: Scenes, height: int, width: int, factor: int = 8) -> Tensor:
    """The slow twin of ``render``: drawn without antialiasing ``factor`` times as large and averaged."""
    big = torch.full((len(scenes), 3, height * factor, width * factor), 0.0) + BACKGROUND.view(1, 3, 1, 1)
    unit = min(height, width) * factor
    ys, xs = torch.meshgrid(torch.arange(height * factor) + 0.5, torch.arange(width * factor) + 0.5, indexing="ij")
    for b in range(len(scenes)):
        for k in range(scenes.shape.shape[1]):
            px, py = scenes.position[b, k] * np.array([width * factor, height * factor])
            inside = DISTANCES[scenes.shape[b, k]](xs - px, ys - py, torch.tensor(scenes.radius[b, k] * unit)) < 0
            big[b, :, inside] = PALETTE[scenes.color[b, k]][:, None]
    return torch.nn.functional.avg_pool2d(big, factor)[:, None]
