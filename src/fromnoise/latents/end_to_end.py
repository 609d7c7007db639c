"""An autoencoder that goes on learning while a diffusion model learns in its latents (Leng et al. 2025, REPA-E).

    loss of the network      = denoising + lambda alignment
    loss of the autoencoder  = its own reconstruction and penalties + alignment_weight alignment

The denoising loss must not reach the autoencoder, for which it is easiest to make latents that say nothing; the
alignment with a teacher's features (REPA) may, and makes them easy to learn in.  Latents are normalised by the
statistics of their batch, which move with them; what is then used outside training are running ones.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fromnoise.config import spec
from fromnoise.latents.reconstruction import Reconstruction


@spec
class EndToEnd:
    """The autoencoder goes on learning, by its own loss and by the alignment of REPA through its encoder."""

    lr: Annotated[float, Field(ge=0)] = 0.0
    """Learning rate of the autoencoder's AdamW (the paper: 1e-4); 0 leaves the autoencoder as it is."""
    alignment_weight: Annotated[float, Field(ge=0)] = 1.5
    """How much the alignment of train.repa counts for the autoencoder, whatever it counts for the network."""
    momentum: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the running statistics of latents that each batch renews."""
    loss: Reconstruction = Reconstruction()
    """The autoencoder's own loss, beside the penalties of its way of coding."""

    def idle(self) -> dict[str, str]:
        """The fields that the other choices leave without effect, and why."""
        return {f"loss.{field}": why for field, why in self.loss.idle().items()}
