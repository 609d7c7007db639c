"""The KL autoencoder of latent diffusion (Rombach et al. 2022, section 3.1): pictures to a small, smooth latent space.

An encoder of residual blocks that halves the picture at each level gives the mean and log-variance of a Gaussian for
each latent; the decoder mirrors it.  Diffusion sees latents of about unit variance,

    z = (pack(mean + std eps) - m) / s,

where m and s are numbers, one for all channels or one each, and pack may lay neighbours into channels (Flux 2).
The published factors are these: Stable Diffusion's ``scaling_factor`` is 1/s, SD3's ``shift_factor`` is m, and
BatchNorm statistics are m and s themselves.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from fromnoise.config import spec
from fromnoise.latents.coding import Coded

Count = Annotated[int, Field(gt=0)]
EPS = 1e-6


@spec
class KL:
    """A KL autoencoder over GroupNorm residual blocks."""

    kind: Literal["kl"] = "kl"
    channels: Count = 4
    """Channels of the latents, before packing."""
    widths: tuple[Count, ...] = (128, 256, 512, 512)
    """Features of each level; every level but the last halves the picture."""
    decoder_widths: tuple[Count, ...] | None = None
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
    mean: Annotated[tuple[float, ...], Field(min_length=1)] = (0.0,)
    """What is taken from the latents: one number, or one a channel after packing."""
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0,)
    """What they are then divided by."""
    weight: Annotated[float, Field(ge=0)] = 1e-6
    """Weight of the divergence from a standard normal, in nats a latent, beside the mean error of a pixel."""

    def __post_init__(self):
        for widths in (self.widths, self.inner_widths):
            if any(width % self.groups for width in widths):
                raise PydanticCustomError("groups", "should have widths that are multiples of its groups")
            if len(widths) != len(self.widths):
                raise PydanticCustomError("decoder_widths", "should have as many levels as the encoder's widths")
        if not {len(self.mean), len(self.std)} <= {1, self.channels * self.patch**2}:
            raise PydanticCustomError("statistics", "should have mean and std of one number, or one a channel")

    @property
    def inner_widths(self) -> tuple[int, ...]:
        """The decoder's widths, resolved."""
        return self.decoder_widths or self.widths

    def build(self, channels: int) -> KLLatents:
        """The autoencoder of media with ``channels``."""
        return KLLatents(self, channels)


class KLLatents(nn.Module):
    """``encode`` media ``[B, T, C, H, W]`` to latents ``[B, T, c, h, w]``, and ``decode``; every frame on its own."""

    codebook = 0

    def __init__(self, spec: KL, channels: int):
        super().__init__()
        self.spec = spec
        self.factor = 2 ** (len(spec.widths) - 1) * spec.patch
        self.channels = spec.channels * spec.patch**2
        c = spec.channels
        self.encoder = Encoder(channels, 2 * c, spec.widths, spec.depth, spec.groups, spec.attention)
        self.decoder = Decoder(c, channels, spec.inner_widths, spec.depth + 1, spec.groups, spec.attention)
        self.quant = nn.Conv2d(2 * c, 2 * c, 1) if spec.quant else nn.Identity()
        self.post_quant = nn.Conv2d(c, c, 1) if spec.post_quant else nn.Identity()

    def moments(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance ``[B, T, spec.channels, ...]`` of the raw latents, the latter kept in [-30, 20].

        ValueError where a side of the picture is not a multiple of ``factor``.
        """
        if media.shape[-2] % self.factor or media.shape[-1] % self.factor:
            raise ValueError(f"a picture of {media.shape[-1]}x{media.shape[-2]} has a side that is not a multiple of "
                             f"{self.factor}")
        mean, logvar = self.quant(self.encoder(media.flatten(0, 1))).unflatten(0, media.shape[:2]).chunk(2, dim=2)
        return mean, logvar.clamp(-30, 20)

    def encode(self, media: Tensor, noise: Tensor | None = None) -> Tensor:
        """Normalised latents: the mean, or with standard normal ``noise`` as the raw latents a draw."""
        mean, logvar = self.moments(media)
        raw = mean if noise is None else mean + torch.exp(logvar / 2) * noise
        mean, std = self.statistics(raw)
        return (pack(raw, self.spec.patch) - mean) / std

    def posterior(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance ``[B, T, c, h, w]`` of the normalised latents."""
        mean, logvar = (pack(part, self.spec.patch) for part in self.moments(media))
        shift, scale = self.statistics(mean)
        return (mean - shift) / scale, logvar - 2 * scale.log()

    def code(self, media: Tensor, noise: Tensor) -> Coded:
        """A draw of the latents, its reconstruction, and KL(q || N(0, 1)) = (mean^2 + e^logvar - 1 - logvar) / 2."""
        mean, logvar = self.moments(media)
        raw = mean + torch.exp(logvar / 2) * noise
        divergence = (mean.square() + logvar.exp() - 1 - logvar).mean() / 2
        shift, scale = self.statistics(raw)
        latents = (pack(raw, self.spec.patch) - shift) / scale
        return Coded(self.decode(latents), latents, {"kl": self.spec.weight * divergence})

    def decode(self, latents: Tensor) -> Tensor:
        """Media of normalised latents; what lies outside [-1, 1] is not cut."""
        mean, std = self.statistics(latents)
        raw = unpack(latents * std + mean, self.spec.patch).flatten(0, 1)
        return self.decoder(self.post_quant(raw)).unflatten(0, latents.shape[:2])

    def statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, std) ``[1 or c, 1, 1]`` in the dtype and on the device of ``like``."""
        return like.new_tensor(self.spec.mean)[:, None, None], like.new_tensor(self.spec.std)[:, None, None]


def pack(x: Tensor, patch: int) -> Tensor:
    """``[..., c, h p, w p]`` to ``[..., c p p, h, w]``, channels outermost: Flux 2's order."""
    return F.pixel_unshuffle(x, patch) if patch > 1 else x


