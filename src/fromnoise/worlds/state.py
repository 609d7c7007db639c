"""All that the future of a dreamt world depends on, beside the actions to come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.blocks import Ring
from fromnoise.blocks.ring import Held
from fromnoise.types import UserError


@dataclass
class State:
    """Rows of worlds that go on by themselves: what each remembers, and the seed of its noise.

    The number of the next frame of each row is in ``passed``.  A state that was copied, saved or put into another goes
    on as the one it was taken from.
    """

    ring: Ring
    seeds: list[int]

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def passed(self) -> tuple[int, ...]:
        """Frames that each row has behind it, those it began with among them."""
        return tuple(self.ring.ages)

    def copy(self) -> State:
        """The same, of which nothing is shared: a branch."""
        return self.rows(range(len(self)))

    @torch.inference_mode()
    def rows(self, which: int | Sequence[int]) -> State:
        """One or some of the rows, copied."""
        index = [which] if isinstance(which, int) else list(which)
        return State(self.ring.take(index), [self.seeds[i] for i in index])

    @torch.inference_mode()
    def put(self, row: int, other: State) -> None:
        """Let a row go on as the one row of ``other`` does.  UserError for a state of another world or of more rows."""
        if len(other) != 1 or self.ring.layout() != other.ring.layout():
            raise UserError(f"One row takes the place of one row of the same world (got {len(other)} rows, "
                            f"{other.ring.limit} + {other.ring.sink} frames): use rows(i) of a state that the same "
                            "Dream began.")
        self.ring.put(row, other.ring)
        self.seeds[row] = other.seeds[0]

    # ---- as tensors ---------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Everything as named tensors, which safetensors can hold; ``State.of`` reads them."""
        ring = self.ring
        found = {"seeds": torch.tensor(self.seeds), "ages": torch.tensor(ring.ages),
                 "ring": torch.tensor([ring.limit, ring.sink, ring.words])}
        if ring.valid is not None:
            found["valid"] = ring.valid
        for index, held in ring.held.items():
            found |= {f"{index}.k": held.k, f"{index}.v": held.v, f"{index}.first": held.first,
                      f"{index}.moved": torch.tensor(held.moved)}
        return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in found.items()}

    @staticmethod
    def of(tensors: dict[str, Tensor], device: torch.device | str = "cpu") -> State:
        """From what ``tensors`` gave.  UserError for anything else."""
        try:
            seeds, ages = tensors["seeds"].tolist(), tensors["ages"].tolist()
            limit, sink, words = tensors["ring"].tolist()
            layers = sorted({int(name.split(".")[0]) for name in tensors if "." in name})
            held = {i: Held(tensors[f"{i}.k"], tensors[f"{i}.v"], tensors[f"{i}.first"], tensors[f"{i}.moved"].tolist()
                            ).map(lambda part: part.to(device, copy=True)) for i in layers}
        except (KeyError, ValueError, RuntimeError) as missing:
            raise UserError(f"This is not the state of a world: {missing} is not as State.tensors() has it.") from None
        valid = tensors["valid"].to(device, copy=True) if "valid" in tensors else None
        return State(Ring(len(seeds), limit, sink, ages, words, valid, held), seeds)
