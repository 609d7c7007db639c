"""Optical flow from coarse to fine (Lucas and Kanade 1981; Bouguet 2001): where each place of a picture has gone.

    a(x) = b(x + f(x))

Around every place the step d that leaves the least of |a - b(x + f + d)|^2, to first order and under a Gaussian window,
solves a system of two equations, G d = e.  It is solved a few times at each size of a pyramid of pictures, the smallest
first.  Where pictures say nothing of the movement G is about 0, and the flow stays what it was.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 2.0  # sigma of the window, in pixels
STEPS = 6  # at each size
SMALLEST = 8  # pixels of a side of the smallest picture
DAMPING = 1e-4  # added to G, in squared differences of a pixel; black to white is 4
AGREE = (0.01, 0.5)  # of Sundaram et al. 2010, section 4: there and back must lead home to within these


def flow(a: Tensor, b: Tensor) -> Tensor:
    """The flow ``[n, 2, H, W]``, (x, y) in pixels, between pictures ``[n, C, H, W]`` of any number of channels."""
    pyramid = [(a, b)]
    while min(pyramid[-1][0].shape[-2:]) >= 2 * SMALLEST:
        small, other = (F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) for x in pyramid[-1])
        pyramid.append((small, other))
    found = a.new_zeros(len(a), 2, *pyramid[-1][0].shape[-2:])
    for small, other in reversed(pyramid):
        size = small.shape[-2:]
        if found.shape[-2:] != size:
            found = 2 * F.interpolate(found, size, mode="bilinear", align_corners=False)
        for _ in range(STEPS):
            found = blur(found + step(small, warp(other, found)))
    return found


def step(a: Tensor, b: Tensor) -> Tensor:
    """The step ``[n, 2, H, W]`` from pictures ``b`` towards ``a``, at most a pixel along each axis."""
    dx, dy = slopes((a + b) / 2)
    error = a - b
    xx, xy, yy, xe, ye = (blur((u * v).sum(1, keepdim=True)) for u, v in (
        (dx, dx), (dx, dy), (dy, dy), (dx, error), (dy, error)))
    xx, yy = xx + DAMPING, yy + DAMPING
    return (torch.cat([yy * xe - xy * ye, xx * ye - xy * xe], 1) / (xx * yy - xy * xy)).clamp(-1, 1)


def slopes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along x and y; at the edge the picture goes on as it is there."""
    wide = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return (wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2]) / 2, (wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]) / 2


def blur(x: Tensor, sigma: float = WINDOW) -> Tensor:
    """Under a Gaussian window; at the edge the picture goes on as it is there."""
    reach = round(3 * sigma)
    line = torch.exp(-torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device).square() / (2 * sigma**2))
    line, flat = line / line.sum(), x.flatten(0, 1)[:, None]
    flat = F.conv2d(F.pad(flat, (reach, reach, 0, 0), mode="replicate"), line.view(1, 1, 1, -1))
    return F.conv2d(F.pad(flat, (0, 0, reach, reach), mode="replicate"), line.view(1, 1, -1, 1)).view_as(x)


def warp(x: Tensor, by: Tensor) -> Tensor:
    """``x(place + by(place))`` of pictures ``[n, C, H, W]``, bicubic between pixels; outside, its nearest edge."""
    H, W = x.shape[-2:]
    columns, rows = torch.arange(W, device=x.device) + by[:, 0], torch.arange(H, device=x.device)[:, None] + by[:, 1]
    grid = torch.stack([(2 * columns + 1) / W - 1, (2 * rows + 1) / H - 1], dim=-1)
    return F.grid_sample(x, grid.to(x), mode="bicubic", padding_mode="border", align_corners=False)


def visible(there: Tensor, back: Tensor) -> Tensor:
    """Which places ``[n, H, W]`` of the first picture are seen in the second: inside it, and not covered.

    Where the way there and the way back from there do not lead home, one of the pictures shows something else.
    """
    H, W = there.shape[-2:]
    columns, rows = torch.arange(W, device=there.device), torch.arange(H, device=there.device)[:, None]
    x, y = columns + there[:, 0], rows + there[:, 1]
    inside = (x >= 0) & (x <= W - 1) & (y >= 0) & (y <= H - 1)
    home = warp(back, there)
    lengths = there.square().sum(1) + home.square().sum(1)
    return inside & ((there + home).square().sum(1) < AGREE[0] * lengths + AGREE[1])
