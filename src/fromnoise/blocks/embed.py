"""Numbers to features: sinusoids, then a small network (Vaswani et al. 2017; Ho et al. 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoid(x: Tensor, waves: int, period: float = 10_000.0, shift: float = 0.0, sin_first: bool = False) -> Tensor:
    """``[...]`` to ``[..., waves]``: half cosines, half sines, with periods from 2 pi to 2 pi ``period``.

    ``shift`` = 1 makes the slowest wave exactly that slow, as the first DDPM code had it; later code has 0.
    """
    half = waves // 2
    rates = torch.exp(-math.log(period) * torch.arange(half, dtype=torch.float32, device=x.device) / (half - shift))
    angles = x.float()[..., None] * rates
    pair = (angles.sin(), angles.cos()) if sin_first else (angles.cos(), angles.sin())
    return torch.cat(pair, dim=-1)


class Embedder(nn.Sequential):
    """Linear, an activation, linear."""

    def __init__(self, inside: int, hidden: int, outside: int, bias: bool = True, activation: nn.Module | None = None):
        super().__init__(nn.Linear(inside, hidden, bias=bias), activation or nn.SiLU(),
                         nn.Linear(hidden, outside, bias=bias))


def sincos_2d(rows: Tensor, columns: Tensor, width: int) -> Tensor:
    """Fixed embeddings ``[h w, D]`` of places: a quarter of the features each for sin and cos of column and of row.

    Columns first, as in the published checkpoints (He et al. 2021, MAE; Peebles and Xie 2022).
    """
    rates = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64, device=rows.device) / (width // 4))
    row, column = (torch.cat([(n.double()[:, None] * rates).sin(), (n.double()[:, None] * rates).cos()], dim=1)
                   for n in (rows, columns))
    h, w = len(rows), len(columns)
    return torch.cat([column[None].expand(h, w, -1), row[:, None].expand(h, w, -1)], dim=-1).flatten(0, 1).float()
