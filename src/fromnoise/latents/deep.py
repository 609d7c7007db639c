"""The deep compression autoencoder (Chen et al. 2024, DC-AE): sides 16 to 128 times shorter.

Where the picture is halved or doubled there is a shortcut without weights, so that the layers only learn what laying
space into channels and back does not do (residual autoencoding, section 3.2):

    down(x) = conv(x) + mean over groups of channels of unshuffle(x)
    up(x)   = conv(x) + shuffle of x with repeated channels

Latents have no distribution; nothing is added to the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from fromnoise.config import spec
from fromnoise.latents.efficient_vit import ACTIVATIONS, Activation, AttentionBlock, ChannelNorm, DeepResidual, Norm
from fromnoise.latents.pictures import Count, Mean, PictureAutoencoder, Std, Widths, check_statistics

Depths = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


@dataclass(frozen=True)
class Levels:
    """Widths and depths of a network's levels, from the picture inwards."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]

    @property
    def present(self) -> range:
        """The levels that have blocks: all, or all but the first."""
        return range(int(self.depths[0] == 0), len(self.depths))


@spec
class DC:
    """A deep compression autoencoder."""

    kind: Literal["dc"] = "dc"
    channels: Count = 32
    """Channels of the latents."""
    widths: Widths = (128, 256, 512, 512, 1024, 1024)
    """Features of each level; every level but the last halves the picture."""
    depths: Depths = (2, 2, 2, 3, 3, 3)
    """Blocks of each level in the encoder; with 0 in the first the picture itself is halved, and it has no width."""
    decoder_widths: Widths | None = None
    """Features of the decoder's levels, also from the picture inwards; by default the encoder's."""
    decoder_depths: Depths | None = None
    """Blocks of the decoder's levels, also from the picture inwards; by default the encoder's."""
    attended: Annotated[int, Field(ge=0)] = 3
    """How many of the innermost levels are of linear attention, the others of residual blocks."""
    head: Count = 32
    """Features of a head of attention."""
    scales: tuple[Annotated[int, Field(ge=1)], ...] = (5,)
    """Sides of the neighbourhoods whose queries, keys and values stand beside those of single places; odd."""
    down: Literal["shuffle", "stride"] = "shuffle"
    """How the picture is halved: laid into channels after a convolution, or by a strided one."""
    up: Literal["shuffle", "repeat"] = "shuffle"
    """How it is doubled: channels laid out after a convolution, or repeated before it."""
    decoder_norm: Norm = "rms"
    """Norm of the decoder's residual blocks: RMS over channels, or batch norm."""
    decoder_activation: Activation = "silu"
    """Activation of the decoder's residual blocks."""
    last_activation: Activation = "relu"
    """Activation before the decoder's last layer."""
    out_shortcut: bool = True
    """A shortcut from the innermost level to the latents."""
    in_shortcut: bool = True
    """A shortcut from the latents to the innermost level."""
    mean: Mean = (0.0,)
    """What is taken from the latents: one number, or one a channel."""
    std: Std = (1.0,)
    """What they are then divided by."""

    def __post_init__(self):
        check_statistics(self.channels, self.mean, self.std)
        for levels, shortcut in ((self.encoder, self.out_shortcut), (self.decoder, self.in_shortcut)):
            if not len(levels.widths) == len(levels.depths) == len(self.widths):
                raise PydanticCustomError("levels", "should have as many depths and decoder's levels as widths")
            if 0 in levels.depths[1:] or levels.depths == (0,):
                raise PydanticCustomError("depths", "should have blocks on every level but perhaps the first of many")
            if shortcut and levels.widths[-1] % self.channels:
                raise PydanticCustomError("shortcut", "should have a last width that is a multiple of its channels, "
                                                      "or no shortcut between it and the latents")
            widths = [levels.widths[i] for i in levels.present]
            if any(4 * outer % inner for outer, inner in pairwise(widths)):
                raise PydanticCustomError("widths", "should have widths each of which divides four times the one "
                                                    "before it")
            if self.attended and min(widths[-self.attended:]) < self.head:
                raise PydanticCustomError("head", "should have widths of at least head where there is attention")
        if self.down == "shuffle" and any(width % 4 for width in self.widths[1:]):
            raise PydanticCustomError("down", "should have widths that are multiples of 4, or down by stride")
        if any(side % 2 == 0 for side in self.scales):
            raise PydanticCustomError("scales", "should have odd scales")

    @property
    def encoder(self) -> Levels:
        """The encoder's levels."""
        return Levels(self.widths, self.depths)

    @property
    def decoder(self) -> Levels:
        """The decoder's levels, resolved."""
        return Levels(self.decoder_widths or self.widths, self.decoder_depths or self.depths)

    def build(self, channels: int) -> DCLatents:
        """The autoencoder of media with ``channels``."""
        return DCLatents(self, channels)


