"""The built-in universe as a data set: captioned shapes without end, drawn as they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from pydantic_core import PydanticCustomError
from torch import Tensor

from fromnoise.config import spec
from fromnoise.data.universe import render, sample_scenes, sentences, vocabulary
from fromnoise.random import fold
from fromnoise.types import Batch, Source

Numbered = tuple[np.ndarray, Any]  # places [b] in a batch, and the scenes there, all of one number of objects


@spec
class Shapes:
    """Coloured shapes and how they lie, in words and pictures, with ground truth."""

    kind: Literal["shapes"] = "shapes"
    objects: Annotated[int, Field(ge=1, le=3)] = 2
    """Objects in a picture, 1 to 3."""
    fewest: Annotated[int, Field(ge=0, le=3)] = 0
    """Where above 0, pictures in turn hold fewest, fewest + 1, ... up to ``objects`` objects."""
    height: Annotated[int, Field(ge=16, le=1024)] = 32
    """Height in pixels."""
    width: Annotated[int, Field(ge=16, le=1024)] = 32
    """Width in pixels."""

    channels = 3
    frames = 1
    endless = True  # there is no list of its captions

    def __post_init__(self):
        if self.fewest > self.objects:
            raise PydanticCustomError("fewest", "should not have fewest above objects")

    @property
    def numbers(self) -> range:
        """The numbers of objects, which successive pictures take in turn."""
        return range(self.fewest or self.objects, self.objects + 1)

    def open(self, split: Literal["train", "test"]) -> ShapeSource:
        """Combinations to train on, or those that are held out (one in ten)."""
        return ShapeSource(self, split)


class ShapeSource(Source):
    """Example i is a function of (split, i); the keys are not needed."""

    def __init__(self, spec: Any, split: str):
        self.spec, self.held_out = spec, split == "test"

    def sample(self, keys: np.ndarray, objects: int) -> Any:
        """Scenes of so many objects, one for each key."""
        return sample_scenes(keys, objects, self.held_out)

    def said(self, scenes: Any) -> Sequence[Any]:
        """What each of the scenes shows; its string is the caption."""
        return sentences(scenes)

    def drawn(self, scenes: Any) -> Tensor:
        """Media of scenes."""
        return render(scenes, self.spec.height, self.spec.width)

    @property
    def captions(self) -> list[str]:
        return vocabulary()

    @property
    def groups(self) -> list[range]:
        return [range(len(self))]

    def __len__(self) -> int:
        return 2**31 - 1

    def choose(self, indices: Sequence[int], keys: Sequence[int]) -> tuple[list[int], list[str]]:
        return [0] * len(indices), self._text(self.scenes(indices))

    def pictures(self, indices: Sequence[int], versions: Sequence[int]) -> Tensor:
        return self._drawn(self.scenes(indices))

    def batch(self, indices: Sequence[int], keys: Sequence[int]) -> Batch:
        scenes = self.scenes(indices)  # once, for the pictures and for what is said of them
        return Batch(self._drawn(scenes), self._text(scenes), list(indices))

    def scenes(self, indices: Sequence[int]) -> list[Numbered]:
        """The scenes of the examples, those of one number of objects together."""
        numbers, where = self.spec.numbers, np.asarray(indices, dtype=np.int64)
        turn = where % len(numbers)
        rows = [np.flatnonzero(turn == i) for i in range(len(numbers))]
        return [(r, self.sample(fold(int(self.held_out), where[r]), number))
                for r, number in zip(rows, numbers, strict=True) if len(r)]

    def _text(self, scenes: list[Numbered]) -> list[str]:
        said = {row: str(s) for rows, some in scenes for row, s in zip(rows.tolist(), self.said(some), strict=True)}
        return [said[row] for row in sorted(said)]

    def _drawn(self, scenes: list[Numbered]) -> Tensor:
        """``[B, T, 3, height, width]``."""
        rows = torch.from_numpy(np.concatenate([rows for rows, _ in scenes]))
        drawn = torch.cat([self.drawn(some) for _, some in scenes])
        return drawn[rows.argsort()]

    def prompts(self) -> list[str]:
        """Captions worth showing: the first of this split."""
        return self.batch(range(12), range(12)).text
