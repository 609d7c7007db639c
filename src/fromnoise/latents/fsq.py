"""Finite scalar quantisation (Mentzer et al. 2023): each channel is rounded to one of a few levels; nothing to learn.

    bounded = tanh(z + tan(o / l)) l - o        l = (L - 1) (1 - eps) / 2,   o = 1/2 where L is even, else 0
    entry   = round(bounded) / floor(L / 2)

so that L levels lie in [-1, 1], for an even L one more below zero than above (appendix A.1).  A code counts the levels
of all channels, the first fastest.  With two levels a channel this is lookup-free quantisation (Yu et al. 2023)
without its entropy term.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic_core import PydanticCustomError
from torch import Tensor

from fromnoise.config import spec
from fromnoise.latents.pictures import Count, Mean, Std, Widths, check_statistics, check_widths
from fromnoise.latents.quantised import QuantisedLatents, Quantiser, check_attended, networks

EPS = 1e-3  # keeps tanh from reaching half a level beyond the last


@spec
class FSQ:
    """An autoencoder over GroupNorm residual blocks whose latents are rounded."""

    kind: Literal["fsq"] = "fsq"
    levels: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)] = (8, 8, 8, 5, 5, 5)
    """Levels of each channel of the latents; their product is the size of the codebook."""
    inner: Count | None = None
    """Features between the networks and the latents, from and to which 1x1 convolutions lead; by default as many as
    latents have channels."""
    widths: Widths = (128, 256, 512)
    """Features of each level; every level but the last halves the picture."""
    decoder_widths: Widths | None = None
    """Those of the decoder, also from the picture inwards; by default the encoder's."""
    depth: Count = 2
    """Residual blocks of a level in the encoder; the decoder has one more."""
    groups: Count = 32
    """Groups of the normalisation."""
    attention: bool = True
    """Whether there is attention inside the innermost level."""
    attended: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Levels, from the picture inwards, each of whose blocks is followed by attention too."""
    mean: Mean = (0.0,)
    """What is taken from the latents: one number, or one a channel."""
    std: Std = (1.0,)
    """What they are then divided by."""

    def __post_init__(self):
        check_widths(self.groups, self.widths, self.decoder_widths)
        check_statistics(len(self.levels), self.mean, self.std)
        check_attended(self.attended, len(self.widths))
        if math.prod(self.levels) > 2**31:
            raise PydanticCustomError("levels", "should have levels whose product is at most 2^31")

    def build(self, channels: int) -> FSQLatents:
        """The autoencoder of media with ``channels``."""
        return FSQLatents(self, channels)


class FSQLatents(QuantisedLatents):
    """Latents on a grid.  ``encode`` gives them bounded but not rounded."""

    def __init__(self, spec: FSQ, channels: int):
        inner = spec.inner or len(spec.levels)
        parts = networks(channels, inner, spec.widths, spec.decoder_widths, spec.depth, spec.groups, spec.attention,
                         spec.attended)
        super().__init__(*parts, Grid(spec.levels), 2 ** (len(spec.widths) - 1), inner, len(spec.levels), spec.mean,
                         spec.std)
        self.spec = spec


class Grid(Quantiser):
    """The grid of all combinations of levels; entries are in [-1, 1]."""

    levels: Tensor
    basis: Tensor
    steps: Tensor

    def __init__(self, levels: tuple[int, ...]):
        super().__init__()
        self.size = math.prod(levels)
        self.register_buffer("levels", torch.tensor(levels), False)
        self.register_buffer("basis", torch.tensor([math.prod(levels[:i]) for i in range(len(levels))]), False)
        self.register_buffer("steps", torch.tensor([float(level // 2) for level in levels]), False)

    def confined(self, x: Tensor) -> Tensor:
        reach = (self.levels - 1).to(x) * (1 - EPS) / 2
        offset = (self.levels % 2 == 0).to(x) / 2
        return ((x + (offset / reach).tan()).tanh() * reach - offset) / self.steps

    def nearest(self, raw: Tensor) -> Tensor:
        digits = (raw.detach() * self.steps).round().long() + self.levels // 2
        return (digits.clamp(min=0).minimum(self.levels - 1) * self.basis).sum(-1)

    def lookup(self, codes: Tensor) -> Tensor:
        digits = codes[..., None] // self.basis % self.levels
        return (digits - self.levels // 2).to(self.steps) / self.steps
