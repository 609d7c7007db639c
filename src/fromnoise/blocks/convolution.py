"""Layers of convolutional networks: the residual block, and halving and doubling of a picture."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.blocks.group_norm import GroupNorm

Size = tuple[int, int]


class ResidualBlock(nn.Module):
    """norm, conv, modulation by time, conv, plus the input; the second convolution starts at zero.

        scale_shift   (1 + a) norm(h) + b, with a and b from time (ADM, Dhariwal and Nichol 2021)
        add           norm(h + b) (DDPM, Ho et al. 2020)

    ``resample`` halves or doubles the picture inside the block, on both of its paths (BigGAN; ADM).  With ``joins``
    a skip of the same width is added to the normalised input, at the same magnitude (simple diffusion, Hoogeboom et
    al. 2023, appendix).
    """

    def __init__(self, inside: int, outside: int, features: int, *, groups: int = 8, epsilon: float = 1e-5,
                 modulation: Literal["scale_shift", "add"] = "scale_shift",
                 resample: Literal["down", "up"] | None = None, joins: bool = False):
        super().__init__()
        self.resample, self.added = resample, modulation == "add"
        self.norm1, self.conv1 = GroupNorm(groups, inside, epsilon), nn.Conv2d(inside, outside, 3, padding=1)
        self.norm2, self.conv2 = GroupNorm(groups, outside, epsilon), nn.Conv2d(outside, outside, 3, padding=1)
        self.modulation = nn.Linear(features, outside if self.added else 2 * outside)
        self.skip = Pointwise(inside, outside, 1) if inside != outside else nn.Identity()
        self.norm_skip = GroupNorm(groups, inside, epsilon) if joins else None
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, features: Tensor, size: Size | None = None, skip: Tensor | None = None) -> Tensor:
        """x: ``[B, C, H, W]``;  features: ``[B, F]``, after their SiLU;  size: of the result where it is doubled."""
        y = self.norm1(x)
        if self.norm_skip is not None and skip is not None:
            y = (y + self.norm_skip(skip)) * 0.5**0.5
        y = silu(y)
        if self.resample is not None:
            x, y = (half(z) if self.resample == "down" else double(z, size) for z in (x, y))
        y = self.conv1(y)
        told = self.modulation(features)[..., None, None]
        if self.added:
            y = self.norm2(y + told)
        else:
            scale, shift = told.chunk(2, dim=1)
            y = torch.addcmul(shift, self.norm2(y), 1 + scale)
        return self.skip(x) + self.conv2(silu(y))


class Pointwise(nn.Conv2d):
    """A 1x1 convolution, where channels are innermost as the matrix product it is, which needs no copies there."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if x.is_contiguous():
            return super().forward(x)
        return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


def silu(x: Tensor) -> Tensor:
    """SiLU of a fresh tensor: in place where nobody will ask for its gradient."""
    return F.silu(x, inplace=not (torch.is_grad_enabled() and x.requires_grad))


def half(x: Tensor) -> Tensor:
    """A picture of half the size, by averages."""
    return F.avg_pool2d(x, 2)


def double(x: Tensor, size: Size | None) -> Tensor:
    """A picture of twice the size, or of ``size``, by repetition."""
    return F.interpolate(x, scale_factor=2.0) if size is None else F.interpolate(x, size=size)


class Down(nn.Module):
    """Half the picture: averages ("pool"), averages and a 1x1 convolution ("project"), or a strided one ("conv").

    Only "project" goes from ``inside`` to ``outside`` channels.  ``pad`` says where the strided convolution pads: on
    both sides, or, as DDPM does, at the end alone.
    """

    def __init__(self, inside: int, outside: int, how: Literal["pool", "project", "conv"], pad: str = "both"):
        super().__init__()
        self.ends, self.strided = pad == "end", how == "conv"
        self.conv = None
        if how == "project":
            self.conv = Pointwise(inside, outside, 1)
        elif how == "conv":
            self.conv = nn.Conv2d(inside, inside, 3, stride=2, padding=0 if self.ends else 1)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        if self.conv is None:
            return half(x)
        if not self.strided:
            return self.conv(half(x))
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.ends else x)


class Up(nn.Module):
    """Twice the picture: repetition ("pool"), with a 1x1 convolution before ("project") or a 3x3 one after ("conv")."""

    def __init__(self, inside: int, outside: int, how: Literal["pool", "project", "conv"]):
        super().__init__()
        self.before = Pointwise(inside, outside, 1) if how == "project" else None
        self.conv = nn.Conv2d(inside, inside, 3, padding=1) if how == "conv" else None

    def forward(self, x: Tensor, features: Tensor, size: Size) -> Tensor:
        if self.conv is None:
            return double(x if self.before is None else self.before(x), size)
        B, _, h, w = x.shape
        if x.device.type == "cpu" and size == (2 * h, 2 * w) and B * h * w >= WORTHWHILE:
            return double_and_convolve(x, self.conv.weight, self.conv.bias)
        return self.conv(double(x, size))


WORTHWHILE = 512  # places from which on a kernel may be prepared first


def double_and_convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution of the doubled picture, with 16 products a place in place of 36.

    Repetition is a transposed convolution with 2x2 ones; followed by the 3x3 one it is a transposed convolution with
    their 4x4 product, which reads the small picture.
    """
    step = torch.zeros(3, 4, dtype=weight.dtype, device=weight.device)
    step[[2, 1, 0], [0, 1, 2]] = 1
    step[[2, 1, 0], [1, 2, 3]] = 1
    kernel = (weight.flatten(0, 1).flatten(1) @ torch.kron(step, step)).view(*weight.shape[:2], 4, 4)
    return F.conv_transpose2d(x, kernel.transpose(0, 1), bias, stride=2, padding=1)
