"""The representation autoencoder (Zheng et al. 2025, RAE): latents are the features of a frozen encoder.

Only the decoder is trained, a vision transformer over patches (He et al. 2021, MAE).  It sees features with noise,

    z + sigma n,        sigma uniform in [0, tau],

so that it is at ease with what diffusion gives it, which is not exactly what the encoder says.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from fromnoise.blocks import (
    AttentionSpec,
    BlockSpec,
    FeedForwardSpec,
    JointBlock,
    ModulationSpec,
    StreamLayer,
    Tokens,
    sincos_2d,
    unpatchify,
)
from fromnoise.blocks.streams import Around
from fromnoise.config import spec
from fromnoise.latents.coding import Coded
from fromnoise.latents.pictures import Count, Mean, PictureAutoencoder, Std, check_statistics
from fromnoise.latents.vision import VisionEncoder, load_vision
from fromnoise.types import UserError

EPS = 1e-12  # of the norms, as published


@spec
class Representation:
    """A frozen encoder of transformers (DINOv2, SigLIP, MAE) and a trained decoder."""

    kind: Literal["representation"] = "representation"
    encoder: str = "facebook/dinov2-with-registers-base"
    """Folder or hub id of the encoder."""
    patch: Count = 16
    """Pixels along a side of a picture that are one latent; pictures are resized to the encoder's own patches."""
    width: Count = 768
    """Features of the decoder's tokens."""
    depth: Count = 12
    """Blocks of the decoder."""
    heads: Count = 12
    """Heads of its attention; must divide the width."""
    ratio: Annotated[float, Field(gt=0)] = 4.0
    """Hidden features of its feed-forward, relative to the width."""
    noise: Annotated[float, Field(ge=0)] = 0.8
    """Largest noise on the features while the decoder is trained (tau)."""
    mean: Mean = (0.0,)
    """What is taken from the latents: one number, or one a channel."""
    std: Std = (1.0,)
    """What they are then divided by."""

    def __post_init__(self):
        if self.width % self.heads or self.width % 4:
            raise PydanticCustomError("width", "should have a width that is a multiple of its heads and of 4")

    def build(self, channels: int) -> RepresentationLatents:
        """The autoencoder of media with ``channels``, 1 or 3.  UserError where the encoder cannot be had."""
        if channels not in (1, 3):
            raise UserError(f"A representation autoencoder sees pictures of 1 or 3 channels, and not of {channels}.")
        return RepresentationLatents(self, channels, load_vision(self.encoder))


class RepresentationLatents(PictureAutoencoder):
    """Features of patches.

    The encoder moves with the module but is no part of it: it is not trained, not averaged and not saved.
    """

    def __init__(self, spec: Representation, channels: int, encoder: VisionEncoder):
        super().__init__(spec.patch, encoder.width, spec.mean, spec.std)
        check_statistics(encoder.width, spec.mean, spec.std)
        self.spec, self.encoder = spec, encoder
        self.decoder = PatchDecoder(spec, encoder.width, channels)

    def _apply(self, fn, recurse=True):
        self.encoder.model._apply(fn)
        return super()._apply(fn, recurse)

    def to_raw(self, pictures: Tensor, noise: Tensor | None = None) -> Tensor:
        """Features; they are no distribution, and ``noise`` is not asked."""
        return self.encoder(pictures, (pictures.shape[-2] // self.factor, pictures.shape[-1] // self.factor))

    def from_raw(self, raw: Tensor) -> Tensor:
        return self.encoder.pictures(self.decoder(raw))

    def code(self, media: Tensor, noise: Tensor) -> Coded:
        """One pass: in training mode the features have noise, of a strength that the sum of the noise says.

        The sum over sqrt(n) is a normal number of its own, so that its distribution function is uniform.
        """
        with torch.no_grad():
            raw = self.to_raw(self.frames(media)).unflatten(0, media.shape[:2])
        if self.training:
            normal = noise.flatten(1).sum(1) / math.sqrt(noise[0].numel())
            strength = self.spec.noise * torch.special.ndtr(normal)
            raw = raw + strength.view(-1, 1, 1, 1, 1) * noise
        latents = self.normalised(raw)
        return Coded(self.decode(latents), latents)


class PatchDecoder(nn.Module):
    """Features ``[N, D, h, w]`` to pictures ``[N, C, h p, w p]``: a transformer over the patches and one more token."""

    def __init__(self, spec: Representation, features: int, channels: int):
        super().__init__()
        self.patch, self.channels = spec.patch, channels
        block = BlockSpec(
            width=spec.width, features=0, norm_eps=EPS, norm2_eps=EPS, norm_gain=True,
            attention=AttentionSpec(heads=spec.heads, qk_norm="none", bias=True, out_bias=True),
            feed_forward=FeedForwardSpec(ratio=spec.ratio, activation="gelu", bias=True),
            modulation=ModulationSpec(source="none"))
        self.enter, self.token = nn.Linear(features, spec.width), nn.Parameter(torch.zeros(spec.width))
        self.blocks = nn.ModuleList(JointBlock(i, block, {"image": StreamLayer(block)}) for i in range(spec.depth))
        self.norm = nn.LayerNorm(spec.width, EPS)
        self.leave = nn.Linear(spec.width, channels * spec.patch**2)

    def forward(self, x: Tensor) -> Tensor:
        (h, w), width = x.shape[2:], len(self.token)
        # Places count to 16 along a side whatever its length, as in the published decoders.
        rows, columns = (torch.arange(n, device=x.device) * (16 / n) for n in (h, w))
        tokens = self.enter(x.flatten(2).transpose(1, 2)) + sincos_2d(rows, columns, width).to(x.dtype)
        tokens = torch.cat([self.token.expand(len(x), 1, -1), tokens], dim=1)
        for block in self.blocks:
            tokens = block({"image": Tokens(tokens)}, Around())["image"]
        patches = self.leave(self.norm(tokens))[:, 1:]
        return unpatchify(patches, self.patch, (1, self.channels, h * self.patch, w * self.patch))[:, 0]
