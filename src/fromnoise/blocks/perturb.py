"""Layers disturbed on purpose, for guidance that leads away from what the network then says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Perturbation:
    """Which layers are disturbed, and how; by default none.

    identity: every place of the picture attends to itself and to the words, and to no other place (perturbed
    attention, Ahn et al. 2024);  skip: the layer is left out (skip-layer guidance).  layers: indices, from 0 at the
    input, of the layers that have attention.
    """

    layers: tuple[int, ...] = ()
    how: Literal["identity", "skip"] = "identity"

    def skips(self, layer: int) -> bool:
        return self.how == "skip" and layer in self.layers

    def bias(self, layer: int, bias: Tensor | None, words: int, tokens: Tensor) -> Tensor | None:
        """The attention bias of a layer over ``tokens`` ``[B, N, D]``, of which the first are words."""
        if self.how == "skip" or layer not in self.layers:
            return bias
        only = alone(words, tokens.shape[1] - words, tokens)
        return only if bias is None else bias + only


UNDISTURBED = Perturbation()


def alone(words: int, places: int, like: Tensor) -> Tensor:
    """The bias ``[1, 1, N, N]``, N = words + places, with which a place sees itself and the words alone."""
    bias = torch.zeros(words + places, words + places, device=like.device, dtype=like.dtype)
    others = ~torch.eye(places, dtype=torch.bool, device=like.device)
    bias[words:, words:].masked_fill_(others, float("-inf"))
    return bias[None, None]
