"""Group norm (Wu and He 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """``torch.nn.GroupNorm``, of which torch's CPU kernel for bfloat16 with channels innermost is worked around.

    That kernel takes three times as long as the one for float32, forward and backward, which costs more than turning
    the numbers into float32 and back.  What is kept for the backward pass stays bfloat16.
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and self.weight.dtype == torch.float32:
            return _ThroughFloat.apply(x, self.weight, self.bias, self.num_groups, self.eps)  # type: ignore[return-value]
        return super().forward(x)


def layout(x: Tensor) -> torch.memory_format:
    """Channels innermost, or not."""
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


def widened(x: Tensor) -> Tensor:
    """x in float32, laid out anew: of a side of one picture or place the strides say nothing, and the kernel minds."""
    return x.to(torch.float32, memory_format=layout(x))


class _ThroughFloat(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:  # type: ignore[override]
        x = x.contiguous(memory_format=layout(x))
        B, C = x.shape[:2]
        sizes = (B, C, x[0, 0].numel(), groups)
        y, mean, scale = torch.native_group_norm(widened(x), weight, bias, *sizes, eps)
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.sizes = sizes
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        x, weight, mean, scale = ctx.saved_tensors
        needed = list(ctx.needs_input_grad[:3])
        grad = grad.float().contiguous(memory_format=layout(x))  # the kernel takes both to lie alike
        dx, dw, db = torch.ops.aten.native_group_norm_backward(
            grad, widened(x), mean, scale, weight, *ctx.sizes, needed)
        return None if dx is None else dx.to(x.dtype), dw, db, None, None