class DCLatents(PictureAutoencoder):
    """Latents of a deep compression autoencoder."""

    def __init__(self, spec: DC, channels: int):
        super().__init__(2 ** (len(spec.widths) - 1), spec.channels, spec.mean, spec.std)
        self.spec = spec
        self.encoder, self.decoder = DeepEncoder(spec, channels), DeepDecoder(spec, channels)

    def to_raw(self, pictures: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latents; they are no distribution, and ``noise`` is not asked."""
        return self.encoder(pictures)

    def from_raw(self, raw: Tensor) -> Tensor:
        return self.decoder(raw)


def level(spec: DC, levels: Levels, i: int, norm: Norm = "rms", activation: Activation = "silu") -> nn.Sequential:
    """The blocks of level ``i``."""
    width, plain = levels.widths[i], i < len(levels.widths) - spec.attended
    return nn.Sequential(*(DeepResidual(width, norm, activation) if plain
                           else AttentionBlock(width, spec.head, spec.scales) for _ in range(levels.depths[i])))


class DeepEncoder(nn.Module):
    """Pictures ``[N, C, H, W]`` to latents ``[N, c, H / 2^k, W / 2^k]``."""

    def __init__(self, spec: DC, channels: int):
        super().__init__()
        levels, present = spec.encoder, spec.encoder.present
        widths = [levels.widths[i] for i in present]
        self.enter = (Down(channels, widths[0], spec.down, shortcut=False) if present[0]
                      else nn.Conv2d(channels, widths[0], 3, padding=1))
        self.levels = nn.ModuleList(level(spec, levels, i) for i in present)
        self.down = nn.ModuleList(Down(outer, inner, spec.down) for outer, inner in pairwise(widths))
        self.leave = nn.Conv2d(widths[-1], spec.channels, 3, padding=1)
        self.group = widths[-1] // spec.channels if spec.out_shortcut else 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for i, level in enumerate(self.levels):
            x = level(x)
            if i < len(self.down):
                x = self.down[i](x)
        y = self.leave(x)
        return y + averaged(x, self.group) if self.group else y


class DeepDecoder(nn.Module):
    """Latents ``[N, c, h, w]`` to pictures; its levels from the inside outwards."""

    def __init__(self, spec: DC, channels: int):
        super().__init__()
        levels, present = spec.decoder, spec.decoder.present
        widths = [levels.widths[i] for i in reversed(present)]
        self.enter = nn.Conv2d(spec.channels, widths[0], 3, padding=1)
        self.repeats = widths[0] // spec.channels if spec.in_shortcut else 0
        self.levels = nn.ModuleList(level(spec, levels, i, spec.decoder_norm, spec.decoder_activation)
                                    for i in reversed(present))
        self.up = nn.ModuleList(Up(inner, outer, spec.up) for inner, outer in pairwise(widths))
        self.norm, self.activation = ChannelNorm(widths[-1]), ACTIVATIONS[spec.last_activation]()
        self.leave = (Up(widths[-1], channels, spec.up, shortcut=False) if present[0]
                      else nn.Conv2d(widths[-1], channels, 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        x = self.enter(z)
        x = x + z.repeat_interleave(self.repeats, dim=1) if self.repeats else x
        for i, level in enumerate(self.levels):
            x = level(x)
            if i < len(self.up):
                x = self.up[i](x)
        return self.leave(self.activation(self.norm(x)))


class Down(nn.Module):
    """Half the picture."""

    def __init__(self, inside: int, outside: int, how: str, shortcut: bool = True):
        super().__init__()
        self.shuffle, self.group = how == "shuffle", 4 * inside // outside if shortcut else 0
        self.conv = nn.Conv2d(inside, outside // 4 if self.shuffle else outside, 3, 1 if self.shuffle else 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = F.pixel_unshuffle(y, 2) if self.shuffle else y
        return y + averaged(F.pixel_unshuffle(x, 2), self.group) if self.group else y


class Up(nn.Module):
    """Twice the picture."""

    def __init__(self, inside: int, outside: int, how: str, shortcut: bool = True):
        super().__init__()
        self.shuffle, self.repeats = how == "shuffle", 4 * outside // inside if shortcut else 0
        self.conv = nn.Conv2d(inside, 4 * outside if self.shuffle else outside, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.pixel_shuffle(self.conv(x), 2) if self.shuffle else self.conv(F.interpolate(x, scale_factor=2.0))
        return y + F.pixel_shuffle(x.repeat_interleave(self.repeats, dim=1), 2) if self.repeats else y


def averaged(x: Tensor, group: int) -> Tensor:
    """Means of each ``group`` neighbouring channels."""
    return x.unflatten(1, (-1, group)).mean(2)
