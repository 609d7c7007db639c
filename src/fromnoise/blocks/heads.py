"""The maps around an attention: tokens to queries, keys and values by head, and back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.blocks.attention import attend_heads
from fromnoise.blocks.layers import RMSNorm
from fromnoise.blocks.rotary import turn
from fromnoise.blocks.settings import AttentionSpec

SMALL = 2**20  # numbers whose memory is not worth a second product


class Stack(nn.Module):
    """``count`` linear maps of the same input in one product; one matrix each to the optimiser."""

    def __init__(self, count: int, inside: int, outside: int, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, outside, inside).uniform_(-(inside**-0.5), inside**-0.5))
        self.bias = nn.Parameter(torch.zeros(count * outside)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D]`` to ``[..., count * outside]``."""
        return F.linear(x, self.weight.flatten(0, 1), self.bias)

    def apart(self, x: Tensor) -> tuple[Tensor, ...]:
        """Each map's ``[..., outside]``; of large ones the last is a product of its own, and its memory free sooner."""
        n, outside, inside = self.weight.shape
        if x.numel() // inside * n * outside <= SMALL:
            return self(x).chunk(n, dim=-1)
        head, tail = (None, None) if self.bias is None else self.bias.split([(n - 1) * outside, outside])
        first = F.linear(x, self.weight[:-1].flatten(0, 1), head).unflatten(-1, (n - 1, outside)).unbind(-2)
        return *first, F.linear(x, self.weight[-1], tail)


class Heads(nn.Module):
    """The maps around an attention: tokens to queries, keys and values by head, and back.

    asks: whether there are queries, and hence a way back.
    """

    def __init__(self, width: int, spec: AttentionSpec, asks: bool = True):
        super().__init__()
        self.spec, self.asks = spec, asks
        self.dim = d = width // spec.heads
        kv = spec.kv_heads or spec.heads
        self.grouped = asks and kv != spec.heads
        self.q = Stack(1, width, width, spec.bias) if self.grouped else None
        self.qkv = Stack(3 if asks and not self.grouped else 2, width, kv * d, spec.bias)
        self.q_norm = head_norm(width, d, spec) if asks else None
        self.k_norm = head_norm(kv * d, d, spec)
        self.gate = nn.Linear(width, width, bias=False) if asks and spec.gate else None
        self.out = nn.Linear(width, width, bias=spec.out_bias) if asks else None

    def ask(self, h: Tensor, turns: Tensor | None) -> tuple[Tensor | None, Tensor, Tensor]:
        """Queries, keys and values ``[B, N, heads, d]``."""
        *parts, v = self.qkv.apart(h)
        q, k = parts if len(parts) == 2 else (None, *parts)
        q = q if self.q is None else self.q(h)
        q = None if q is None else scaled(self.turned(q, self.q_norm, turns), self.spec.logit_scale(self.dim))
        return q, self.turned(k, self.k_norm, turns), v.unflatten(-1, (-1, self.dim))

    def turned(self, x: Tensor, norm: nn.Module | None, turns: Tensor | None) -> Tensor:
        """``[B, N, heads d]`` to heads, normalised and turned to their places."""
        across = self.spec.qk_norm == "rms_across"
        x = norm(x) if across and norm is not None else x
        x = x.unflatten(-1, (-1, self.dim))
        x = x if across or norm is None else norm(x)
        return x if turns is None else turn(x, turns)

    def answer(self, y: Tensor, h: Tensor) -> Tensor:
        """What the heads say, ``[B, N, D]``, to the stream that asked with ``h``."""
        assert self.out is not None
        return self.out(y if self.gate is None else y * self.gate(h).sigmoid())


def scaled(x: Tensor, by: float) -> Tensor:
    """x times a number, at no cost where that is 1."""
    return x if by == 1 else x * by


def head_norm(width: int, dim: int, spec: AttentionSpec) -> nn.Module | None:
    """The norm of queries or keys of heads of ``dim`` features, ``width`` all together."""
    size = width if spec.qk_norm == "rms_across" else dim
    if spec.qk_norm == "none":
        return None
    return nn.LayerNorm(size, eps=spec.eps) if spec.qk_norm == "layer" else RMSNorm(size, eps=spec.eps)


class CrossAttention(nn.Module):
    """The picture's queries over the text's keys and values; the text itself stays as it is."""

    def __init__(self, width: int, spec: AttentionSpec):
        super().__init__()
        heads = spec.cross_heads or spec.heads
        self.dim = width // heads
        self.q = nn.Linear(width, width)
        self.kv = Stack(2, width, width, True)
        self.out = nn.Linear(width, width)
        self.q_norm, self.k_norm = (head_norm(width, self.dim, spec) for _ in range(2))
        self.across, self.scale = spec.qk_norm == "rms_across", spec.logit_scale(self.dim)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        """x ``[B, N, D]``, text ``[B, L, D]``, mask ``[B, L]`` True for real tokens, or ``[B, N, L]``, of pairs."""
        k, v = self.kv(text).chunk(2, dim=-1)
        q, k = scaled(self.normed(self.q(x), self.q_norm), self.scale), self.normed(k, self.k_norm)
        if mask is not None:
            mask = mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
        y = attend_heads(q, k, v.unflatten(-1, (-1, self.dim)), mask)
        return self.out(y)

    def normed(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        x = norm(x) if self.across and norm is not None else x
        x = x.unflatten(-1, (-1, self.dim))
        return x if self.across or norm is None else norm(x)
