"""What the loop asks of a training method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from fromnoise.types import Batch, Source


class Method:
    """The loss of a batch, and whatever a way of training holds and does beside the system.

    system: what is trained, whose weights the loop updates, averages and saves.
    """

    def __init__(self, system: Any):
        self.system = system

    @classmethod
    def settled(cls, recipe: Any) -> Any:
        """The recipe with what is left to this machine and these data decided, as it is then written down."""
        return recipe

    def loss(self, batch: Batch, seed: int, step: int) -> Tensor:
        """The scalar loss of a batch whose media lie on the system's device; its randomness is of (seed, step)."""
        raise NotImplementedError

    def apart(self) -> frozenset[str]:
        """Names of what the system learns by optimisers of this method and not by those of the loop."""
        return frozenset()

    def follow(self, rate: float) -> None:
        """What is learned beside the system, after each of its steps.  rate: the factor on its learning rates."""

    def parts(self) -> dict[str, float]:
        """What the last loss was made of, by name, for the log."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs beside weights, average and optimisers of the system."""
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up what ``tensors`` gave."""

    def conclude(self, out: Path, source: Source, step: int) -> bool:
        """What is done at the end, when the system has its averaged weights; whether it has changed the system."""
        return False
