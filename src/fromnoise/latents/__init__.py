"""Latent spaces."""

from fromnoise.latents.kl import KL, KLLatents
from fromnoise.latents.pixels import PixelLatents, Pixels

__all__ = ["KL", "KLLatents", "PixelLatents", "Pixels"]
