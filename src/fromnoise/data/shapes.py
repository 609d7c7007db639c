"""The built-in universe as a data set: captioned shapes without end, drawn as they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from fromnoise.config import spec
from fromnoise.data.universe import Scenes, render, sample_scenes, sentences, vocabulary
from fromnoise.random import fold
from fromnoise.types import Batch, Source


@spec
class Shapes:
    """Coloured shapes and how they lie, in words and pictures, with ground truth."""

    kind: Literal["shapes"] = "shapes"
    objects: Annotated[int, Field(ge=1, le=3)] = 2
    """Objects in every picture, 1 to 3."""
    height: Annotated[int, Field(ge=16, le=1024)] = 32
    """Height in pixels."""
    width: Annotated[int, Field(ge=16, le=1024)] = 32
    """Width in pixels."""

    channels = 3
    frames = 1
    endless = True  # there is no list of its captions

    def open(self, split: Literal["train", "test"]) -> ShapeSource:
        """Combinations to train on, or those that are held out (one in ten)."""
        return ShapeSource(self, split)


class ShapeSource(Source):
    """Example i is a function of (split, i); the keys are not needed."""

    def __init__(self, spec: Shapes, split: str):
        self.spec, self.held_out = spec, split == "test"

    @property
    def captions(self) -> list[str]:
        return vocabulary()

    @property
    def groups(self) -> list[range]:
        return [range(len(self))]

    def __len__(self) -> int:
        return 2**31 - 1

    def choose(self, indices: Sequence[int], keys: Sequence[int]) -> tuple[list[int], list[str]]:
        return [0] * len(indices), [str(s) for s in sentences(self.scenes(indices))]

    def pictures(self, indices: Sequence[int], versions: Sequence[int]) -> Tensor:
        return render(self.scenes(indices), self.spec.height, self.spec.width)

    def batch(self, indices: Sequence[int], keys: Sequence[int]) -> Batch:
        scenes = self.scenes(indices)  # once, for the pictures and for what is said of them
        media = render(scenes, self.spec.height, self.spec.width)
        return Batch(media, [str(s) for s in sentences(scenes)], list(indices))

    def scenes(self, indices: Sequence[int]) -> Scenes:
        return sample_scenes(fold(int(self.held_out), indices), self.spec.objects, self.held_out)

    def prompts(self) -> list[str]:
        """Captions worth showing: the first of this split."""
        return self.batch(range(12), range(12)).text
