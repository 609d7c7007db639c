"""Linear maps whose weights lie as the matrix products of this CPU want them, for networks that are done learning.

Plain products arrange the weights anew in every call, which for a frame's few tokens costs as much as the product.
oneDNN, which torch brings along, takes weights that were arranged once; its float32 products are also the faster ones
on CPUs not made by Intel, and with bfloat16 weights (and float32 around them) it uses the instructions for these.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fromnoise.blocks.feed_forward import FeedForward
from fromnoise.blocks.heads import Heads, Stack

M = TypeVar("M", bound=nn.Module)


class Packed(nn.Module):
    """As ``count`` linear maps of the same input in one product, ``[..., D]`` to ``[..., count * outside]``."""

    def __init__(self, weight: Tensor, bias: Tensor | None, count: int, dtype: torch.dtype):
        super().__init__()
        self.count, self.dtype = count, dtype
        self.weight = operations()._reorder_linear_weight(weight.detach().to(dtype).contiguous(), None)
        self.bias = None if bias is None else bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        y = operations()._linear_pointwise(x.to(self.dtype), self.weight, self.bias, "none", [], "")
        return y.to(x.dtype)

    def apart(self, x: Tensor) -> tuple[Tensor, ...]:
        """Each map's ``[..., outside]``."""
        return self(x).chunk(self.count, dim=-1)


def operations() -> Any:
    return torch.ops.mkldnn


def packable(device: torch.device) -> bool:
    """Whether this torch can arrange weights for a device."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return device.type == "cpu" and torch.backends.mkldnn.is_available() and all(
        hasattr(operations(), name) for name in names)


@torch.no_grad()
def packed(module: M, dtype: torch.dtype = torch.float32) -> M:
    """A copy whose tokens go through packed maps in attention and feed-forward; it cannot learn any more.

    What the noise level goes through stays as it is: it is one row, and many digits of it count.
    """
    copy = deepcopy(module)
    for part in copy.modules():
        if isinstance(part, Heads | FeedForward):
            for name, child in part.named_children():
                if isinstance(child, Stack):
                    setattr(part, name, Packed(child.weight.flatten(0, 1), child.bias, len(child.weight), dtype))
                elif isinstance(child, nn.Linear):
                    setattr(part, name, Packed(child.weight, child.bias, 1, dtype))
    return copy
