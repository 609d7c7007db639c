"""Attention with normalised queries and keys, and the position terms that go with it."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.blocks.chunked import chunked_attention


class Attention(nn.Module):
    """Multi-head self-attention over ``[B, N, D]`` with RMS-normalised queries and keys.

    QK-norm (Henry et al. 2020; Dehghani et al. 2023) bounds the logits, which keeps large learning
    rates stable.  ``bias`` is anything that broadcasts against the logits ``[B, heads, N, N]``: learned
    relative positions, a mask of -inf, or their sum.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads = heads
        # Three matrices in one product; kept apart so that the optimiser may treat each as a matrix.
        self.qkv = nn.Parameter(torch.empty(3, width, width).uniform_(-(width**-0.5), width**-0.5))
        self.out = nn.Linear(width, width, bias=False)
        self.q_scale = nn.Parameter(torch.ones(width // heads))
        self.k_scale = nn.Parameter(torch.ones(width // heads))

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        B, N, D = x.shape
        q, k, v = F.linear(x, self.qkv.flatten(0, 1)).view(B, N, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rms_norm(q) * self.q_scale, rms_norm(k) * self.k_scale
        y = attend(q, k, v, bias)
        return self.out(y.transpose(1, 2).reshape(B, N, D))


def attend(q: Tensor, k: Tensor, v: Tensor, bias=None) -> Tensor:
    """softmax(q k / sqrt(d) + bias) v for ``[B, heads, N, d]``.

    bias: a tensor added to the logits, a bool tensor that is True where a query sees a key, or a ``BlockMask`` for
    FlexAttention.  Where torch's fused CPU kernel is slow the lines of ``attend_math`` are faster: with a learned
    bias, whose gradient it does not give, and in bfloat16, whose products it does not use (docs/log.md).
    """
    if bias is not None and not isinstance(bias, Tensor):
        from torch.nn.attention.flex_attention import flex_attention

        return flex_attention(q, k, v, block_mask=bias)  # type: ignore[return-value]
    if bias is not None and bias.requires_grad and torch.is_grad_enabled():
        return attend_math(q, k, v, bias)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else q.dtype
    if q.device.type == "cpu" and dtype == torch.bfloat16:
        return attend_pieces(q.to(dtype), k.to(dtype), v.to(dtype), bias)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def attend_math(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """The slow twin of ``attend``.  A query that sees no key is told 0."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is None or bias.dtype != torch.bool:
        return (logits if bias is None else logits + bias).softmax(-1) @ v
    y = logits.masked_fill(~bias, torch.finfo(logits.dtype).min).softmax(-1) @ v
    return y.masked_fill(~bias.any(-1, keepdim=True), 0.0)


def attend_pieces(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """``attend_math`` in pieces that stay in the cache (blocks/chunked.py); a query that sees no key is told 0."""
    if bias is None or bias.dtype != torch.bool:
        return chunked_attention(q, k, v, None if bias is None else bias.to(q.dtype))
    least = torch.finfo(q.dtype).min
    y = chunked_attention(q, k, v, torch.zeros_like(bias, dtype=q.dtype).masked_fill_(~bias, least))
    return y.masked_fill(~bias.any(-1, keepdim=True), 0.0)


def attend_heads(q: Tensor, k: Tensor, v: Tensor, bias=None) -> Tensor:
    """``attend`` on ``[B, N, heads, d]``, to ``[B, N, heads d]``; fewer heads of k and v are shared by those of q."""
    if k.shape[2] != q.shape[2]:
        k, v = (part.repeat_interleave(q.shape[2] // part.shape[2], dim=2) for part in (k, v))
    y = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), bias)
    return y.transpose(1, 2).flatten(2)


def attend_linear(q: Tensor, k: Tensor, v: Tensor, bias=None) -> Tensor:
    """Linear attention with ReLU features (Katharopoulos et al. 2020; Sana) on ``[B, N, heads, d]``.

    y = relu(q) (relu(k)' v) / (relu(q) sum relu(k)), in float32, where sums over many tokens need it.
    bias: a bool mask ``[B, 1, 1, N]`` of keys, or None.  Any other mask or bias, one of pairs, costs N^2 again.
    """
    q, k, v = (part.transpose(1, 2) if part.dtype == torch.float64 else part.transpose(1, 2).float()
               for part in (F.relu(q), F.relu(k), v))
    if bias is not None and bias.shape[-2] > 1:
        pairs = (q @ k.transpose(-1, -2)) * (bias if bias.dtype == torch.bool else bias.exp())
        return (pairs @ v / (pairs.sum(-1, keepdim=True) + 1e-15)).transpose(1, 2).flatten(2)
    if bias is not None:
        k = k * bias.transpose(-1, -2)
    y = q @ (k.transpose(-1, -2) @ v) / (q @ k.sum(-2)[..., None] + 1e-15)
    return y.transpose(1, 2).flatten(2)


def rms_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x / rms(x) over the last axis (Zhang and Sennrich 2019)."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


class RelativeBias(nn.Module):
    """A learned bias for every offset between two tokens, one table a head (Shaw et al. 2018; Raffel et al. 2020).

    The table holds a tenth of the bias: Adam moves every entry by about the learning rate, and a bias has
    to reach several units within a short training to make attention local.

    Offsets further than ``reach`` share the outermost entry, so that a sequence may be longer than any
    seen in training.  ``axes`` is 1 for text and 3 (frame, row, column) for media.

    Heads that differ before training divide the work much sooner than heads that are all alike:

        near    biases start at -slope * distance with slopes 2, 1, 1/2, ..., 0 (as in ALiBi, Press et al. 2022):
                from heads that see little beyond their neighbours to one that sees everything alike
        random  biases start normal with standard deviation 2: every head prefers other offsets
    """

    def __init__(self, heads: int, reach: tuple[int, ...], start: Literal["near", "random"] = "near"):
        super().__init__()
        self.reach = reach
        shape = [2 * r + 1 for r in reach]
        if start == "random":
            bias = 2 * torch.randn(heads, *shape)
        else:
            axes = torch.meshgrid(*(torch.arange(-r, r + 1.0) for r in reach), indexing="ij")
            slopes = torch.tensor([2.0 ** (1 - h) for h in range(heads - 1)] + [0.0])
            bias = -slopes.view(-1, *(1 for _ in reach)) * torch.stack(axes).square().sum(0).sqrt()
        self.table = nn.Parameter(bias / 10)

    def forward(self, positions: Tensor) -> Tensor:
        """``[heads, N, N]`` for integer ``positions`` ``[N, axes]``."""
        return looked_up(self.biases(), self.entries(positions))

    def biases(self) -> Tensor:
        """``[heads, E]``: all there are."""
        return 10 * self.table.flatten(1)

    def entries(self, positions: Tensor) -> Tensor:
        """``[N, N]``: which of them two ``positions`` ``[N, axes]`` have."""
        offset = positions[:, None] - positions[None]
        index = [offset[..., i].clamp(-r, r) + r for i, r in enumerate(self.reach)]
        flat = index[0]
        for i, r in zip(index[1:], self.reach[1:], strict=True):
            flat = flat * (2 * r + 1) + i
        return flat


def looked_up(table: Tensor, entries: Tensor) -> Tensor:
    """``table[:, entries]``: of ``[heads, E]`` the entries ``[N, M]``, ``[heads, N, M]``."""
    # index_select has a cheap deterministic gradient on the CPU, advanced indexing does not.
    return table.index_select(1, entries.flatten()).unflatten(1, entries.shape)
