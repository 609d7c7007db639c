"""Latent spaces."""

from fromnoise.latents.coding import Autoencoder, Coded
from fromnoise.latents.foreign import Foreign, ForeignLatents
from fromnoise.latents.kl import KL, KLLatents
from fromnoise.latents.pixels import PixelLatents, Pixels
from fromnoise.latents.reconstruction import Reconstruction

__all__ = ["KL", "Autoencoder", "Coded", "Foreign", "ForeignLatents", "KLLatents", "PixelLatents", "Pixels",
           "Reconstruction"]
