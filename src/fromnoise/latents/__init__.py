"""Latent spaces."""

from typing import Annotated

from pydantic import Field

from fromnoise.latents.causal_kl import CausalKL, CausalKLLatents
from fromnoise.latents.coding import Autoencoder, Coded
from fromnoise.latents.deep import DC, DCLatents
from fromnoise.latents.end_to_end import EndToEnd
from fromnoise.latents.equivariance import Transform, equivariance
from fromnoise.latents.foreign import Foreign, ForeignLatents
from fromnoise.latents.fsq import FSQ, FSQLatents
from fromnoise.latents.inflation import inflated
from fromnoise.latents.kl import KL, KLLatents
from fromnoise.latents.pixels import PixelLatents, Pixels
from fromnoise.latents.reconstruction import Reconstruction
from fromnoise.latents.representation import Representation, RepresentationLatents
from fromnoise.latents.tiling import sliced, tiled
from fromnoise.latents.vq import VQ, VQLatents

Latents = Annotated[Pixels | KL | CausalKL | VQ | FSQ | DC | Representation | Foreign, Field(discriminator="kind")]

__all__ = [
    "DC", "FSQ", "KL", "VQ", "Autoencoder", "CausalKL", "CausalKLLatents", "Coded", "DCLatents", "EndToEnd",
    "FSQLatents", "Foreign", "ForeignLatents", "KLLatents", "Latents", "PixelLatents", "Pixels", "Reconstruction",
    "Representation", "RepresentationLatents", "Transform", "VQLatents", "equivariance", "inflated", "sliced", "tiled",
]
