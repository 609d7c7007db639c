"""The latent space that is none: pixels."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from fromnoise.config import spec


@spec
class Pixels:
    """Generate pixels directly."""

    kind: Literal["pixels"] = "pixels"

    def build(self, channels: int) -> PixelLatents:
        return PixelLatents(channels)


class PixelLatents(nn.Module):
    """``encode`` media ``[B, T, C, H, W]`` to latents ``[B, T, c, h, w]``, and ``decode``: here the identity."""

    factor = 1

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def encode(self, media: Tensor) -> Tensor:
        return media

    def decode(self, latents: Tensor) -> Tensor:
        return latents
