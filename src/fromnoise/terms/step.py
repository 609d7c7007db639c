"""A training step as the terms of the loss see it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fromnoise.process import Clocks, GaussianPath, Objective
from fromnoise.types import UserError


@dataclass(frozen=True)
class Step:
    """What a network was asked and what it said.

    output: its prediction at x = alpha x0 + sigma eps, all ``[B, T, C, h, w]``;  t: ``[B, T]``;  asked: the frames that
    are learned from, as in ``Clocks``.
    """

    output: Tensor
    x: Tensor
    x0: Tensor
    eps: Tensor
    t: Tensor
    path: GaussianPath
    objective: Objective
    asked: Tensor | None = None

    def of(self, media: Tensor) -> Tensor:
        """The frames of ``[B, T, ...]`` that are learned from, all of them unless some were given."""
        return Clocks(self.t, self.asked).of(media)


def block_number(block: int, depth: int, field: str) -> int:
    """``block``, counted from 0 or with -1 from the end, from 0; UserError where a network of ``depth`` lacks it."""
    if not -depth <= block < depth:
        raise UserError(f"{field} {block} is not a block of this network: its blocks are 0 to {depth - 1}.")
    return block % depth
