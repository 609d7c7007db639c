"""Encoder and decoder of GroupNorm residual blocks, which KL, VQ and FSQ autoencoders share (Esser et al. 2021).

Every level but the last halves the picture.  The innermost is followed by attention between two more residual blocks,
and on levels named in ``attended``, counted from the picture inwards, every residual block is followed by one.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6


class Encoder(nn.Module):
    """Pictures ``[N, C, H, W]`` to features ``[N, out, H / 2^k, W / 2^k]``."""

    def __init__(self, channels: int, out: int, widths: tuple[int, ...], depth: int, groups: int, attention: bool,
                 attended: Collection[int] = ()):
        super().__init__()
        self.enter = nn.Conv2d(channels, widths[0], 3, padding=1)
        before = (widths[0], *widths[:-1])
        self.levels = nn.ModuleList(Level(before[i], width, depth, groups, i in attended)
                                    for i, width in enumerate(widths))
        self.down = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2) for width in widths[:-1])
        self.middle = Middle(widths[-1], groups, attention)
        self.norm, self.leave = GroupNormSiLU(groups, widths[-1], EPS), nn.Conv2d(widths[-1], out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for i, level in enumerate(self.levels):
            x = level(x)
            if i < len(self.down):
                x = self.down[i](F.pad(x, (0, 1, 0, 1)))  # one pixel on the right and below alone, as published
        return self.leave(self.norm(self.middle(x)))


class Decoder(nn.Module):
    """Latents ``[N, c, h, w]`` to pictures; ``widths`` from the picture inwards, as the encoder's."""

    def __init__(self, channels: int, out: int, widths: tuple[int, ...], depth: int, groups: int, attention: bool,
                 attended: Collection[int] = ()):
        super().__init__()
        widths = widths[::-1]
        self.enter = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.middle = Middle(widths[0], groups, attention)
        before = (widths[0], *widths[:-1])
        self.levels = nn.ModuleList(Level(before[i], width, depth, groups, len(widths) - 1 - i in attended)
                                    for i, width in enumerate(widths))
        self.up = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in widths[:-1])
        self.norm, self.leave = GroupNormSiLU(groups, widths[-1], EPS), nn.Conv2d(widths[-1], out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.enter(x))
        for i, level in enumerate(self.levels):
            x = level(x)
            if i < len(self.up):
                x = self.up[i](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.leave(self.norm(x))


class Level(nn.Sequential):
    """Residual blocks, the first of which changes the width."""

    def __init__(self, before: int, width: int, depth: int, groups: int, attention: bool):
        kind = Attended if attention else Residual
        super().__init__(*(kind(before if i == 0 else width, width, groups) for i in range(depth)))


class Middle(nn.Module):
    """A residual block, attention, and another."""

    def __init__(self, width: int, groups: int, attention: bool):
        super().__init__()
        self.first, self.second = Residual(width, width, groups), Residual(width, width, groups)
        self.attention = SpatialAttention(width, nn.GroupNorm(groups, width, EPS)) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.attention(self.first(x)))


class GroupNormSiLU(nn.GroupNorm):
    """silu(group norm)."""

    def forward(self, input: Tensor) -> Tensor:
        return F.silu(super().forward(input))


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 convolution on x where the width changes."""

    def __init__(self, before: int, width: int, groups: int):
        super().__init__()
        self.norm1, self.conv1 = GroupNormSiLU(groups, before, EPS), nn.Conv2d(before, width, 3, padding=1)
        self.norm2, self.conv2 = GroupNormSiLU(groups, width, EPS), nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Identity() if before == width else nn.Conv2d(before, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.conv2(self.norm2(self.conv1(self.norm1(x))))


class Attended(Residual):
    """A residual block followed by attention."""

    def __init__(self, before: int, width: int, groups: int):
        super().__init__(before, width, groups)
        self.attention = SpatialAttention(width, nn.GroupNorm(groups, width, EPS))

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(super().forward(x))


class SpatialAttention(nn.Module):
    """One head over all places of ``[N, D, h, w]``, added to the input."""

    def __init__(self, width: int, norm: nn.Module):
        super().__init__()
        self.norm = norm
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens)[:, None].chunk(3, dim=-1)
        y = self.out(F.scaled_dot_product_attention(q, k, v, scale=1 / math.sqrt(x.shape[1]))[:, 0])
        return x + y.transpose(1, 2).reshape(x.shape)
