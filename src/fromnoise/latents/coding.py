"""What every latent space is to the rest: an autoencoder, and what it makes of media while it is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Coded:
    """Media on their way through an autoencoder, as training sees it.

    media: the reconstruction ``[B, T, C, H, W]``;  latents: normalised, ``[B, t, c, h, w]``;  penalties: what its own
    way of coding adds to the loss, by name, each a scalar that already has its weight;  codes: ``[B, t, h, w]``, the
    entry of the codebook at each place, where there is one.
    """

    media: Tensor
    latents: Tensor
    penalties: dict[str, Tensor] = field(default_factory=dict)
    codes: Tensor | None = None


class Autoencoder(Protocol):
    """Media ``[B, T, C, H, W]`` to latents ``[B, t, c, h, w]`` and back.

    factor: H / h;  time_factor: how many frames a latent frame after the first stands for, 1 where every frame is coded
    on its own and t = T;  channels: c;  codebook: how many entries ``codes`` tells apart, 0 where latents are
    continuous.
    """

    factor: int
    time_factor: int
    channels: int
    codebook: int

    def latent_frames(self, frames: int) -> int:
        """t for T = ``frames``.  UserError for a film whose frames cannot be shared out."""
        ...

    def spans(self, frames: int) -> list[range]:
        """Which of ``frames`` frames each latent frame stands for."""
        ...

    def encode(self, media: Tensor, noise: Tensor | None = None) -> Tensor:
        """Normalised latents; where a latent is a distribution its mean, or with standard normal ``noise`` a draw."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Media of normalised latents; what lies outside [-1, 1] is not cut."""
        ...

    def code(self, media: Tensor, noise: Tensor) -> Coded:
        """One pass of training; ``noise`` is standard normal, in the shape of the raw latents."""
        ...


def noise_shape(latents: Autoencoder, media: Tensor) -> tuple[int, ...]:
    """The shape of the raw latents ``[B, t, c, h, w]`` of media, before neighbours are packed into channels."""
    patch = getattr(getattr(latents, "spec", None), "patch", 1)
    B, T, _, H, W = media.shape
    places = H // latents.factor * patch, W // latents.factor * patch
    return B, latents.latent_frames(T), latents.channels // patch**2, *places
