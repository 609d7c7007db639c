"""Dispersive loss (Wang and He 2025): the features of different samples are pushed apart.

    L = log mean_ij exp(-D(h_i, h_j) / temperature)

This is InfoNCE without positive pairs, so it needs neither a second view nor a teacher nor a projector.  The mean is
over all pairs of a batch, a sample with itself among them, so that features already far apart are left alone.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fromnoise.config import spec
from fromnoise.terms.step import block_number


@spec
class Dispersive:
    """Features of one block, pushed apart."""

    weight: Annotated[float, Field(ge=0)] = 0.0
    """How much it counts beside the loss; 0 leaves it out (the paper: 0.5)."""
    block: int | None = None
    """The block whose features are meant, from 0, or -1 for the last; by default the middle one."""
    temperature: Annotated[float, Field(gt=0)] = 0.5
    """Distance below which samples count as near."""
    distance: Literal["l2", "cosine"] = "l2"
    """Squared Euclidean distance, a mean over features, or 1 - cosine."""

    def place(self, depth: int) -> int:
        """The number of the block in a network of ``depth``."""
        return (depth - 1) // 2 if self.block is None else block_number(self.block, depth, "train.dispersive.block")

    def loss(self, features: Tensor) -> Tensor:
        """From -log B, all apart, to 0, all the same, of ``features`` ``[B, ...]``."""
        h = features.flatten(1).float()
        if self.distance == "cosine":
            h = F.normalize(h, dim=1)
            distances = 1 - h @ h.T
        else:
            squares = h.square().sum(1)
            distances = (squares[:, None] + squares - 2 * h @ h.T) / h.shape[1]
        # A sample is at no distance from itself, whatever rounding says.
        itself = torch.eye(len(h), dtype=torch.bool, device=h.device)
        logits = (-distances / self.temperature).masked_fill(itself, 0.0)
        return logits.flatten().logsumexp(0) - 2 * torch.tensor(float(len(h))).log()
