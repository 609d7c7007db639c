"""What a stage of a cascade is told: the small picture, with noise (Ho et al. 2021, Cascaded Diffusion Models).

    p(x0 | z, s),      z = alpha(s) small + sigma(s) eps,      s drawn for every example

A stage that was trained on clean small pictures alone takes the faults of those made before it for true.  With noise of
a level that it is told (noise-conditioning augmentation, as Imagen calls it) it learns how far to trust them.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fromnoise.config import spec
from fromnoise.process.gaussian import expand
from fromnoise.process.paths import Trigonometric

NOISE = Trigonometric()  # of the small picture, whatever the path of the run: it keeps the variance


@spec
class Upsampling:
    """A model that enlarges small pictures; with a factor of 1 it makes pictures of noise alone."""

    factor: Annotated[int, Field(ge=1, le=32)] = 1
    """How many times larger than the small picture's the sides of the picture are; 1: there is no small picture."""
    noise: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Most noise on the small picture, as t of a trigonometric path; training draws it evenly from 0 to this."""

    def channels(self, channels: int) -> int:
        """Channels the network is told beside the ``channels`` of x: those of the small picture, and the level."""
        return channels + 1 if self.factor > 1 else 0

    def levels(self, count: int, random: torch.Generator) -> Tensor:
        """``[count, 1]`` levels for training."""
        return self.noise * torch.rand(count, 1, generator=random)

    def shrink(self, media: Tensor) -> Tensor:
        """The small pictures of media ``[B, T, C, H, W]``: each pixel the mean of ``factor`` x ``factor``."""
        return F.avg_pool2d(media.flatten(0, 1), self.factor).unflatten(0, media.shape[:2])

    def enlarge(self, small: Tensor) -> Tensor:
        """Small pictures ``[B, T, C, h, w]`` at full size, by bicubic interpolation; it knows nothing of the data."""
        large = F.interpolate(small.flatten(0, 1), scale_factor=self.factor, mode="bicubic", align_corners=False)
        return large.unflatten(0, small.shape[:2])

    def told(self, small: Tensor, level: Tensor, eps: Tensor) -> Tensor:
        """The image of a condition, ``[B, T, C + 1, H, W]``: noisy small pictures enlarged, and a plane of the level.

        small, eps: ``[B, T, C, h, w]``;  level: s, which broadcasts against ``[B, T]``.  The level stands in a channel
        because every network that is told a picture reads one, each frame with its own.
        """
        image = self.enlarge(NOISE.add_noise(small, eps, level))
        return torch.cat([image, expand(level, image).expand_as(image[:, :, :1])], dim=2)
