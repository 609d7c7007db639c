"""The transformer block's magnitude-preserving layer: EDM2's rules (``magnitude``) for streams of tokens.

    x = unit(x)
    x = sum(x, out(attention of cosines(scaled x)))       scaled x: (1 + gain modulation) x, the gain learned from 0
    x = sum(x, outer(silu(inner(scaled x))))              sum, silu and all matrices keep unit magnitude

There are no norms with gains, no biases, shifts or gates.  Every token starts each block at unit magnitude, as in the
encoder of EDM2's U-Net, so that depth neither adds nor takes away magnitude (Karras et al. 2024, sections 2.3 to 2.5).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fromnoise.blocks.joint import BlockSpec, Vectors
from fromnoise.blocks.magnitude import CLIP, RESIDUAL, UnitLinear, unit, unit_silu, unit_sum
from fromnoise.blocks.rotary import turn
from fromnoise.blocks.streams import Around, Clock, Tokens


class UnitHeads(nn.Module):
    """Queries, keys and values of unit magnitude by head: logits are cosines times sqrt(d); and the way back."""

    def __init__(self, width: int, heads: int, asks: bool = True):
        super().__init__()
        self.dim, self.asks = width // heads, asks
        self.qkv = UnitLinear(width, (3 if asks else 2) * width)
        self.out = UnitLinear(width, width) if asks else None

    def ask(self, h: Tensor, turns: Tensor | None) -> tuple[Tensor | None, Tensor, Tensor]:
        """Queries, keys and values ``[B, N, heads, d]``; turning keeps their magnitude."""
        parts = unit(self.qkv(h).unflatten(-1, (3 if self.asks else 2, -1, self.dim))).unbind(2)
        *asked, v = parts
        if turns is not None:
            asked = [turn(part, turns) for part in asked]
        return (asked[0] if self.asks else None), asked[-1], v


class UnitStreamLayer(nn.Module):
    """The weights that one stream has in a magnitude-preserving block; it stands where a ``StreamLayer`` would."""

    def __init__(self, spec: BlockSpec, asks: bool = True, modulated: bool = True):
        super().__init__()
        self.asks = asks
        self.heads = UnitHeads(spec.width, spec.attention.heads, asks)
        self.modulation, self.gains = None, None
        if modulated:
            parts = 2 if asks else 1
            self.modulation = UnitLinear(spec.features, parts * spec.width)
            self.gains = nn.Parameter(torch.zeros(parts))
        if asks:
            hidden = spec.feed_forward.hidden(spec.width)
            self.inner, self.outer = UnitLinear(spec.width, hidden), UnitLinear(hidden, spec.width)

    def vectors(self, clock: Clock | None) -> list[Vectors]:
        """(nothing, scale, nothing) of attention and feed-forward."""
        if self.modulation is None or self.gains is None or clock is None:
            return [(None, None, None)] * 2
        scales = self.modulation(clock.signal).unflatten(-1, (len(self.gains), -1)) * self.gains[:, None]
        return [(None, clock.spread(scale), None) for scale in scales.unbind(-2)]

    def enter(self, tokens: Tokens, vectors: Vectors, around: Around) -> Tensor:
        """h, what the attention sees of the stream."""
        return scaled(unit(tokens.x), vectors)

    def leave(self, tokens: Tokens, h: Tensor, y: Tensor, vectors: list[Vectors], around: Around) -> Tensor:
        """x after the attention has said ``y``, and the feed-forward."""
        assert self.heads.out is not None
        x = unit_sum(unit(tokens.x), self.heads.out(y), RESIDUAL)
        y = self.outer(unit_silu(self.inner(scaled(x, vectors[1]))))
        return unit_sum(x, y, RESIDUAL).clip(-CLIP, CLIP)


def scaled(x: Tensor, vectors: Vectors) -> Tensor:
    """(1 + scale) x."""
    return x if vectors[1] is None else torch.addcmul(x, x, vectors[1])