def unpack(x: Tensor, patch: int) -> Tensor:
    """The inverse of ``pack``."""
    return F.pixel_shuffle(x, patch) if patch > 1 else x


# ---- the two networks ------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """Pictures ``[N, C, H, W]`` to features ``[N, out, H / 2^k, W / 2^k]``."""

    def __init__(self, channels: int, out: int, widths: tuple[int, ...], depth: int, groups: int, attention: bool):
        super().__init__()
        self.enter = nn.Conv2d(channels, widths[0], 3, padding=1)
        before = (widths[0], *widths[:-1])
        self.levels = nn.ModuleList(Level(a, b, depth, groups) for a, b in zip(before, widths, strict=True))
        self.down = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2) for width in widths[:-1])
        self.middle = Middle(widths[-1], groups, attention)
        self.norm, self.leave = GroupNormSiLU(groups, widths[-1], EPS), nn.Conv2d(widths[-1], out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for i, level in enumerate(self.levels):
            x = level(x)
            if i < len(self.down):
                x = self.down[i](F.pad(x, (0, 1, 0, 1)))  # one pixel on the right and below alone, as published
        return self.leave(self.norm(self.middle(x)))


class Decoder(nn.Module):
    """Latents ``[N, c, h, w]`` to pictures; ``widths`` from the picture inwards, as the encoder's."""

    def __init__(self, channels: int, out: int, widths: tuple[int, ...], depth: int, groups: int, attention: bool):
        super().__init__()
        widths = widths[::-1]
        self.enter = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.middle = Middle(widths[0], groups, attention)
        before = (widths[0], *widths[:-1])
        self.levels = nn.ModuleList(Level(a, b, depth, groups) for a, b in zip(before, widths, strict=True))
        self.up = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in widths[:-1])
        self.norm, self.leave = GroupNormSiLU(groups, widths[-1], EPS), nn.Conv2d(widths[-1], out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.enter(x))
        for i, level in enumerate(self.levels):
            x = level(x)
            if i < len(self.up):
                x = self.up[i](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.leave(self.norm(x))


class Level(nn.Sequential):
    """Residual blocks, the first of which changes the width."""

    def __init__(self, before: int, width: int, depth: int, groups: int):
        super().__init__(*(Residual(before if i == 0 else width, width, groups) for i in range(depth)))


class Middle(nn.Module):
    """A residual block, attention, and another."""

    def __init__(self, width: int, groups: int, attention: bool):
        super().__init__()
        self.first, self.second = Residual(width, width, groups), Residual(width, width, groups)
        self.attention = SpatialAttention(width, groups) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.attention(self.first(x)))


class GroupNormSiLU(nn.GroupNorm):
    """silu(group norm)."""

    def forward(self, input: Tensor) -> Tensor:
        return F.silu(super().forward(input))


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 convolution on x where the width changes."""

    def __init__(self, before: int, width: int, groups: int):
        super().__init__()
        self.norm1, self.conv1 = GroupNormSiLU(groups, before, EPS), nn.Conv2d(before, width, 3, padding=1)
        self.norm2, self.conv2 = GroupNormSiLU(groups, width, EPS), nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Identity() if before == width else nn.Conv2d(before, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.conv2(self.norm2(self.conv1(self.norm1(x))))


class SpatialAttention(nn.Module):
    """One head over all places of ``[N, D, h, w]``, added to the input."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, EPS)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens)[:, None].chunk(3, dim=-1)
        y = self.out(F.scaled_dot_product_attention(q, k, v, scale=1 / math.sqrt(x.shape[1]))[:, 0])
        return x + y.transpose(1, 2).reshape(x.shape)
