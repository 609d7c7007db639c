"""What a U-Net is put together from: the usual layers, or EDM2's magnitude-preserving ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.blocks.convolution import Down, ResidualBlock, Up, silu
from fromnoise.blocks.group_norm import GroupNorm
from fromnoise.blocks.magnitude import (
    UnitAttention,
    UnitBlock,
    UnitLinear,
    UnitTimeFeatures,
    unit,
    unit_cat,
    unit_silu,
    unit_sum,
)
from fromnoise.blocks.settings import AttentionSpec
from fromnoise.blocks.spatial import JointAttention, MiddleTransformer, PlainAttention, SpatialTransformer
from fromnoise.blocks.temporal import TemporalLayer
from fromnoise.blocks.waves import Sinusoid, SinusoidWaves, TimeFeatures, TwoLayers

if TYPE_CHECKING:
    from fromnoise.nets.unet import UNet


RATE = Sinusoid(waves=64, scale=1.0, max_period=10_000.0, shift=0.0)  # of frames a second


class Parts:
    """Layers with group norms.  ``layers`` counts the attention layers handed out, in the order of the network."""

    def __init__(self, spec: UNet, text_width: int | None):
        self.spec, self.text_width, self.layers = spec, text_width, 0
        self.features = spec.time_ratio * spec.width

    def time(self) -> nn.Module:
        return TimeFeatures(self.spec.time.build(), self.features)

    def pooled(self) -> nn.Module | None:
        """The pooled condition to the features of time."""
        spec = self.spec
        if spec.pooled == "mlp":
            return PooledAndNumbers(spec.pooled_width, spec.numbers, spec.number_waves, self.features)
        if spec.pooled == "linear":
            return nn.Linear(spec.pooled_width, self.features, bias=False)
        return None if spec.pooled == "none" or self.text_width is None else nn.Linear(self.text_width, self.features)

    def rate(self) -> nn.Module | None:
        """Frames a second to the features of time."""
        return TimeFeatures(RATE.build(), self.features) if self.spec.fps else None

    def stem(self, inside: int, width: int) -> nn.Module:
        return nn.Conv2d(inside, width, 3, padding=1)

    def residual(self, inside: int, outside: int, *, encoder: bool, joins: bool = False, resample=None) -> nn.Module:
        return ResidualBlock(inside, outside, self.features, groups=self.spec.groups, epsilon=self.spec.epsilon,
                             modulation=self.spec.modulation, joins=joins, resample=resample)

    def attention(self, width: int, depth: int) -> nn.Module:
        """``depth`` attention blocks over pictures of ``width`` channels."""
        spec, first = self.spec, self.layers
        self.layers += depth
        heads = spec.head_count(width)
        if spec.attention == "spatial":
            return SpatialTransformer(width, heads, self.text_width, depth, spec.groups, first)
        if spec.attention == "plain":
            return PlainAttention(width, heads, spec.groups, spec.epsilon, first)
        return JointAttention(width, heads, self.text_width, spec.groups, spec.epsilon, first)

    def attentions(self, width: int, depth: int, count: int) -> nn.ModuleList:
        """Attention for each of ``count`` residual blocks, or an empty list."""
        return nn.ModuleList(self.attention(width, depth) for _ in range(count if depth else 0))

    def middle(self, width: int) -> tuple[nn.Module | None, nn.Module | None, nn.Module | None]:
        """Residual block, attention, residual block."""
        spec = self.spec
        if spec.middle == "transformer":
            first, heads = self.layers, spec.head_count(width)
            self.layers += spec.middle_depth
            return None, MiddleTransformer(width, heads, self.text_width, spec.middle_depth, self.features, first), None
        before = self.residual(width, width, encoder=False)
        attention = self.attention(width, spec.middle_depth) if spec.middle_depth else None
        return before, attention, self.residual(width, width, encoder=False) if spec.middle == "residual" else None

    def temporal(self, down: list[int], up: list[int]) -> dict[str, TemporalLayer]:
        """Layers along time by where they are; ``down`` and ``up``: residual blocks at each scale, on the way there."""
        spec, places = self.spec, {}
        for level in sorted(set(spec.temporal.levels)):
            places |= {f"down_{level}_{i}": spec.widths[level] for i in range(down[level])}
            places |= {f"up_{level}_{i}": spec.widths[level] for i in range(up[-1 - level])}
            places |= {"middle": spec.widths[level]} if level == len(spec.widths) - 1 else {}
        return {place: TemporalLayer(width, self.features, AttentionSpec(heads=spec.head_count(width)), spec.temporal)
                for place, width in places.items()}

    def down(self, width: int, coarser: int) -> nn.Module:
        if self.spec.resample == "residual":
            return self.residual(width, width, encoder=True, resample="down")
        return Down(width, coarser, self.spec.resample, self.spec.pad)

    def up(self, width: int, finer: int) -> nn.Module:
        if self.spec.resample == "residual":
            return self.residual(width, width, encoder=False, resample="up")
        return Up(width, finer, self.spec.resample)

    def head(self, inside: int, channels: int) -> tuple[nn.Module, nn.Module]:
        """Norm, and a convolution that starts at zero."""
        conv = nn.Conv2d(inside, channels, 3, padding=1)
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        return NormSilu(self.spec.groups, inside, self.spec.epsilon), conv

    @staticmethod
    def combine(time: Tensor, pooled: Tensor) -> Tensor:
        return time + pooled

    @staticmethod
    def activate(features: Tensor) -> Tensor:
        return F.silu(features)

    @staticmethod
    def join(y: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([y, skip], dim=1)


class NormSilu(GroupNorm):
    """Group norm, then SiLU."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return silu(super().forward(x))


