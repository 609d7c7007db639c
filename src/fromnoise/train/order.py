"""Which examples a step sees: a pure function of (seed, step), so a resume needs one integer.

Each epoch every group is shuffled and cut into batches, and the batches of all groups are shuffled
together; the last batch of a group may be smaller, so that no example is dropped or repeated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fromnoise.random import ORDER, fold

UNBOUNDED = 2**31 - 1  # a source this long is a generator: its examples are taken in order, from a place of the seed's


class Order:
    """The batches of a source whose ``groups`` hold indices that may share a batch."""

    def __init__(self, groups: Sequence[Sequence[int]], batch: int, seed: int):
        self.batch, self.seed = batch, seed
        self.groups = [np.asarray(g) if not isinstance(g, range) else g for g in groups]
        self.unbounded = len(self.groups) == 1 and len(self.groups[0]) >= UNBOUNDED
        self.examples = sum(map(len, self.groups))
        self.steps_per_epoch = sum(-(-len(g) // batch) for g in self.groups)
        self._epoch, self._batches = -1, []

    def indices(self, step: int) -> list[int]:
        """Examples of step 0, 1, 2, ..."""
        if self.unbounded:
            start = int(fold(self.seed, ORDER, 0)) + step * self.batch
            return [(start + i) % self.examples for i in range(self.batch)]
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._shuffle(epoch)
        chosen = self._batches[position]
        if self.examples < self.batch:  # fewer examples than a batch: repeat them under other noise
            chosen = np.resize(chosen, self.batch) if len(self.groups) == 1 else chosen
        return chosen.tolist()

    def _shuffle(self, epoch: int) -> list[np.ndarray]:
        random = np.random.Generator(np.random.Philox(int(fold(self.seed, ORDER, epoch))))
        batches = []
        for group in self.groups:
            shuffled = random.permutation(np.asarray(group))
            batches += [shuffled[i : i + self.batch] for i in range(0, len(shuffled), self.batch)]
        return [batches[i] for i in random.permutation(len(batches))]
