"""Five ways to tell a diffusion transformer a text, on one trunk.

They differ in nothing but where text and picture meet, so that at matched parameters (``matched``) a difference in
quality is a difference of the conditioning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from fromnoise.nets.trunk.house import house
from fromnoise.nets.trunk.settings import Trunk
from fromnoise.types import UserError


def cross(width: int = 768, heads: int = 12, depth: int = 12) -> Trunk:
    """Attempt 1: the picture looks at a text that stays as it is, by cross-attention (PixArt)."""
    return common(width, heads, cross=depth)


def double(width: int = 768, heads: int = 12, depth: int = 12) -> Trunk:
    """Attempt 2: text and picture each have their own weights and share the attention (SD3)."""
    return common(width, heads, double=depth, text_ends=True)


def double_single(width: int = 768, heads: int = 12, depth: int = 12) -> Trunk:
    """Attempt 3: a third of the blocks with weights of their own, then one set of weights for both (Flux)."""
    own = max(1, depth // 3)
    return common(width, heads, double=own, single=depth - own)


def single(width: int = 768, heads: int = 12, depth: int = 12) -> Trunk:
    """Attempt 4: one set of weights for text and picture from the start (Z-Image)."""
    return common(width, heads, single=depth)


def native(width: int = 768, heads: int = 12, depth: int = 12) -> Trunk:
    """Attempt 5: one sequence as in a language model: causal text, told that it is clean, and then the picture, which
    sees all of it and itself (Transfusion, Qwen-Image-2.1)."""
    return common(width, heads, single=depth, mask="causal", text=replace(house().text, clean=True))


def common(width: int, heads: int, **blocks: Any) -> Trunk:
    """The house transformer's trunk with other blocks; the text speaks through them alone."""
    return replace(house(width, heads, patch=2, pooled_text=False), **{"single": 0, **blocks})


ATTEMPTS: dict[str, Callable[..., Trunk]] = {f.__name__: f for f in (cross, double, double_single, single, native)}


def matched(make: Callable[[int, int, int], Trunk], parameters: int, *, channels: int, text_width: int | None,
            pooled_width: int | None = None, depth: int = 12, head: int = 64, within: float = 0.03) -> Trunk:
    """The trunk ``make(width, heads, depth)`` with so many ``parameters``, ``within`` a share of them.

    The width is a multiple of the ``head`` size.  Where no width fits at the wished ``depth``, the nearest depth at
    which one does is taken.  UserError where none does between half and twice the depth.
    """
    def size(heads: int, blocks: int) -> int:
        with torch.device("meta"):
            net = make(head * heads, heads, blocks).build(channels, text_width, pooled_width)
        return sum(p.numel() for p in net.parameters())

    for blocks in sorted(range(max(1, depth // 2), 2 * depth + 1), key=lambda d: (abs(d - depth), d)):
        low, high = 1, 2
        while size(high, blocks) < parameters:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if size(middle, blocks) < parameters else (low, middle)
        best = min((low, high), key=lambda heads: abs(size(heads, blocks) - parameters))
        if abs(size(best, blocks) / parameters - 1) <= within:
            return make(head * best, best, blocks)
    raise UserError(f"No {make.__name__} with heads of {head} has {parameters:,} parameters to {within:.0%}: "
                    "try smaller heads or another depth.")
