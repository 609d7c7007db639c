"""Small layers that networks share: norms, squared ReLU, shifts, and the block of the text encoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.blocks.attention import Attention


class _SquaredReLU(torch.autograd.Function):
    """relu(x)^2 with one product backward: its derivative is 2 relu(x), so relu(x) is all that is kept."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[override]
        y = F.relu(x)
        ctx.save_for_backward(y)
        return y * y

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[override]
        (y,) = ctx.saved_tensors
        return (grad * y).mul_(2)


class SquaredReLU(nn.Module):
    """relu(x)^2 (So et al. 2021, Primer)."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return _SquaredReLU.apply(x)  # type: ignore[return-value]
        y = F.relu(x)
        return y.mul_(y)


class FeedForward(nn.Sequential):
    """D -> ratio D -> D with a squared ReLU."""

    def __init__(self, width: int, ratio: float = 4.0):
        hidden = int(width * ratio)
        super().__init__(nn.Linear(width, hidden, bias=False), SquaredReLU(), nn.Linear(hidden, width, bias=False))


HALF = (torch.bfloat16, torch.float16)


class RMSNorm(nn.RMSNorm):
    """x / rms(x), with a gain if it is to have one (Zhang and Sennrich 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype in HALF and x.requires_grad and x.device.type == "cpu":
            return lean_rms_norm(x, self.weight, self.eps or torch.finfo(x.dtype).eps)
        return torch.rms_norm(x, self.normalized_shape, self.weight, self.eps)


def lean_rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """RMS norm that keeps one float32 copy of x for the gradient where torch's own keeps two (docs/log.md)."""
    square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square()
    y = x * torch.rsqrt(square / x.shape[-1] + eps)
    return (y if weight is None else y * weight).to(x.dtype)


def norm(x: Tensor) -> Tensor:
    """Layer norm over the last axis without gain: the modulation (or the next matrix) has its own."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class Block(nn.Module):
    """One pre-norm transformer block of the text encoder.

        x = x + attention(norm(x))
        x = x + feed_forward(norm(x))

    ``bias`` is added to the logits; ``mix`` is applied to the inputs of both sub-layers (``word_shift``).
    """

    def __init__(self, width: int, heads: int, ratio: float = 4.0):
        super().__init__()
        self.attention = Attention(width, heads)
        self.feed_forward = FeedForward(width, ratio)

    def forward(self, x: Tensor, bias: Tensor | None, mix: Callable[[Tensor], Tensor]) -> Tensor:
        x = x + self.attention(mix(norm(x)), bias)
        return x + self.feed_forward(mix(norm(x)))


def token_shift(y: Tensor, grid: tuple[int, int, int], start: int = 0) -> Tensor:
    """A quarter of the features taken from the four neighbours in the picture, a sixteenth from each.

    y: ``[B, start + T h w, D]``; the first ``start`` tokens (text) stay as they are.  Beyond the border
    is zero, which also tells tokens where the border is.  It costs no parameters and gives attention
    the locality a convolution has (RWKV's token shift, Peng et al. 2023, in two dimensions).
    """
    q = y.shape[-1] // 16
    text, image = y.split_with_sizes([start, y.shape[1] - start], dim=1)
    up, down, left, right, own = image.unflatten(1, grid).split_with_sizes([q, q, q, q, y.shape[-1] - 4 * q], dim=-1)
    shifted = torch.cat([  # a negative padding cuts off
        torch.constant_pad_nd(up, (0, 0, 0, 0, 1, -1)),
        torch.constant_pad_nd(down, (0, 0, 0, 0, -1, 1)),
        torch.constant_pad_nd(left, (0, 0, 1, -1)),
        torch.constant_pad_nd(right, (0, 0, -1, 1)),
        own,
    ], dim=-1).flatten(1, 3)
    return torch.cat([text, shifted], dim=1) if start else shifted


def word_shift(y: Tensor, mask: Tensor | None) -> Tensor:
    """A quarter of the features ``[B, L, D]`` taken from the word before, and a quarter from the word after.

    The one-dimensional twin of ``token_shift``; nothing is taken from padding (``mask [B, L]`` False).
    """
    q = y.shape[-1] // 4
    y = y if mask is None else y * mask[..., None]
    before, after = F.pad(y[:, :-1, :q], (0, 0, 1, 0)), F.pad(y[:, 1:, q : 2 * q], (0, 0, 0, 1))
    return torch.cat([before, after, y[..., 2 * q :]], dim=-1)


def mean_text(text: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of the real tokens, ``[B, L, D]`` to ``[B, D]``."""
    if mask is None:
        return text.mean(1)
    weight = mask.to(text.dtype)[..., None]
    return (text * weight).sum(1) / weight.sum(1)
