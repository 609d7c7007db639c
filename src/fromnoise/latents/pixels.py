"""The latent space that is none: pixels."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fromnoise.config import spec
from fromnoise.latents.pictures import PictureAutoencoder


@spec
class Pixels:
    """Generate pixels directly."""

    kind: Literal["pixels"] = "pixels"

    def build(self, channels: int) -> PixelLatents:
        return PixelLatents(channels)


class PixelLatents(PictureAutoencoder):
    """Latents that are the media themselves, bit for bit."""

    def __init__(self, channels: int):
        super().__init__(1, channels, (0.0,), (1.0,))

    def encode(self, media: Tensor, noise: Tensor | None = None) -> Tensor:
        return media

    def decode(self, latents: Tensor) -> Tensor:
        return latents
