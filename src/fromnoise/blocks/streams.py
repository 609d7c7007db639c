"""Streams of tokens on their way through a block: features, the clock they follow, and where they stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Clock:
    """What the noise level says to the tokens of a stream.

    signal: ``[B, R, S]``, one row for every clock;  row: ``[N]`` or ``[B, N]``, which clock each token follows, None
    where there is one for all, or one for each.
    """

    signal: Tensor
    row: Tensor | None = None

    def map(self, f: Callable[[Tensor], Tensor]) -> Clock:
        """The clock with ``f`` applied to its signal."""
        return Clock(f(self.signal), self.row)

    def spread(self, values: Tensor) -> Tensor:
        """Values ``[B, R, S]`` of the clocks to those of the tokens, ``[B, 1 or N, S]``."""
        if self.row is None:
            return values
        return values.index_select(1, self.row) if self.row.ndim == 1 else taken(values, self.row)

    def each(self) -> Clock:
        """The same with a clock for every token, so that what many blocks need is spread once."""
        return Clock(self.spread(self.signal))

    def mean(self) -> Clock:
        """One clock for all, the mean of what they say."""
        return self if self.signal.shape[1] == 1 else Clock(self.signal.mean(1, keepdim=True))

    def take(self, index: Tensor) -> Clock:
        """The clock of the tokens ``index`` ``[B, K]`` alone."""
        if self.row is not None:
            return Clock(self.signal, self.row[index])
        return self if self.signal.shape[1] == 1 else Clock(taken(self.signal, index))


@dataclass(frozen=True)
class Tokens:
    """A stream: features ``[B, N, D]``, its clock, and the turns ``[N, d/2]`` or ``[B, N, d/2]`` of its places, None
    where nothing is turned."""

    x: Tensor
    clock: Clock | None = None
    turns: Tensor | None = None

    def __len__(self) -> int:
        return self.x.shape[1]

    def become(self, x: Tensor) -> Tokens:
        """The same tokens, which are now ``x``."""
        return Tokens(x, self.clock, self.turns)

    def take(self, index: Tensor) -> Tokens:
        """The tokens ``index`` ``[B, K]`` alone, with their clocks and places."""
        clock = None if self.clock is None else self.clock.take(index)
        turns = self.turns
        if turns is not None:
            turns = turns[index] if turns.ndim == 2 else taken(turns, index)
        return Tokens(taken(self.x, index), clock, turns)

    @staticmethod
    def cat(first: Tokens, second: Tokens) -> Tokens:
        """Two streams as one sequence."""
        a, b, clock = first.clock, second.clock, second.clock
        if a is not None and b is not None and a is not b:
            rows = [torch.zeros(len(part), dtype=torch.long, device=part.x.device) if part.clock.row is None  # type: ignore
                    else part.clock.row for part in (first, second)]  # type: ignore[union-attr]
            clock = Clock(torch.cat([a.signal, b.signal], dim=1), torch.cat([rows[0], a.signal.shape[1] + rows[1]]))
        turns, known = None, [part for part in (first.turns, second.turns) if part is not None]
        if known:
            each = [known[0].new_ones(1, len(part), known[0].shape[-1]) if part.turns is None else
                    part.turns if part.turns.ndim == 3 else part.turns[None] for part in (first, second)]
            rows = max(len(part) for part in each)
            turns = torch.cat([part.expand(rows, -1, -1) for part in each], dim=1)
        return Tokens(torch.cat([first.x, second.x], dim=1), clock, turns)


@dataclass(frozen=True)
class Around:
    """What all streams of a block share: who sees whom, what is cached, and what the tokens stand on.

    mask: bool or bias that broadcasts against ``[B, heads, Nq, Nk]``, or a ``BlockMask``;  grid: frames, rows and
    columns of the picture;  text, text_mask: ``[B, L, D]`` and ``[B, L]``, or ``[B, N, L]`` where tokens see other
    words, for cross-attention;  join: of attention i, what its keys and values are with those of a cache;  mix: lets
    neighbours in the picture meet, ``[B, N, D]`` to the same, before every sub-layer; the stream "text" has none.
    """

    mask: Any = None
    join: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    grid: tuple[int, int, int] = (1, 1, 1)
    text: Tensor | None = None
    text_mask: Tensor | None = None
    mix: Callable[[Tensor], Tensor] | None = None

    def of(self, stream: str) -> Around:
        """What is around one of the streams."""
        return replace(self, mix=None) if stream == "text" and self.mix is not None else self


def taken(values: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` ``[B, K]`` of values ``[B, N, D]``."""
    return values.expand(len(index), -1, -1).gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def join(parts: Sequence[Tensor | None]) -> Tensor:
    """Tokens of several streams, one after the other, of those that have any."""
    found = [part for part in parts if part is not None]
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)
