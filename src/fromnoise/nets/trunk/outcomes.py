"""What comes of each frame, foretold from a network's features: its reward, and whether the world ends with it.

The reward is a distribution over bins whose values grow exponentially, b_i = symexp(-10 ... 10), as in DreamerV3
(Hafner et al. 2023): its loss is the cross entropy with two-hot targets, and it is read as sum_i p_i b_i.  Rewards of
any magnitude are learned with the same loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.blocks.layers import norm

REACH = 10.0  # symlog of the largest reward, which is 22,025


def bins_of(count: int) -> Tensor:
    """The values of so many bins, an odd number, of which the middle one is 0."""
    half = count // 2
    at = REACH / half * torch.arange(-half, half + 1, dtype=torch.float64)
    return (at.sign() * at.abs().expm1()).float()


def two_hot(values: Tensor, bins: Tensor) -> Tensor:
    """``[..., n]`` weights of the two bins around each value, of which it is the mean; the ends where it is beyond."""
    values = values.clamp(float(bins[0]), float(bins[-1]))
    above = torch.searchsorted(bins, values.contiguous()).clamp(1, len(bins) - 1)
    low, high = bins[above - 1], bins[above]
    share = ((values - low) / (high - low))[..., None]
    return F.one_hot(above - 1, len(bins)) * (1 - share) + F.one_hot(above, len(bins)) * share


@dataclass(frozen=True)
class Outcome:
    """What is foretold of frames ``[B, T]``.

    reward: ``[B, T, n]`` logits of its bins;  end: ``[B, T]``, the logit that the world ends;  bins: ``[n]``.
    """

    reward: Tensor
    end: Tensor
    bins: Tensor

    @property
    def rewards(self) -> Tensor:
        """The expected reward of each frame ``[B, T]``."""
        return (self.reward.softmax(-1) * self.bins).sum(-1)

    @property
    def ended(self) -> Tensor:
        """The probability ``[B, T]`` that the world ends with each frame."""
        return self.end.sigmoid()

    def losses(self, rewards: Tensor, ends: Tensor) -> dict[str, Tensor]:
        """The cross entropies with what came, ``[B, T]`` float and bool, by name, mean over frames."""
        target = two_hot(rewards.float(), self.bins)
        return {"reward": -(target * self.reward.log_softmax(-1)).sum(-1).mean(),
                "end": F.binary_cross_entropy_with_logits(self.end, ends.float())}


class OutcomeHead(nn.Module):
    """A linear map of the mean over the places of each frame ``[B, T, D]``; it starts at zero."""

    bins: Tensor

    def __init__(self, width: int, bins: int):
        super().__init__()
        self.head = nn.Linear(width, bins + 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("bins", bins_of(bins), persistent=False)

    def forward(self, frames: Tensor) -> Outcome:
        said = self.head(norm(frames)).float()
        return Outcome(said[..., :-1], said[..., -1], self.bins)


@contextmanager
def foretelling(head: OutcomeHead | None) -> Iterator[list[Outcome]]:
    """While a network runs, what its head foretells, in a list; nothing without a head."""
    said: list[Outcome] = []
    if head is None:
        yield said
        return
    handle = head.register_forward_hook(lambda module, told, outcome: said.append(cast(Outcome, outcome)))
    try:
        yield said
    finally:
        handle.remove()
