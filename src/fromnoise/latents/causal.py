"""Layers for films that see no later frame (Yu et al. 2023, "MAGVIT-v2", section 3.2; Wan 2025, section 4.1).

Films are ``[B, T, D, h, w]``.  The first frame stands alone and the others in groups: where time is halved the first
stays and the others become one of two each, so that 1 + 2k frames become 1 + k, and where it is doubled the other way
round.  Before the first frame there are zeros: of a kernel a picture then meets the last slice alone, so that films of
one frame go through the network of pictures that these slices are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.latents.convolutional import EPS, SpatialAttention

Norm = Literal["group", "rms"]


class Past:
    """What the layers of one network remember of a film that comes in parts, which then give what the whole would.

    begun: whether the first frame has gone through.
    """

    def __init__(self):
        self.begun = False
        self._held: dict[nn.Module, Tensor] = {}

    def joined(self, layer: nn.Module, x: Tensor, count: int) -> Tensor:
        """``x`` behind the last ``count`` frames that the layer was given before, or zeros."""
        before = self._held.get(layer)
        whole = torch.cat([x.new_zeros(len(x), count, *x.shape[2:]) if before is None else before, x], dim=1)
        self._held[layer] = whole[:, -count:].clone()  # a view would keep all of the part
        return whole


def per_frame(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A layer of pictures ``[N, D, h, w]`` on every frame."""
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class CausalConv(nn.Conv3d):
    """A convolution over a frame and those before it; ``kernel``: (frames, side)."""

    def __init__(self, before: int, width: int, kernel: tuple[int, int] = (3, 3)):
        frames, side = kernel
        super().__init__(before, width, (frames, side, side), padding=(0, side // 2, side // 2))

    def forward(self, x: Tensor, past: Past) -> Tensor:  # type: ignore[override]
        return super().forward(past.joined(self, x, self.kernel_size[0] - 1).transpose(1, 2)).transpose(1, 2)


class PlaceNorm(nn.Module):
    """x / rms(x) over the channels of each place, times a gain."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * (len(self.weight) ** 0.5 * self.weight[:, None, None])


def norm(kind: Norm, width: int, groups: int) -> nn.Module:
    """A norm of pictures: over groups of channels of a frame, or over the channels of each place."""
    return nn.GroupNorm(groups, width, EPS) if kind == "group" else PlaceNorm(width)


class CausalResidual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 convolution on x where the width changes."""

    def __init__(self, before: int, width: int, kind: Norm, groups: int):
        super().__init__()
        self.norm1, self.conv1 = norm(kind, before, groups), CausalConv(before, width)
        self.norm2, self.conv2 = norm(kind, width, groups), CausalConv(width, width)
        self.skip = nn.Identity() if before == width else nn.Conv2d(before, width, 1)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        y = self.conv1(F.silu(per_frame(self.norm1, x)), past)
        return per_frame(self.skip, x) + self.conv2(F.silu(per_frame(self.norm2, y)), past)


class CausalLevel(nn.ModuleList):
    """Residual blocks, the first of which changes the width."""

    def __init__(self, before: int, width: int, depth: int, kind: Norm, groups: int):
        super().__init__(CausalResidual(before if i == 0 else width, width, kind, groups) for i in range(depth))

    def forward(self, x: Tensor, past: Past) -> Tensor:
        for block in self:
            x = block(x, past)
        return x


class CausalMiddle(nn.Module):
    """A residual block, attention within each frame, and another."""

    def __init__(self, width: int, kind: Norm, groups: int, attention: bool):
        super().__init__()
        self.first, self.second = (CausalResidual(width, width, kind, groups) for _ in range(2))
        self.attention = SpatialAttention(width, norm(kind, width, groups)) if attention else nn.Identity()

    def forward(self, x: Tensor, past: Past) -> Tensor:
        return self.second(per_frame(self.attention, self.first(x, past)), past)


class Halve(nn.Conv3d):
    """Half the frames: y_0 = x_0, and y_k is of x_(2k-2), x_(2k-1) and x_2k; it begins as x_2k."""

    def __init__(self, width: int):
        super().__init__(width, width, (3, 1, 1), stride=(2, 1, 1))
        begin_as_last(self)

    def forward(self, x: Tensor, past: Past) -> Tensor:  # type: ignore[override]
        whole = past.joined(self, x, 1)
        if past.begun:
            return super().forward(whole.transpose(1, 2)).transpose(1, 2)
        if x.shape[1] == 1:
            return x
        return torch.cat([x[:, :1], super().forward(x.transpose(1, 2)).transpose(1, 2)], dim=1)


class Double(CausalConv):
    """Twice the frames: the first stays, and of every other come two, which begin as copies of it."""

    def __init__(self, width: int):
        super().__init__(width, 2 * width, (3, 1))
        begin_as_last(self)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        first = 0 if past.begun else 1
        if x.shape[1] == first:
            return x
        pairs = super().forward(x[:, first:], past)  # the first frame is none of those that it sees
        return torch.cat([x[:, :first], pairs.unflatten(2, (2, -1)).flatten(1, 2)], dim=1)


@torch.no_grad()
def begin_as_last(conv: nn.Conv3d) -> None:
    """Let a convolution over frames give the last of them, as often as its channels allow."""
    conv.weight.zero_()
    copies = conv.out_channels // conv.in_channels
    conv.weight[:, :, -1, 0, 0] = torch.eye(conv.in_channels).repeat(copies, 1)
    assert conv.bias is not None
    conv.bias.zero_()


class Down(nn.Module):
    """Half the sides of every frame, and where asked half the frames."""

    def __init__(self, width: int, halved: bool):
        super().__init__()
        self.space = nn.Conv2d(width, width, 3, stride=2)
        self.frames = Halve(width) if halved else None

    def forward(self, x: Tensor, past: Past) -> Tensor:
        x = per_frame(self.space, F.pad(x, (0, 1, 0, 1)))  # as in encoders of pictures
        return x if self.frames is None else self.frames(x, past)


class Up(nn.Module):
    """Twice the frames where asked, and twice the sides of each."""

    def __init__(self, width: int, out: int, doubled: bool):
        super().__init__()
        self.frames = Double(width) if doubled else None
        self.space = nn.Conv2d(width, out, 3, padding=1)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        x = x if self.frames is None else self.frames(x, past)
        return per_frame(lambda frames: self.space(F.interpolate(frames, scale_factor=2.0, mode="nearest")), x)
