"""Sources made of another source."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fromnoise.types import Source


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

    def actions(self, indices: Sequence[int]) -> Tensor | None:
        return self.source.actions(indices)


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
