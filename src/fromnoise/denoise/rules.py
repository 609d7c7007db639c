"""Rules of guidance: what becomes of a strong estimate c and a weak one u of x0.

A rule is ``(c, u, s, x, t) -> x0``, with c, u, x of one shape ``[B, ...]`` and s, the scale, ready to multiply
them.  All give c where s = 1.  Those that measure length or spread do so per sample, over all other axes.

The plain rule is affine in c and u with weights that sum to one, so it is the same whether c and u are x0, eps,
v, velocity or score.  The others are not: ``in_space`` applies them to another prediction.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fromnoise.denoise.schedule import aligned
from fromnoise.process import GaussianPath, Prediction, from_x0, to_x0

Rule = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def linear(c: Tensor, u: Tensor, s: Tensor, *_: Tensor) -> Tensor:
    """u + s (c - u): classifier-free guidance (Ho and Salimans 2022)."""
    return u + s * (c - u)


def optimised(c: Tensor, u: Tensor, s: Tensor, *_: Tensor) -> Tensor:
    """u' + s (c - u') with u' the projection of c onto u (Fan et al. 2025, CFG-Zero*).

    Theirs is of velocities: see ``cfg_zero``.
    """
    return linear(c, (dot(c, u) / positive(dot(u, u))) * u, s)


def rescaled(share: float = 0.7, rule: Rule = linear) -> Rule:
    """``rule``, brought to the standard deviation of c by ``share`` of the way (Lin et al. 2023, section 3.4).

    Guidance widens what it guides, which over-exposes pictures.
    """

    def combine(c: Tensor, u: Tensor, s: Tensor, x: Tensor, t: Tensor) -> Tensor:
        guided = rule(c, u, s, x, t)
        return (share * spread(c) / positive(spread(guided)) + (1 - share)) * guided

    return combine


def projected(eta: float = 0.0, norm: float | None = None, momentum: float = 0.0) -> Rule:
    """Adaptive projected guidance (Sadat et al. 2024): c + (s - 1) d, with d made of c - u in three steps.

    1. momentum: d becomes d + momentum * (the d of the evaluation before).  Theirs is negative.
    2. norm: where d is longer than this, it is shortened to it; None leaves it.
    3. eta: the part of d along c, which saturates, is multiplied by eta; the rest is kept.

    eta 1 without the others is classifier-free guidance.  With momentum the rule remembers, and so serves one
    solve, from noise to clean: make it anew for the next.  ValueError where a time comes after a cleaner one, as
    far as that can be seen without waiting for a device, or where the shape is another.
    """
    past: tuple[Tensor, Tensor] | None = None

    def averaged(d: Tensor, t: Tensor) -> Tensor:
        nonlocal past
        if past is not None:
            before, then = past
            known = t.device.type == "cpu" and t.shape == then.shape
            if before.shape != d.shape or (known and bool((t > then).any())):
                raise ValueError("guidance with momentum serves one solve, from noise to clean: make it anew")
            d = d + momentum * before
        past = d, t
        return d

    def combine(c: Tensor, u: Tensor, s: Tensor, x: Tensor, t: Tensor) -> Tensor:
        d = averaged(c - u, t) if momentum else c - u
        if norm is not None:
            d = d * (norm / positive(dot(d, d).sqrt())).clamp(max=1)
        along = dot(d, c) / positive(dot(c, c)) * c
        return c + (s - 1) * (d + (eta - 1) * along)

    return combine


def in_space(rule: Rule, space: Prediction, path: GaussianPath) -> Rule:
    """``rule`` applied to another prediction than x0."""

    def combine(c: Tensor, u: Tensor, s: Tensor, x: Tensor, t: Tensor) -> Tensor:
        time = aligned(t, x)
        strong, weak = (from_x0(space, path, x0, x, time) for x0 in (c, u))
        return to_x0(space, path, rule(strong, weak, s, x, t), x, time)

    return combine


def normed(path: GaussianPath, patch: int | None = 2) -> Rule:
    """Guided velocities whose length in every ``patch`` x ``patch`` square, over all channels, is that of c.

    As Qwen-Image is guided, whose tokens are such squares.  Without a patch it is every row of every channel, as in
    diffusers' Lumina 2.

    Media ``[B, T, C, H, W]``; ValueError where a side is not a multiple of the patch.
    """

    def combine(c: Tensor, u: Tensor, s: Tensor, x: Tensor, t: Tensor) -> Tensor:
        guided = linear(c, u, s)
        return guided * (lengths(c, patch) / positive(lengths(guided, patch)))

    return in_space(combine, "velocity", path)


def lengths(v: Tensor, patch: int | None) -> Tensor:
    """The length of each square of ``[B, T, C, H, W]`` over its channels, as ``[B, T, 1, H, W]``, or of each row."""
    if patch is None:
        return v.square().sum(-1, keepdim=True).sqrt()
    if v.ndim != 5 or v.shape[-1] % patch or v.shape[-2] % patch:
        raise ValueError(f"squares of {patch} need media [B, T, C, H, W] whose sides are multiples of it (got "
                         f"{list(v.shape)})")
    squares = v.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))  # [B, T, C, h, p, w, p]
    length = squares.square().sum((2, 4, 6), keepdim=True).sqrt()
    return length.expand(*squares.shape[:2], 1, *squares.shape[3:]).flatten(-2).flatten(-3, -2)


def cfg_zero(path: GaussianPath) -> Rule:
    """The optimised scale of CFG-Zero*, in velocities; with ``zero_init`` it is the whole of Fan et al. 2025."""
    return in_space(optimised, "velocity", path)


# ---- measures of a sample -------------------------------------------------------------------------------


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of every sample, ``[B, 1, ...]``, summed in float32 or finer."""
    return _rows((_wide(a) * _wide(b)).flatten(1).sum(1), a)


def spread(x: Tensor) -> Tensor:
    """The standard deviation of every sample, ``[B, 1, ...]``."""
    return _rows(_wide(x).flatten(1).std(1), x)


def positive(x: Tensor) -> Tensor:
    """x, kept off zero."""
    return x.clamp(min=torch.finfo(x.dtype).tiny)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _rows(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1 for _ in like.shape[1:]))
