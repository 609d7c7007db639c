"""The KL autoencoder of latent diffusion (Rombach et al. 2022, section 3.1): pictures to a small, smooth latent space.

An encoder of residual blocks that halves the picture at each level gives the mean and log-variance of a Gaussian for
each latent; the decoder mirrors it.  Diffusion sees latents of about unit variance,

    z = (pack(mean + std eps) - m) / s,

where m and s are numbers, one for all channels or one each, and pack may lay neighbours into channels (Flux 2).
The published factors are these: Stable Diffusion's ``scaling_factor`` is 1/s, SD3's ``shift_factor`` is m, and
BatchNorm statistics are m and s themselves.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fromnoise.config import spec
from fromnoise.latents.coding import Coded
from fromnoise.latents.convolutional import Decoder, Encoder
from fromnoise.latents.pictures import Count, Mean, PictureAutoencoder, Std, Widths, check_statistics, check_widths


@spec
class KL:
    """A KL autoencoder over GroupNorm residual blocks."""

    kind: Literal["kl"] = "kl"
    channels: Count = 4
    """Channels of the latents, before packing."""
    widths: Widths = (128, 256, 512, 512)
    """Features of each level; every level but the last halves the picture."""
    decoder_widths: Widths | None = None
    """Those of the decoder, also from the picture inwards; by default the encoder's."""
    depth: Count = 2
    """Residual blocks of a level in the encoder; the decoder has one more."""
    groups: Count = 32
    """Groups of the normalisation."""
    attention: bool = True
    """Whether the innermost level has attention."""
    quant: bool = True
    """A 1x1 convolution after the encoder."""
    post_quant: bool = True
    """A 1x1 convolution before the decoder."""
    patch: Count = 1
    """Latents of patch x patch neighbours are laid into channels."""
    mean: Mean = (0.0,)
    """What is taken from the latents: one number, or one a channel after packing."""
    std: Std = (1.0,)
    """What they are then divided by."""
    weight: Annotated[float, Field(ge=0)] = 1e-6
    """Weight of the divergence from a standard normal, in nats a latent, beside the mean error of a pixel."""

    def __post_init__(self):
        check_widths(self.groups, self.widths, self.decoder_widths)
        check_statistics(self.channels * self.patch**2, self.mean, self.std)

    def build(self, channels: int) -> KLLatents:
        """The autoencoder of media with ``channels``."""
        return KLLatents(self, channels)


class GaussianLatents(PictureAutoencoder):
    """A Gaussian for every latent; what is raw is a draw of it, packed.  A subclass says the ``moments``."""

    spec: Any
    patch = 1

    def moments(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance ``[B, t, spec.channels, ...]`` of the raw latents, the latter kept in [-30, 20].

        ValueError where a side of the picture is not a multiple of ``factor``.
        """
        raise NotImplementedError

    def encode(self, media: Tensor, noise: Tensor | None = None) -> Tensor:
        mean, logvar = self.moments(media)
        return self.normalised(pack(mean if noise is None else mean + torch.exp(logvar / 2) * noise, self.patch))

    def posterior(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance ``[B, t, c, h, w]`` of the normalised latents."""
        mean, logvar = (pack(part, self.patch) for part in self.moments(media))
        shift, scale = self.statistics(mean)
        return (mean - shift) / scale, logvar - 2 * scale.log()

    def code(self, media: Tensor, noise: Tensor) -> Coded:
        """A draw of the latents, its reconstruction, and KL(q || N(0, 1)) = (mean^2 + e^logvar - 1 - logvar) / 2."""
        mean, logvar = self.moments(media)
        divergence = (mean.square() + logvar.exp() - 1 - logvar).mean() / 2
        latents = self.normalised(pack(mean + torch.exp(logvar / 2) * noise, self.patch))
        return Coded(self.decode(latents), latents, {"kl": self.spec.weight * divergence})


class KLLatents(GaussianLatents):
    """Every frame on its own."""

    def __init__(self, spec: KL, channels: int):
        super().__init__(2 ** (len(spec.widths) - 1) * spec.patch, spec.channels * spec.patch**2, spec.mean, spec.std)
        self.spec, self.patch = spec, spec.patch
        c, inner = spec.channels, spec.decoder_widths or spec.widths
        self.encoder = Encoder(channels, 2 * c, spec.widths, spec.depth, spec.groups, spec.attention)
        self.decoder = Decoder(c, channels, inner, spec.depth + 1, spec.groups, spec.attention)
        self.quant = nn.Conv2d(2 * c, 2 * c, 1) if spec.quant else nn.Identity()
        self.post_quant = nn.Conv2d(c, c, 1) if spec.post_quant else nn.Identity()

    def moments(self, media: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.quant(self.encoder(self.frames(media))).unflatten(0, media.shape[:2]).chunk(2, dim=2)
        return mean, logvar.clamp(-30, 20)

    def from_raw(self, raw: Tensor) -> Tensor:
        return self.decoder(self.post_quant(unpack(raw, self.spec.patch)))


def pack(x: Tensor, patch: int) -> Tensor:
    """``[..., c, h p, w p]`` to ``[..., c p p, h, w]``, channels outermost: Flux 2's order."""
    return F.pixel_unshuffle(x, patch) if patch > 1 else x


def unpack(x: Tensor, patch: int) -> Tensor:
    """The inverse of ``pack``."""
    return F.pixel_shuffle(x, patch) if patch > 1 else x
