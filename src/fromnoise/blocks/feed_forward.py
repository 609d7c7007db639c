"""What a token does by itself, or with its neighbours in the picture: feed-forward layers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.blocks.heads import Stack
from fromnoise.blocks.layers import SquaredReLU
from fromnoise.blocks.settings import FeedForwardSpec

ACTIVATIONS = {"gelu": nn.GELU, "gelu_tanh": lambda: nn.GELU(approximate="tanh"), "silu": nn.SiLU, "relu2": SquaredReLU}


class FeedForward(nn.Module):
    """D -> hidden -> D; gated: the activation of one map times another."""

    def __init__(self, width: int, spec: FeedForwardSpec):
        super().__init__()
        hidden = spec.hidden(width)
        self.gated = spec.gated
        self.inner = Stack(2, width, hidden, spec.bias) if spec.gated else nn.Linear(width, hidden, bias=spec.bias)
        self.activation = ACTIVATIONS[spec.activation]()
        self.outer = nn.Linear(hidden, width, bias=spec.bias)

    def forward(self, h: Tensor, grid: tuple[int, int, int] | None = None) -> Tensor:
        y = self.inner(h)
        if self.gated:
            gate, y = y.chunk(2, dim=-1)
            return self.outer(self.activation(gate) * y)
        return self.outer(self.activation(y))


class ConvFeedForward(nn.Module):
    """Sana's mix-FFN (Xie et al. 2024): D -> 2 hidden, SiLU, depthwise 3x3 over the picture, gate, -> D."""

    def __init__(self, width: int, spec: FeedForwardSpec):
        super().__init__()
        hidden = spec.hidden(width)
        self.inner = nn.Linear(width, 2 * hidden)
        self.depthwise = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.outer = nn.Linear(hidden, width, bias=False)

    def forward(self, h: Tensor, grid: tuple[int, int, int]) -> Tensor:
        T, rows, columns = grid
        picture = F.silu(self.inner(h)).view(-1, rows, columns, self.depthwise.in_channels).permute(0, 3, 1, 2)
        y, gate = self.depthwise(picture).chunk(2, dim=1)
        return self.outer((y * F.silu(gate)).permute(0, 2, 3, 1).reshape(len(h), T * rows * columns, -1))
