"""In which order the frames of a clip come out of the noise: scheduling matrices as specs of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from fromnoise.config import spec
from fromnoise.sample.schedules import autoregressive, chunks, full_sequence, overlapping, pyramid

Count = Annotated[int, Field(ge=1)]


@spec
class FullSequence:
    """All frames at once, on one clock."""

    kind: Literal["full_sequence"] = "full_sequence"

    def matrix(self, times: Tensor, frames: int) -> Tensor:
        """``[rows, frames]`` for falling ``times`` ``[steps + 1]``."""
        return full_sequence(times, frames)


@spec
class Autoregressive:
    """One frame after the other."""

    kind: Literal["autoregressive"] = "autoregressive"

    def matrix(self, times: Tensor, frames: int) -> Tensor:
        return autoregressive(times, frames)


@spec
class Pyramid:
    """Each frame a few steps behind the one before it."""

    kind: Literal["pyramid"] = "pyramid"
    delay: Annotated[int, Field(ge=0)] = 1
    """Steps by which a frame is behind."""

    def matrix(self, times: Tensor, frames: int) -> Tensor:
        return pyramid(times, frames, self.delay)


@spec
class Chunks:
    """Some frames at once, each chunk finished before the next begins."""

    kind: Literal["chunks"] = "chunks"
    size: Count = 4
    """Frames of a chunk."""

    def matrix(self, times: Tensor, frames: int) -> Tensor:
        return chunks(times, frames, self.size)


@spec
class Overlapping:
    """Chunks of which each begins before the one before it is finished."""

    kind: Literal["overlapping"] = "overlapping"
    size: Count = 4
    """Frames of a chunk."""
    overlap: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of its steps that a chunk still has to go when the next one begins."""

    def matrix(self, times: Tensor, frames: int) -> Tensor:
        return overlapping(times, frames, self.size, self.overlap)


Order = Annotated[FullSequence | Autoregressive | Pyramid | Chunks | Overlapping, Field(discriminator="kind")]
