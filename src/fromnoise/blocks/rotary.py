"""Rotary positions over several axes: where every token stands, and how queries and keys are turned by it.

A token has one coordinate for each axis, and an axis turns its own share of the pairs of features
(Su et al. 2021, RoFormer; over axes as in Flux and Qwen2-VL).  What differs between systems is where words stand.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Words = Literal["zero", "first", "last", "before", "after", "none"]
"""Where words stand on the axes of the picture (i counts them, from ``start``):

    zero    at the origin (Flux 1)
    first   at (i, 0, 0), and the picture begins at (number of words, 0, 0) (Lumina 2, Z-Image)
    last    at (0, 0, 0, i), an axis of their own (Flux 2)
    before  at (i, i, i), and the picture begins at (number of words, 0, 0) (Qwen-Image-2.1)
    after   at (m + i, m + i, m + i) with m half of the longer side of the picture (Qwen-Image)
    none    nowhere: words are not turned (PRX)
"""


def coordinates(grid: tuple[int, int, int], words: int, axes: int, rule: Words, *, centred: bool = False,
                start: int = 0, corner: int = 0, lengths: Tensor | None = None, frame: int = 0,
                device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Coordinates of ``words`` words and of the places of a ``grid`` (frames, rows, columns).

    Returns ``[words, axes]`` and ``[T h w, axes]``; with ``lengths`` ``[B]`` (real words of each sample) and a rule by
    which the picture follows the words, the second is ``[B, T h w, axes]``.  ``start``: coordinate of the first word;
    ``corner``: that of the first patch on all three axes;  ``frame``: index of the first frame.
    With two axes a picture has rows and columns alone; from the fourth axis on it stands at 0.
    """
    T, h, w = grid
    rows, columns = (torch.arange(n, device=device) - (n - n // 2 if centred else 0) for n in (h, w))
    picture = torch.stack(torch.meshgrid(frame + torch.arange(T, device=device), rows, columns, indexing="ij"), -1)
    picture = picture + corner
    picture = picture.reshape(-1, 3)[:, 1:] if axes == 2 else picture.reshape(-1, 3)
    if axes > 3:
        picture = torch.cat([picture, picture.new_zeros(len(picture), axes - 3)], dim=1)
    count = torch.arange(start, start + words, device=device)[:, None]
    text = torch.zeros(words, axes, dtype=torch.long, device=device)
    if rule == "first":
        text[:, :1] = count
    elif rule == "last":
        text[:, -1:] = count
    elif rule == "before":
        text = count.expand(words, axes)
    elif rule == "after":
        text = (count + max(h // 2, w // 2)).expand(words, axes)
    if rule in ("first", "before"):
        along = torch.zeros(axes, dtype=torch.long, device=device)
        along[0] = 1
        if lengths is None:
            picture = picture + (start + words) * along
        else:
            picture = picture[None] + (start + lengths)[:, None, None] * along
    return text, picture


def turns(positions: Tensor, dims: tuple[int, ...], theta: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turns exp(i angle) ``[..., N, d / 2]`` for positions ``[..., N, axes]``; axis a has ``dims[a]`` features.

    dtype: of what is turned; turns have float32, and float64 where it has.
    """
    angles = []
    for axis, dim in enumerate(dims):
        rates = theta ** -(torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim)
        angles.append(positions[..., axis, None].double() * rates)
    angle = torch.cat(angles, dim=-1)
    exact = dtype if dtype == torch.float64 else torch.float32
    return torch.complex(angle.cos().to(exact), angle.sin().to(exact))


def turn(x: Tensor, by: Tensor) -> Tensor:
    """Neighbouring features of ``[B, N, heads, d]``, as complex numbers, times turns ``[N, d/2]`` or ``[B, N, d/2]``.

    In float32, or float64 where x is: bfloat16 would lose the angle.
    """
    exact = x if x.dtype == torch.float64 else x.float()
    turned = torch.view_as_complex(exact.unflatten(-1, (-1, 2))) * by.unsqueeze(-2)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)
