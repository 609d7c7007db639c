"""Numbers as features: sinusoids of fixed frequencies, or Fourier features of random ones."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fromnoise.config import spec


@spec
class Sinusoid:
    """Sinusoids whose frequencies are spaced evenly in logarithm (Vaswani et al. 2017; Ho et al. 2020).

    Wave k of n turns by ``scale * max_period^(-k / (n - shift))`` radians between clean and noise.  The defaults
    span 1 to 30 radians.  The usual scale of 1,000 with a period of 10,000 makes neighbouring times strangers to each
    other, which a short training cannot mend (docs/log.md).
    """

    kind: Literal["sinusoid"] = "sinusoid"
    waves: Annotated[int, Field(ge=1)] = 64
    """Frequencies; each gives a cosine and a sine."""
    scale: Annotated[float, Field(gt=0)] = 30.0
    """What t in [0, 1] is multiplied by; 1,000 for networks trained on integer timesteps."""
    max_period: Annotated[float, Field(gt=1)] = 30.0
    """Ratio of the fastest to the slowest frequency."""
    shift: Annotated[float, Field(ge=0)] = 1.0
    """1: the slowest wave has exactly that period; 0: it falls one step short of it."""

    def build(self) -> SinusoidWaves:
        return SinusoidWaves(self)


@spec
class Fourier:
    """Fourier features of random frequencies (Tancik et al. 2020; EDM2, Karras et al. 2024, appendix B.3)."""

    kind: Literal["fourier"] = "fourier"
    waves: Annotated[int, Field(ge=1)] = 64
    """Frequencies; each gives one cosine of random phase, of unit magnitude."""
    scale: Annotated[float, Field(gt=0)] = 2.5
    """What t in [0, 1] is multiplied by; about the span of EDM2's log(sigma) / 4."""
    bandwidth: Annotated[float, Field(gt=0)] = 1.0
    """Standard deviation of the frequencies, in turns."""

    def build(self) -> FourierWaves:
        return FourierWaves(self)


Time = Annotated[Sinusoid | Fourier, Field(discriminator="kind")]


class SinusoidWaves(nn.Module):
    """``[...]`` numbers to ``[..., 2 waves]``: cosines, then sines, the slowest first."""

    def __init__(self, spec: Sinusoid):
        super().__init__()
        self.scale, self.width = spec.scale, 2 * spec.waves
        # In this order of operations, since at 1,000 radians the last bit of a frequency shows.
        exponent = -math.log(spec.max_period) * torch.arange(spec.waves, dtype=torch.float32)
        divisor = spec.waves - spec.shift or 1.0
        self.register_buffer("frequencies", torch.exp(exponent / divisor).flip(0), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = _scaled(t, self.scale)[..., None] * self.frequencies.float()  # type: ignore[operator]
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class FourierWaves(nn.Module):
    """``[...]`` numbers to ``[..., waves]``: sqrt(2) cos(2 pi (f t + phase)), whose mean square is one."""

    def __init__(self, spec: Fourier):
        super().__init__()
        self.scale, self.width = spec.scale, spec.waves
        self.register_buffer("frequencies", spec.bandwidth * torch.randn(spec.waves))
        self.register_buffer("phases", torch.rand(spec.waves))

    def forward(self, t: Tensor) -> Tensor:
        turns = _scaled(t, self.scale)[..., None] * self.frequencies.float() + self.phases.float()  # type: ignore[operator]
        return math.sqrt(2) * torch.cos(2 * math.pi * turns)


def _scaled(t: Tensor, scale: float) -> Tensor:
    """scale * t in float32: an integer timestep over 1,000, times 1,000, is that integer again."""
    return (t.to(torch.promote_types(t.dtype, torch.float32)) * scale).float()


class TimeFeatures(nn.Module):
    """Waves, then a two-layer network: ``[...]`` times in [0, 1] to ``[..., features]``."""

    def __init__(self, waves: SinusoidWaves | FourierWaves, features: int):
        super().__init__()
        self.waves = waves
        self.inner, self.outer = nn.Linear(waves.width, features), nn.Linear(features, features)

    def forward(self, t: Tensor) -> Tensor:
        return self.outer(F.silu(self.inner(self.waves(t).to(self.inner.weight.dtype))))


class TwoLayers(nn.Module):
    """A vector through linear, SiLU, linear."""

    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.inner, self.outer = nn.Linear(inside, outside), nn.Linear(outside, outside)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(F.silu(self.inner(x)))
