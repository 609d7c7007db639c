"""The newest frames and the first few in buffers that never grow: the memory of a world that goes on without end.

A buffer has the words and then one slot for each of ``sink + limit + 1`` frames.  Frame n goes into the slot

    n                                     where n < sink,
    sink + (n - sink) mod (limit + 1)     otherwise,

where it finds the sink + limit frames before it beside it and overwrites the one before these.  While it is worked on
its keys are written there anew with every look, and attention reads the buffer as it lies: nothing is copied or joined,
and softmax does not care for the order of keys.

Turned keys know differences of places alone.  Frames of the window keep the turn of their own number n; the words and
the sink, which would fall behind, are turned onwards by as many places as frames were dropped.  So a frame sees what
is held as if it had been all there was, and the ten thousandth is as the twentieth (positions within the cache, Xiao et
al. 2023, Efficient Streaming Language Models with Attention Sinks).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fromnoise.blocks.masks import Mask
from fromnoise.blocks.rotary import turn
from fromnoise.types import UserError

Ahead = Callable[[Tensor], Tensor]  # how keys move along: from numbers of frames [R] to turns [R, d/2]


@dataclass
class Held:
    """What one attention holds: k, v ``[R, words + slots n, heads, d]``, R a multiple of the ring's rows.

    first: ``[R, words + sink n, heads, d]``, the keys that stay, at the places where they first stood;  moved: by how
    many places those in k have moved on from there, for each row of the ring.
    """

    k: Tensor
    v: Tensor
    first: Tensor
    moved: list[int]

    def map(self, f: Callable[[Tensor], Tensor]) -> Held:
        return Held(f(self.k), f(self.v), f(self.first), list(self.moved))


@dataclass
class Ring:
    """A cache for one frame at a time, whose cost and memory do not grow; each row may be at another frame.

    What a forward sees it writes into the slot of the next frame; ``advance`` keeps what was written last.  Attention i
    of a network asks for its own with ``join(i, k, v, ahead)``.

    rows: B;  limit: frames before the next one that are seen, beside the first ``sink``;  ages: frames that each row
    has passed;  words: how many are held;  valid: ``[B, words]``, False for padding, None where all are real.
    """

    rows: int
    limit: int
    sink: int = 0
    ages: list[int] = field(default_factory=list)
    words: int = 0
    valid: Tensor | None = None
    held: dict[int, Held] = field(default_factory=dict)
    fresh: int = 0  # words that come with the present forward

    def __post_init__(self):
        self.ages = self.ages or [0] * self.rows

    # ---- where frames are ---------------------------------------------------------------------------------------

    @property
    def even(self) -> bool:
        """Whether all rows are at the same frame."""
        return len(set(self.ages)) == 1

    @property
    def passed(self) -> int | tuple[int, ...]:
        """The number of the next frame, or of that of each row."""
        return self.ages[0] if self.even else tuple(self.ages)

    @property
    def lengths(self) -> Tensor | None:
        """``[B]``, real words of each row; None where all are."""
        return None if self.valid is None else self.valid.sum(1)

    @property
    def seen(self) -> int:
        """Slots that are looked at: all, or the first where none of the others was written yet."""
        return min(max(self.ages), self.sink + self.limit) + 1

    def slot(self, frame: int) -> int:
        """Where a frame is."""
        return frame if frame < self.sink else self.sink + (frame - self.sink) % (self.limit + 1)

    def before(self, age: int) -> int:
        """Frames that the next one sees."""
        return min(age, self.sink + self.limit)

    def order(self, age: int) -> list[int]:
        """The slots of the frames that the next one sees, first to last, and its own."""
        count = self.before(age)
        return [self.slot(rank if rank < self.sink else age - count + rank) for rank in range(count + 1)]

    def layout(self) -> tuple[int, ...]:
        """What two rings have in common that may exchange rows."""
        return (self.limit, self.sink, self.words, *sorted(self.held))

    def advance(self) -> None:
        """Keep the frame that was written last."""
        self.ages = [age + 1 for age in self.ages]

    # ---- what a network asks for --------------------------------------------------------------------------------

    def extend(self, mask: Mask, frames: int, words: int) -> Mask:
        """The mask over the buffers, where ``words`` and one frame come with this forward."""
        assert mask.groups is not None
        if frames != 1:
            raise ValueError(f"a ring takes one frame at a time (got {frames})")
        self.fresh = words
        if words:
            self.words, self.valid = words, None if mask.keys is None else mask.keys[:, :words]
            return mask
        if self.even and self.valid is None:
            return Mask()
        there = torch.tensor([[slot <= self.before(age) for slot in range(self.seen)] for age in self.ages],
                             device=mask.groups.device).repeat_interleave(len(mask.groups), dim=1)
        real = there.new_ones(self.rows, self.words) if self.valid is None else self.valid
        return Mask(torch.cat([real, there], dim=1))

    def join(self, index: int, k: Tensor, v: Tensor, ahead: Ahead | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values ``[R, M, heads, d]`` of all that is seen, for those ``[R, N, heads, d]`` of now: the buffers.

        ahead: turns that move keys on by frames, where places are turns.  UserError for frames of another size.
        """
        size = k.shape[1] - self.fresh
        held = self.held[index] if index in self.held else self.begin(index, k, v, size)
        if held.k.shape[1] != self.words + self.slots * size or len(held.k) != len(k):
            raise UserError("A network goes on along time with frames of one size: those held have another than those "
                            "that come.")
        if ahead is not None and held.first.shape[1]:
            self.move(held, ahead)
        for buffer, now in ((held.k, k), (held.v, v)):
            if self.fresh:
                buffer[:, : self.words] = now[:, : self.fresh]
            self.write(buffer, now[:, self.fresh :], size)
        end = self.words + self.seen * size
        return held.k[:, :end], held.v[:, :end]

    def latest(self, index: int, h: Tensor, count: int) -> Tensor:
        """``[R, count, ...]``: the last frames of ``h`` ``[R, 1, ...]``, which is the newest of them; 0 before the
        first."""
        k, _ = self.join(index, h, h[..., :0])
        rows = k.unflatten(0, (self.rows, -1))
        parts = []
        for row, age in zip(rows, self.ages, strict=True):
            newest = row[:, self.order(age)[-count:]]
            missing = newest.new_zeros(len(newest), count - newest.shape[1], *newest.shape[2:])
            parts.append(torch.cat([missing, newest], dim=1))
        return torch.stack(parts).flatten(0, 1)

    def arranged(self, bias: Callable[[int], Tensor | None]) -> Tensor:
        """The bias ``[1 or B, heads, N, M]`` over the buffers, from ``bias(n)`` of words, n frames in a row and the
        next one."""
        parts = []
        for age in self.ages[:1] if self.even else self.ages:
            whole, count = bias(self.before(age)), self.before(age) + 1
            assert whole is not None
            words, frames = whole.split([self.words, whole.shape[-1] - self.words], dim=-1)
            frames = frames.unflatten(-1, (count, -1))
            slots = frames.new_zeros(*frames.shape[:-2], self.seen, frames.shape[-1])
            slots[..., self.order(age), :] = frames
            parts.append(torch.cat([words, slots.flatten(-2)], dim=-1))
        return torch.cat(parts)

    # ---- buffers ------------------------------------------------------------------------------------------------

    @property
    def slots(self) -> int:
        return self.sink + self.limit + 1

    def begin(self, index: int, k: Tensor, v: Tensor, size: int) -> Held:
        """Buffers for an attention, of frames of ``size`` tokens."""
        def empty(like: Tensor, slots: int) -> Tensor:
            return like.new_zeros(len(like), self.words + slots * size, *like.shape[2:])

        stays = empty(k, self.sink) if self.words or self.sink else k.new_zeros(len(k), 0, *k.shape[2:])
        self.held[index] = Held(empty(k, self.slots), empty(v, self.slots), stays, [0] * self.rows)
        return self.held[index]

    def write(self, buffer: Tensor, now: Tensor, size: int) -> None:
        """The frame of now into its slot."""
        places = [self.words + self.slot(age) * size for age in self.ages]
        if self.even:
            buffer[:, places[0] : places[0] + size] = now
            return
        rows = zip(buffer.unflatten(0, (self.rows, -1)), now.unflatten(0, (self.rows, -1)), places, strict=True)
        for row, new, at in rows:
            row[:, at : at + size] = new

    def move(self, held: Held, ahead: Ahead) -> None:
        """Keys that stay to where they stand beside the window."""
        due = [age - self.before(age) for age in self.ages]
        if due == held.moved:
            return
        count = held.first.shape[1]
        for key, first, new, old in zip(held.k.unflatten(0, (self.rows, -1)), held.first.unflatten(0, (self.rows, -1)),
                                        due, held.moved, strict=True):
            if new != old:
                if not old:
                    first.copy_(key[:, :count])
                key[:, :count] = turn(first, ahead(torch.tensor([new], device=first.device)))
        held.moved = due

    # ---- copies and rows ----------------------------------------------------------------------------------------

    def copy(self) -> Ring:
        """The same, of which nothing is shared."""
        return self.take(range(self.rows))

    def take(self, rows: Sequence[int]) -> Ring:
        """Some of the rows, copied."""
        index = list(rows)

        def of(part: Tensor) -> Tensor:
            return part.unflatten(0, (self.rows, -1))[index].flatten(0, 1)

        return replace(self, rows=len(index), ages=[self.ages[i] for i in index], fresh=0,
                       valid=None if self.valid is None else self.valid[index],
                       held={i: replace(h.map(of), moved=[h.moved[j] for j in index]) for i, h in self.held.items()})

    def put(self, row: int, other: Ring) -> None:
        """Take over the one row of ``other`` as row ``row``."""
        self.ages[row] = other.ages[0]
        if self.valid is not None and other.valid is not None:
            self.valid[row] = other.valid[0]
        for index, held in self.held.items():
            new = other.held[index]
            for buffer, part in ((held.k, new.k), (held.v, new.v), (held.first, new.first)):
                buffer.unflatten(0, (self.rows, -1))[row] = part
            held.moved[row] = new.moved[0]
