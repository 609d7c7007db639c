"""Media to tokens and back, and where in the frame a token lies."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def patchify(x: Tensor, p: int) -> Tensor:
    """``[B, T, C, H, W]`` to ``[B, T h w, C p p]`` with h = H / p and w = W / p."""
    B, T, C, H, W = x.shape
    x = x.reshape(B, T, C, H // p, p, W // p, p).permute(0, 1, 3, 5, 2, 4, 6)
    return x.reshape(B, T * (H // p) * (W // p), C * p * p)


def unpatchify(tokens: Tensor, p: int, shape: tuple[int, int, int, int]) -> Tensor:
    """The inverse of ``patchify`` for media of ``shape`` (T, C, H, W)."""
    T, C, H, W = shape
    x = tokens.reshape(-1, T, H // p, W // p, C, p, p).permute(0, 1, 4, 2, 5, 3, 6)
    return x.reshape(-1, T, C, H, W)


def feature_maps(tokens: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Tokens of patches ``[B, T h w, D]`` as pictures of features ``[B, T, D, h, w]``; ``grid`` is (T, h, w)."""
    return tokens.unflatten(1, grid).movedim(-1, 2)


def place_waves(h: int, w: int, waves: int, device: torch.device | None = None) -> Tensor:
    """Where in the frame each of ``h`` x ``w`` tokens lies, ``[h w, 2 waves]``, as cosines along both sides.

    Column k is cos(pi k y) and column waves + k is cos(pi k x), k = 1, ..., with y and x the centre of the
    token in [0, 1], so "on the left" reads alike at every size.  On h tokens these are the cosine transform's basis.
    """
    k = math.pi * torch.arange(1, waves + 1, device=device)
    rows, columns = (((torch.arange(n, device=device) + 0.5) / n)[:, None].mul(k).cos() for n in (h, w))
    return torch.cat([rows[:, None].expand(h, w, -1), columns[None].expand(h, w, -1)], dim=-1).flatten(0, 1)
