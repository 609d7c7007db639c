"""Latent spaces."""

from fromnoise.latents.coding import Autoencoder, Coded
from fromnoise.latents.deep import DC, DCLatents
from fromnoise.latents.foreign import Foreign, ForeignLatents
from fromnoise.latents.fsq import FSQ, FSQLatents
from fromnoise.latents.kl import KL, KLLatents
from fromnoise.latents.pixels import PixelLatents, Pixels
from fromnoise.latents.reconstruction import Reconstruction
from fromnoise.latents.vq import VQ, VQLatents

__all__ = ["DC", "FSQ", "KL", "VQ", "Autoencoder", "Coded", "DCLatents", "FSQLatents", "Foreign", "ForeignLatents",
           "KLLatents", "PixelLatents", "Pixels", "Reconstruction", "VQLatents"]
