"""Layers of deep compression: a residual block normed at its end, and EfficientViT's linear attention over pictures.

Cai et al. 2023 (EfficientViT), Chen et al. 2024 (DC-AE).  All on ``[N, D, h, w]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.blocks import attend_linear

Activation = Literal["silu", "relu"]
Norm = Literal["rms", "batch"]
ACTIVATIONS = {"silu": nn.SiLU, "relu": nn.ReLU}
EPS = 1e-5


class ChannelNorm(nn.Module):
    """x / rms(x) over channels, with gain and bias."""

    def __init__(self, width: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.rms_norm(x.movedim(1, -1), self.weight.shape, self.weight, EPS) + self.bias
        return y.movedim(-1, 1)


def norm(kind: Norm, width: int) -> nn.Module:
    """The norm at the end of a block."""
    return ChannelNorm(width) if kind == "rms" else nn.BatchNorm2d(width)


class DeepResidual(nn.Module):
    """x + norm(conv(act(conv(x))))."""

    def __init__(self, width: int, kind: Norm = "rms", activation: Activation = "silu"):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.activation, self.norm = ACTIVATIONS[activation](), norm(kind, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv2(self.activation(self.conv1(x))))


class AttentionBlock(nn.Sequential):
    """Linear attention among all places, then what a place does with its neighbours."""

    def __init__(self, width: int, head: int, scales: Sequence[int]):
        super().__init__(MultiscaleAttention(width, head, scales), GatedConvolution(width))


class MultiscaleAttention(nn.Module):
    """x + norm(attention(x)), linear attention with ReLU features.

    Beside queries, keys and values of a place there are as many of its neighbourhood for each of ``scales``, the side
    of a depthwise convolution of them; each set has heads of its own.
    """

    def __init__(self, width: int, head: int, scales: Sequence[int]):
        super().__init__()
        heads = width // head
        self.head, inner = head, heads * head
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.scales = nn.ModuleList(nn.Sequential(
            nn.Conv2d(3 * inner, 3 * inner, side, padding=side // 2, groups=3 * inner, bias=False),
            nn.Conv2d(3 * inner, 3 * inner, 1, groups=3 * heads, bias=False)) for side in scales)
        self.out, self.norm = nn.Linear(inner * (1 + len(scales)), width, bias=False), ChannelNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x.movedim(1, -1)).movedim(-1, 1)
        sets = torch.cat([qkv, *(scale(qkv) for scale in self.scales)], dim=1)
        places = sets.flatten(2).transpose(1, 2).unflatten(-1, (-1, 3 * self.head))  # [N, h w, heads of all sets, 3 d]
        y = self.out(attend_linear(*places.chunk(3, dim=-1)).to(x.dtype))
        return x + self.norm(y.transpose(1, 2).unflatten(2, x.shape[2:]))


class GatedConvolution(nn.Module):
    """x + norm(outer(a silu(b))) with (a, b) = depthwise 3x3 of silu(inner x) (Sana's mix-FFN)."""

    def __init__(self, width: int, ratio: int = 4):
        super().__init__()
        hidden = 2 * ratio * width
        self.inner = nn.Conv2d(width, hidden, 1)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.outer, self.norm = nn.Conv2d(hidden // 2, width, 1, bias=False), ChannelNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        y, gate = self.depthwise(F.silu(self.inner(x))).chunk(2, dim=1)
        return x + self.norm(self.outer(y * F.silu(gate)))
