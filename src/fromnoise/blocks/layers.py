"""Small layers that networks share: time embedding, modulation, feed-forward, the transformer block."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.blocks.attention import Attention


class TimeEmbedding(nn.Module):
    """Noise level to features: sinusoids of t, then a two-layer network (Ho et al. 2020).

    The waves turn by 1 to 30 radians between clean and noise.  The usual 1,000 make neighbouring times
    strangers to each other, which a short training cannot mend, and t = 1 worst of all (docs/log.md).
    """

    def __init__(self, width: int, waves: int = 64):
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(0, math.log10(30), waves), False)
        self.inner, self.outer = nn.Linear(2 * waves, width), nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """``[...]`` times in [0, 1] to ``[..., D]``."""
        angles = t.float()[..., None] * self.frequencies  # type: ignore[operator]
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.inner.weight.dtype)
        return self.outer(F.silu(self.inner(waves)))


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
        return super().forward(x)


def lean_rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """RMS norm that keeps one float32 copy of x for the gradient where torch's own keeps two (docs/log.md)."""
    square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square()
    y = x * torch.rsqrt(square / x.shape[-1] + eps)
    return (y if weight is None else y * weight).to(x.dtype)


def norm(x: Tensor) -> Tensor:
    """Layer norm over the last axis without gain: the modulation (or the next matrix) has its own."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class Block(nn.Module):
    """One pre-norm transformer block; with ``modulation`` it is DiT's adaLN-zero block (Peebles and Xie 2022).

        x = x + g1 * attention((1 + a1) norm(x) + b1)
        x = x + g2 * feed_forward((1 + a2) norm(x) + b2)

    The six modulation vectors come from outside, ``[B, N, 6, D]`` or anything that broadcasts, so
    that tokens of different frames may follow different clocks.  ``mix`` is applied to the inputs of
    both sub-layers: networks use it for token shift.
    """

    def __init__(self, width: int, heads: int, ratio: float = 4.0):
        super().__init__()
        self.attention = Attention(width, heads)
        self.feed_forward = FeedForward(width, ratio)

    def forward(self, x: Tensor, modulation: Tensor | None = None, bias: Tensor | None = None,
                rotary: Tensor | None = None, mix=None) -> Tensor:
        b1, a1, g1, b2, a2, g2 = (None,) * 6 if modulation is None else modulation.unbind(-2)
        x = gated(x, self.attention(prepare(x, a1, b1, mix), bias, rotary), g1)
        return gated(x, self.feed_forward(prepare(x, a2, b2, mix)), g2)


def prepare(x: Tensor, scale: Tensor | None, shift: Tensor | None, mix=None) -> Tensor:
    """The input of a sub-layer: normalised, modulated and mixed."""
    y = norm(x)
    if scale is not None and shift is not None:
        y = torch.addcmul(shift, y, 1 + scale)
    return y if mix is None else mix(y)


def gated(x: Tensor, y: Tensor, gate: Tensor | None) -> Tensor:
    """x + gate * y."""
    return x + y if gate is None else torch.addcmul(x, y, gate)


def token_shift(y: Tensor, grid: tuple[int, int, int], start: int = 0) -> Tensor:
    """A quarter of the features taken from the four neighbours in the picture, a sixteenth from each.

    y: ``[B, start + T h w, D]``; the first ``start`` tokens (text) stay as they are.  Beyond the border
    is zero, which also tells tokens where the border is.  It costs no parameters and gives attention
    the locality a convolution has (RWKV's token shift, Peng et al. 2023, in two dimensions).
    """
    T, h, w = grid
    D = y.shape[-1]
    q = D // 16
    text, image = y[:, :start], y[:, start:]
    a = image.reshape(-1, T, h, w, D)
    shifted = torch.cat([
        F.pad(a[:, :, :-1, :, 0:q], (0, 0, 0, 0, 1, 0)),
        F.pad(a[:, :, 1:, :, q : 2 * q], (0, 0, 0, 0, 0, 1)),
        F.pad(a[:, :, :, :-1, 2 * q : 3 * q], (0, 0, 1, 0)),
        F.pad(a[:, :, :, 1:, 3 * q : 4 * q], (0, 0, 0, 1)),
        a[..., 4 * q :],
    ], dim=-1).reshape(image.shape)
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
