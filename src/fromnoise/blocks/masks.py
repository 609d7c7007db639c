"""Who may look at whom, as data, and the cache of those who no longer change."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mask:
    """Which keys a query may see; what attention kernels need is made from it.

    keys: ``[B, Nk]`` bool, False for padding;  queries, groups: ``[Nq]`` and ``[Nk]`` integers, with which a query
    sees the keys of its own and of earlier groups.  A frame is one group and a word of causal text is one, so that
    text is causal, a frame sees all of itself, and nobody sees what comes later (*block-causal*).
    """

    keys: Tensor | None = None
    queries: Tensor | None = None
    groups: Tensor | None = None

    def dense(self) -> Tensor | None:
        """A bool tensor that broadcasts against ``[B, heads, Nq, Nk]``, True where a query sees a key; None for all."""
        seen = None if self.keys is None else self.keys[:, None, None, :]
        if self.queries is not None and self.groups is not None:
            causal = (self.queries[:, None] >= self.groups[None])[None, None]
            seen = causal if seen is None else seen & causal
        return seen

    def blocks(self):
        """The same as a ``BlockMask`` for FlexAttention, which skips what nobody sees; None where all see all."""
        from torch.nn.attention.flex_attention import create_block_mask

        keys, queries, groups = self.keys, self.queries, self.groups
        if queries is None or groups is None:
            return None

        def sees(b, h, q, k):
            causal = queries[q] >= groups[k]
            return causal if keys is None else causal & keys[b, k]

        return create_block_mask(sees, None if keys is None else len(keys), None, len(queries), len(groups),
                                 device=str(queries.device))


@dataclass
class Cache:
    """Keys and values that every attention has already seen, first to last, for tokens that no longer change.

    ``hold``: whether the tokens of the next forward are kept as well.  Attention i of a network asks for its own
    with ``join(i, k, v)``.  groups: ``[N]``, those of the tokens held;  valid: ``[B, N]``, False for padding;
    frames, words: how many are held; the next frame stands after them;  text: whether the text is held.
    """

    hold: bool = True
    pairs: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    groups: Tensor | None = None
    valid: Tensor | None = None
    frames: int = 0
    words: int = 0
    text: bool = False

    def join(self, index: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values ``[B, N, heads, d]`` of the past and of now."""
        if index in self.pairs:
            past_k, past_v = self.pairs[index]
            k, v = torch.cat([past_k, k], dim=1), torch.cat([past_v, v], dim=1)
        if self.hold:
            self.pairs[index] = (k, v)
        return k, v

    def extend(self, mask: Mask, frames: int, words: int) -> Mask:
        """The mask over past and present keys; what is kept (``words`` and ``frames``) is past from now on."""
        assert mask.groups is not None
        groups = mask.groups if self.groups is None else torch.cat([self.groups, mask.groups])
        valid = mask.keys
        if self.valid is not None:
            now = valid if valid is not None else self.valid.new_ones(len(self.valid), len(mask.groups))
            valid = torch.cat([self.valid, now], dim=1)
        elif valid is not None and self.groups is not None:
            valid = torch.cat([valid.new_ones(len(valid), len(self.groups)), valid], dim=1)
        if self.hold:
            self.groups, self.valid = groups, valid
            self.frames, self.words, self.text = self.frames + frames, self.words + words, self.text or words > 0
        return Mask(valid, mask.queries, groups)
