"""Sources made of another source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fromnoise.random import fold, uniforms
from fromnoise.types import Batch, Source


class Wrapped(Source):
    """A source as it is, for others to change a part of."""

    def __init__(self, source: Source):
        self.source, self.versions = source, source.versions

    @property
    def captions(self) -> Sequence[str]:
        return self.source.captions

    @property
    def groups(self) -> Sequence[Sequence[int]]:
        return self.source.groups

    @property
    def fingerprint(self) -> str:
        return self.source.fingerprint

    def __len__(self) -> int:
        return len(self.source)

    def choose(self, indices: Sequence[int], keys: Sequence[int]) -> tuple[list[int], list[str]]:
        return self.source.choose(indices, keys)

    def pictures(self, indices: Sequence[int], versions: Sequence[int]) -> Tensor:
        return self.source.pictures(indices, versions)

    def rates(self, indices: Sequence[int]) -> Tensor | None:
        return self.source.rates(indices)

    def actions(self, indices: Sequence[int]) -> Tensor | None:
        return self.source.actions(indices)

    def rewards(self, indices: Sequence[int]) -> Tensor | None:
        return self.source.rewards(indices)

    def ends(self, indices: Sequence[int]) -> Tensor | None:
        return self.source.ends(indices)


class First(Wrapped):
    """The first ``count`` examples of a source, or all where it has fewer."""

    def __init__(self, source: Source, count: int):
        super().__init__(source)
        self.count = min(count, len(source))

    @property
    def groups(self) -> Sequence[Sequence[int]]:
        whole = range(len(self.source))
        groups = [whole[: self.count] if g == whole else [i for i in g if i < self.count] for g in self.source.groups]
        return [group for group in groups if len(group)]

    def __len__(self) -> int:
        return self.count


STILL = 1  # tells the draws for single frames from those that cut the clips of the same keys


class Stills(Wrapped):
    """Films that in a share of the batches are single frames, as pictures are: joint training (Ho et al. 2022, VDM).

    A batch is of one kind, by the key of its first example, and then holds one frame of each film, by its own key.
    """

    def __init__(self, source: Source, share: float):
        super().__init__(source)
        self.share, self.versions = share, 0  # which frame stands alone is one more choice

    def batch(self, indices: Sequence[int], keys: Sequence[int]) -> Batch:
        batch, draws = self.source.batch(indices, keys), uniforms(fold(keys, STILL), 2)
        if draws[0, 0] >= self.share:
            return batch
        frames, rows = torch.from_numpy(draws[:, 1] * batch.media.shape[1]).long(), torch.arange(len(batch))
        alone = {name: value[rows, frames][:, None] for name in ("media", "actions", "rewards", "ends")
                 if (value := getattr(batch, name)) is not None}
        return replace(batch, **alone, fps=torch.zeros(len(batch)))