class PooledAndNumbers(TwoLayers):
    """A pooled vector and the waves of some numbers, side by side, through two layers (SDXL, Podell et al. 2023)."""

    def __init__(self, pooled: int, numbers: int, waves: int, features: int):
        super().__init__(pooled + numbers * 2 * waves, features)
        self.waves: SinusoidWaves = Sinusoid(waves=waves, scale=1.0, max_period=10_000.0, shift=0.0).build()


class MagnitudeParts(Parts):
    """EDM2's layers (Karras et al. 2024)."""

    def time(self) -> nn.Module:
        waves = self.spec.time.build()
        return UnitTimeFeatures(waves, waves.width, self.features)

    def pooled(self) -> nn.Module | None:
        width = self.spec.pooled_width if self.spec.pooled == "linear" else self.text_width
        return None if self.spec.pooled == "none" or width is None else UnitPooled(width, self.features)

    def stem(self, inside: int, width: int) -> nn.Module:
        return UnitStem(inside + 1, width, 3)

    def residual(self, inside: int, outside: int, *, encoder: bool, joins: bool = False, resample=None) -> nn.Module:
        return UnitBlock(inside, outside, self.features, encoder=encoder, resample=resample)

    def attention(self, width: int, depth: int) -> nn.Module:
        first, heads = self.layers, self.spec.head_count(width)
        self.layers += depth
        return UnitAttention(width, heads, first)

    def head(self, inside: int, channels: int) -> tuple[nn.Module, nn.Module]:
        return nn.Identity(), UnitHead(inside, channels, 3)

    @staticmethod
    def combine(time: Tensor, pooled: Tensor) -> Tensor:
        return unit_sum(time, pooled.expand_as(time), 0.5)

    @staticmethod
    def activate(features: Tensor) -> Tensor:
        return unit_silu(features)

    @staticmethod
    def join(y: Tensor, skip: Tensor) -> Tensor:
        return unit_cat(y, skip)


class UnitPooled(UnitLinear):
    """A matrix on the pooled vector at unit magnitude: a one-hot vector of n classes becomes sqrt(n) times itself."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(unit(x))


class UnitStem(UnitLinear):
    """A convolution that also reads a channel of ones, in place of biases (EDM2, section 2.3)."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(torch.cat([x, torch.ones_like(x[:, :1])], dim=1))


class UnitHead(UnitLinear):
    """A convolution with a learned gain that starts at zero."""

    def __init__(self, inside: int, outside: int, kernel: int):
        super().__init__(inside, outside, kernel)
        self.gain = nn.Parameter(torch.zeros([]))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, self.gain)
