"""Layers that keep activations, weights and updates at unit magnitude on expectation (EDM2, Karras et al. 2024).

Written from the equations of the paper; "eq." are its numbers.  Every map from unit-magnitude inputs gives
unit-magnitude outputs, so that no group norm is needed and the learning rate means the same all through training.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.blocks.attention import attend
from fromnoise.blocks.convolution import Size, double, half
from fromnoise.blocks.perturb import Perturbation
from fromnoise.blocks.spatial import Words

RESIDUAL = 0.3  # weight of the residual branch in a sum (EDM2, appendix B.4)
CLIP = 256.0  # activations of a block are kept within this, far outside their range, for half precision


def unit(x: Tensor, dim: int | tuple[int, ...] = -1, eps: float = 1e-4) -> Tensor:
    """x over its root mean square along ``dim`` (eq. 30)."""
    size = x.shape[dim] if isinstance(dim, int) else torch.Size([x.shape[d] for d in dim]).numel()
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    return x / torch.add(eps, norm, alpha=size**-0.5).to(x.dtype)


def unit_silu(x: Tensor) -> Tensor:
    """SiLU over the root mean square it has on a normal input (eq. 81)."""
    return F.silu(x) / 0.596


def unit_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """(1 - t) a + t b at unit magnitude, for independent a and b (eq. 88)."""
    return a.lerp(b, t) / ((1 - t) ** 2 + t**2) ** 0.5


def unit_cat(a: Tensor, b: Tensor, t: float = 0.5) -> Tensor:
    """Channels of a and b side by side, each of them contributing as (1 - t) to t, at unit magnitude (eq. 103)."""
    n, m = a.shape[1], b.shape[1]
    size = ((n + m) / ((1 - t) ** 2 + t**2)) ** 0.5
    return torch.cat([a * (size * (1 - t) / n**0.5), b * (size * t / m**0.5)], dim=1)


class UnitLinear(nn.Module):
    """A linear map or convolution without bias whose output rows are used at unit norm (eqs. 47 and 66).

    While training, the stored rows are put back to unit magnitude at each call ("forced weight normalisation"), so
    that the learning rate alone sets how fast directions change.  ``gain`` multiplies the output.
    """

    def __init__(self, inside: int, outside: int, kernel: int = 0):
        super().__init__()
        shape = (outside, inside, kernel, kernel) if kernel else (outside, inside)
        self.weight = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        w, rows = self.weight, tuple(range(1, self.weight.ndim))
        if self.training and torch.is_grad_enabled():
            with torch.no_grad():
                w.copy_(unit(w, rows))
        w = unit(w, rows) * (gain * w[0].numel() ** -0.5)
        if w.ndim == 2:
            return F.linear(x, w.to(x.dtype))
        return F.conv2d(x, w.to(x.dtype), padding=w.shape[-1] // 2)


class UnitTimeFeatures(nn.Module):
    """Fourier features through one linear map: ``[...]`` times to ``[..., F]``."""

    def __init__(self, waves: nn.Module, width: int, features: int):
        super().__init__()
        self.waves, self.inner = waves, UnitLinear(width, features)

    def forward(self, t: Tensor) -> Tensor:
        return self.inner(self.waves(t).to(self.inner.weight.dtype))


class UnitBlock(nn.Module):
    """EDM2's residual block (its figure 21): no group norm, a learned gain on the modulation by time.

    On the way down the input is brought to unit magnitude at every place, which an encoder may do without loss.
    """

    def __init__(self, inside: int, outside: int, features: int, *, encoder: bool,
                 resample: Literal["down", "up"] | None = None):
        super().__init__()
        self.encoder, self.resample = encoder, resample
        self.skip = UnitLinear(inside, outside, 1) if inside != outside else None
        self.conv1, self.conv2 = UnitLinear(outside if encoder else inside, outside, 3), UnitLinear(outside, outside, 3)
        self.modulation = UnitLinear(features, outside)
        self.modulation_gain = nn.Parameter(torch.zeros([]))

    def forward(self, x: Tensor, features: Tensor, size: Size | None = None) -> Tensor:
        if self.resample is not None:
            x = half(x) if self.resample == "down" else double(x, size)
        if self.encoder:
            x = unit(x if self.skip is None else self.skip(x), 1)
        scale = self.modulation(features, self.modulation_gain)[..., None, None] + 1
        y = self.conv2(unit_silu(self.conv1(unit_silu(x)) * scale.to(x.dtype)))
        if not self.encoder and self.skip is not None:
            x = self.skip(x)
        return unit_sum(x, y, RESIDUAL).clip(-CLIP, CLIP)


class UnitAttention(nn.Module):
    """Attention over all places by cosine similarity: queries, keys and values of unit magnitude."""

    layers = 1

    def __init__(self, channels: int, heads: int, first: int = 0):
        super().__init__()
        self.first, self.heads = first, heads
        self.qkv, self.out = UnitLinear(channels, 3 * channels), UnitLinear(channels, channels)

    def forward(self, x: Tensor, words: Words | None, perturb: Perturbation) -> Tensor:
        if perturb.skips(self.first):
            return x
        B, C, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = unit(self.qkv(tokens).view(B, h * w, 3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = attend(q, k, v, perturb.bias(self.first, None, 0, tokens)).transpose(1, 2).reshape(B, h * w, C)
        return unit_sum(x, self.out(y).transpose(1, 2).reshape(x.shape), RESIDUAL).clip(-CLIP, CLIP)
