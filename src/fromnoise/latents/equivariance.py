"""Equivariance of an autoencoder (Kouzelis et al. 2025, EQ-VAE): turning and shrinking latents does so to the picture.

    loss(decode(tau z), tau x)        tau: a resize and a number of quarter turns

which makes latents simpler to model, since what they say is then said alike everywhere and at every size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fromnoise.latents.coding import Autoencoder


@dataclass(frozen=True)
class Transform:
    """A resize of latents to ``size``, then ``turns`` quarter turns."""

    size: tuple[int, int]
    turns: int

    def __call__(self, x: Tensor, factor: int = 1) -> Tensor:
        """``[B, T, c, h, w]`` transformed; pictures of ``factor`` pixels a latent to ``factor`` times the size.

        Sizes change by the mean over the area that becomes a place, so that latents and pictures lose the same.
        """
        size = (self.size[0] * factor, self.size[1] * factor)
        y = x if size == x.shape[-2:] else F.interpolate(x.flatten(0, 1), size, mode="area").unflatten(0, x.shape[:2])
        return y.rot90(self.turns, (-2, -1))

    @staticmethod
    def draw(size: tuple[int, int], generator: torch.Generator, smallest: float = 0.25) -> Transform:
        """Of latents of ``size``: 0 to 3 turns, and a scale from ``smallest`` to 1, all alike likely."""
        scale = smallest + (1 - smallest) * float(torch.rand((), generator=generator))
        turns = int(torch.randint(4, (), generator=generator))
        return Transform((max(1, round(size[0] * scale)), max(1, round(size[1] * scale))), turns)


def equivariance(autoencoder: Autoencoder, media: Tensor, latents: Tensor, transform: Transform,
                 loss: Callable[[Tensor, Tensor], Tensor] = F.mse_loss) -> Tensor:
    """How far the decoded transform of ``latents`` is from the transform of the ``media`` they are of, by ``loss``.

    media ``[B, T, C, H, W]``;  latents ``[B, T, c, h, w]``, normalised, as ``encode`` or ``code`` gives them: the
    gradient reaches the encoder through them.
    """
    return loss(autoencoder.decode(transform(latents)), transform(media, autoencoder.factor))
