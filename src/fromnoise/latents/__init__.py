"""Latent spaces."""

from fromnoise.latents.pixels import PixelLatents, Pixels

__all__ = ["PixelLatents", "Pixels"]
