"""Who may look at whom, as data, and the cache of those who no longer change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mask:
    """Which keys a query may see; what attention kernels need is made from it.

    keys: ``[B, Nk]`` bool, False for padding;  queries, groups: ``[Nq]`` and ``[Nk]`` integers, with which a query
    sees the keys of its own and of earlier groups.  A frame is one group and a word of causal text is one, so that
    text is causal, a frame sees all of itself, and nobody sees what comes later (*block-causal*).  asking, documents:
    ``[Nq]`` and ``[Nk]`` integers, with which a query sees the keys of its own document alone.
    """

    keys: Tensor | None = None
    queries: Tensor | None = None
    groups: Tensor | None = None
    asking: Tensor | None = None
    documents: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether all queries see the same keys."""
        return self.queries is None and self.asking is None

    def dense(self) -> Tensor | None:
        """A bool tensor that broadcasts against ``[B, heads, Nq, Nk]``, True where a query sees a key; None for all."""
        seen = None if self.keys is None else self.keys[:, None, None, :]
        if self.queries is not None and self.groups is not None:
            causal = (self.queries[:, None] >= self.groups[None])[None, None]
            seen = causal if seen is None else seen & causal
        if self.asking is not None and self.documents is not None:
            own = (self.asking[:, None] == self.documents[None])[None, None]
            seen = own if seen is None else seen & own
        return seen

    def blocks(self):
        """The same as a ``BlockMask`` for FlexAttention, which skips what nobody sees; None where all see all."""
        from torch.nn.attention.flex_attention import create_block_mask

        if self.plain:
            return None
        keys, queries, groups, asking, documents = self.keys, self.queries, self.groups, self.asking, self.documents

        def sees(b, h, q, k):
            seen = q >= 0
            if queries is not None and groups is not None:
                seen = seen & (queries[q] >= groups[k])
            if asking is not None and documents is not None:
                seen = seen & (asking[q] == documents[k])
            return seen if keys is None else seen & keys[b, k]

        rows, columns = (queries, groups) if asking is None else (asking, documents)
        assert rows is not None
        assert columns is not None
        return create_block_mask(sees, None if keys is None else len(keys), None, len(rows), len(columns),
                                 device=str(rows.device))


@dataclass
class Cache:
    """Keys and values that every attention has already seen, first to last, for tokens that no longer change.

    The text is kept as soon as it has been seen: it is told t = 0 and sees itself alone, so that it is the same at
    every noise level.  ``hold``: whether the frames of the next forward are kept as well; a frame is worked on without
    and then, clean, seen once with it.  Attention i of a network asks for its own with ``join(i, k, v)``.

    groups: ``[N]``, those of the tokens held;  valid: ``[B, N]``, False for padding;  frames, words: how many are
    held;  keep: how many tokens of this forward are kept.
    """

    hold: bool = True
    pairs: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    groups: Tensor | None = None
    valid: Tensor | None = None
    frames: int = 0
    words: int = 0
    keep: int = 0

    @property
    def passed(self) -> int:
        """The number of the next frame."""
        return self.frames

    def map(self, f: Callable[[Tensor], Tensor], rows: int) -> Cache:
        """The same with ``f`` applied to what is held of each of the ``rows``, ``[rows, ...]``."""
        def of(held: Tensor) -> Tensor:
            return f(held.unflatten(0, (rows, -1))).flatten(0, 1)

        return replace(self, pairs={index: (of(k), of(v)) for index, (k, v) in self.pairs.items()},
                       valid=None if self.valid is None else f(self.valid))

    @staticmethod
    def cat(parts: Sequence[Cache]) -> Cache:
        """The rows of several that hold as many frames and words."""
        pairs = {index: (torch.cat([part.pairs[index][0] for part in parts]),
                         torch.cat([part.pairs[index][1] for part in parts])) for index in parts[0].pairs}
        valid = [part.valid for part in parts if part.valid is not None]
        return replace(parts[0], pairs=pairs, valid=torch.cat(valid) if valid else None)

    @property
    def lengths(self) -> Tensor | None:
        """``[B]``, real words of each sample; None where all are."""
        return None if self.valid is None else self.valid[:, : self.words].sum(1)

    def join(self, index: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values ``[B, N, heads, d]`` of the past and of now."""
        now = k.shape[1]
        if index in self.pairs:
            past_k, past_v = self.pairs[index]
            k, v = torch.cat([past_k, k], dim=1), torch.cat([past_v, v], dim=1)
        if self.keep:
            end = k.shape[1] - now + self.keep
            self.pairs[index] = (k[:, :end], v[:, :end])
        return k, v

    def extend(self, mask: Mask, frames: int, words: int) -> Mask:
        """The mask over past and present keys, of which first come ``words`` and then ``frames``."""
        assert mask.groups is not None
        past = 0 if self.groups is None else len(self.groups)
        groups = mask.groups if self.groups is None else torch.cat([self.groups, mask.groups])
        parts = [self.valid, mask.keys]
        if any(part is not None for part in parts):
            like = next(part for part in parts if part is not None)
            parts = [like.new_ones(len(like), n) if part is None else part
                     for part, n in zip(parts, (past, len(mask.groups)), strict=True)]
        valid = None if parts[0] is None else torch.cat(parts, dim=1)  # type: ignore[arg-type]
        self.keep = len(mask.groups) if self.hold else words
        if self.keep:
            end = past + self.keep
            self.groups, self.valid = groups[:end], None if valid is None else valid[:, :end]
            self.frames, self.words = self.frames + frames * self.hold, self.words + words
        return Mask(valid, mask.queries, groups)
