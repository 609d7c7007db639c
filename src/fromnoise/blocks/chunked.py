"""Attention written out in pieces that stay in the cache, for where the fused kernel is slow (bfloat16 on a CPU).

Torch's fused CPU kernel multiplies bfloat16 at the speed of float32; plain matrix products are three times as fast.
Logits of all heads at once would have to be fetched from memory, and fresh memory costs more than the arithmetic, so
they are made for a few heads or rows at a time, and again for the backward pass: nothing of size N x L is kept.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

PIECE = 2**18  # logits that are written out at once


def chunked_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k / sqrt(d) + bias) v for ``[B, heads, N, d]``; ``bias`` gets no gradient."""
    return _Chunked.apply(q, k, v, bias)  # type: ignore[return-value]


def pieces(heads: int, N: int, L: int) -> Iterator[tuple[slice, slice]]:
    """Some heads with all of their rows, or, where that is too much, some rows of one head."""
    if N * L <= PIECE:
        step = max(1, PIECE // (N * L))
        yield from ((slice(h, h + step), slice(0, N)) for h in range(0, heads, step))
    else:
        step = max(1, PIECE // L)
        yield from ((slice(h, h + 1), slice(n, n + step)) for h in range(heads) for n in range(0, N, step))


def _weights(q: Tensor, k: Tensor, bias: Tensor | None, heads: slice, rows: slice) -> Tensor:
    """The attention weights of a piece."""
    logits = torch.bmm(q[heads, rows], k[heads].mT)
    if bias is not None:
        logits += bias[heads, rows]
    return logits.softmax(-1)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        B, H, N, d = q.shape
        L = k.shape[2]
        ctx.shape = (B, H)
        if bias is not None:
            bias = bias.expand(B, H, -1, L).flatten(0, 1).expand(-1, N, -1)  # one row where all rows share it
        q, k, v = (q * d**-0.5).reshape(B * H, N, d), k.reshape(B * H, L, d), v.reshape(B * H, L, d)
        y = torch.empty_like(q)
        for heads, rows in pieces(B * H, N, L):
            torch.bmm(_weights(q, k, bias, heads, rows), v[heads], out=y[heads, rows])
        ctx.save_for_backward(q, k, v, bias)
        return y.view(B, H, N, d)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        q, k, v, bias = ctx.saved_tensors
        (B, H), d = ctx.shape, q.shape[-1]
        grad = grad.reshape(q.shape)
        dq = torch.empty_like(q)
        whole = q.shape[1] * k.shape[1] <= PIECE  # all rows of a head in one piece
        dk, dv = ((torch.empty_like(z) if whole else torch.zeros_like(z, dtype=torch.float32)) for z in (k, v))
        for heads, rows in pieces(B * H, q.shape[1], k.shape[1]):
            p, g = _weights(q, k, bias, heads, rows), grad[heads, rows]
            ds = torch._softmax_backward_data(torch.bmm(g, v[heads].mT), p, -1, p.dtype)
            torch.bmm(ds, k[heads], out=dq[heads, rows])
            if whole:
                torch.bmm(p.mT, g, out=dv[heads])
                torch.bmm(ds.mT, q[heads, rows], out=dk[heads])
            else:
                dv[heads] += torch.bmm(p.mT, g)
                dk[heads] += torch.bmm(ds.mT, q[heads, rows])
        return (dq * d**-0.5).view(B, H, -1, d), *(z.to(k.dtype).view(B, H, -1, d) for z in (dk, dv)), None
