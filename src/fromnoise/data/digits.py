"""The 1,797 handwritten digits that come with scikit-learn: real scans, 8x8, one channel, offline.

Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI, 1998.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fromnoise.config import spec
from fromnoise.types import Source

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PHRASES = (
    "a handwritten {word}", "the digit {figure}", "{word}", "a scan of the number {figure}", "handwritten {figure}",
    "the number {word}, written by hand", "a picture of the digit {word}", "{figure}",
)


@spec
class Digits:
    """Handwritten digits, captioned in several phrasings."""

    kind: Literal["digits"] = "digits"

    channels = 1
    frames = 1
    height = 8
    width = 8

    @property
    def classes(self) -> dict[str, Sequence[str]]:
        """What a classifier of this data tells apart."""
        return {"digit": WORDS}

    def label(self, caption: str) -> tuple[int, ...]:
        """The class that a caption of this data names, one index for each entry of ``classes``."""
        return (_LABELS[caption],)

    def readings(self, caption: str) -> tuple[tuple[int, ...], ...]:
        """Every label that a right picture of the caption may be given: here the one it names."""
        return (self.label(caption),)

    def open(self, split: Literal["train", "test", "judge", "reference"]) -> DigitSource:
        """Two thirds of the scans to train on, or the third that is never trained on and that judges.

        reference: real pictures that the judge was not fitted on, the yardstick for generated ones: the scans
        to train on.
        """
        return DigitSource({"judge": "test", "reference": "train"}.get(split, split))


class DigitSource(Source):
    """One split, in memory."""

    def __init__(self, split: str):
        images, labels = _splits()[split]
        self.media = torch.from_numpy(images)[:, None, None]
        self.labels = labels

    @property
    def captions(self) -> list[str]:
        return [caption(label, phrase) for label in range(10) for phrase in range(len(PHRASES))]

    @property
    def groups(self) -> list[range]:
        return [range(len(self))]

    def __len__(self) -> int:
        return len(self.labels)

    def choose(self, indices: Sequence[int], keys: Sequence[int]) -> tuple[list[int], list[str]]:
        text = [caption(int(self.labels[i]), k % len(PHRASES)) for i, k in zip(indices, keys, strict=True)]
        return [0] * len(text), text

    def pictures(self, indices: Sequence[int], versions: Sequence[int]) -> Tensor:
        return self.media[list(indices)]

    def prompts(self) -> list[str]:
        """One canonical caption a class."""
        return [caption(label, 0) for label in range(10)]


def caption(label: int, phrase: int) -> str:
    return PHRASES[phrase].format(word=WORDS[label], figure=label)


_LABELS = {caption(label, phrase): label for label in range(10) for phrase in range(len(PHRASES))}


@lru_cache(maxsize=1)
def _splits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{"train", "test"}: (images ``[n, 8, 8]`` in [-1, 1], labels ``[n]``); every third scan of a class is test."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images, labels = (found["images"] / 8 - 1).astype(np.float32), found["target"]  # type: ignore[call-overload]
    rank = np.zeros(len(labels), dtype=int)
    for label in range(10):
        rank[labels == label] = np.arange((labels == label).sum())
    test = rank % 3 == 2
    return {"train": (images[~test], labels[~test]), "test": (images[test], labels[test])}
