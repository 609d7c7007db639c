"""What goes into a magnitude-preserving trunk and comes out, all of it of unit magnitude times a gain at the output.

They stand where the parts of ``inputs`` would (Karras et al. 2024, EDM2, sections 2.3 to 2.5).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fromnoise.blocks import Clock, sinusoid
from fromnoise.blocks.magnitude import UnitLinear, unit, unit_sum
from fromnoise.nets.trunk.inputs import pooled_text
from fromnoise.nets.trunk.settings import TextSpec, TimeSpec, Trunk
from fromnoise.types import Condition


class UnitPatchIn(UnitLinear):
    """Patches ``[..., C p p]`` to tokens; a one beside them takes the place of biases."""

    def __init__(self, inside: int, outside: int):
        super().__init__(inside + 1, outside)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(torch.cat([x, torch.ones_like(x[..., :1])], dim=-1))


class UnitTextIn(UnitLinear):
    """Text features ``[B, L, W]``, brought to unit magnitude, to tokens ``[B, L, D]``."""

    def __init__(self, spec: TextSpec, text_width: int, width: int):
        super().__init__(text_width, width)

    def forward(self, text: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(unit(text))


class UnitConditioner(nn.Module):
    """Noise level and pooled text to one vector of unit magnitude: ``[B, R]`` clocks to ``[B, R, F]``."""

    def __init__(self, spec: TimeSpec, width: int, text_width: int | None, pooled_width: int | None):
        super().__init__()
        self.spec, width = spec, spec.width or width
        pooled_width = text_width if spec.pooled == "mean" else pooled_width
        self.time = UnitLinear(spec.waves, width)
        self.pooled = None if spec.pooled == "none" or pooled_width is None else UnitLinear(pooled_width, width)

    def forward(self, t: Tensor, condition: Condition, dtype: torch.dtype) -> Tensor:
        t = 1 - t if self.spec.reverse else t
        waves = sinusoid(t * self.spec.scale, self.spec.waves, self.spec.period, self.spec.shift)
        features = self.time((math.sqrt(2) * waves).to(dtype))
        pooled = pooled_text(self.spec, condition)
        if self.pooled is None or pooled is None:
            return features
        pooled = self.pooled(unit(pooled.to(dtype)))[:, None]
        return unit_sum(features, pooled.expand_as(features), 0.5)


class UnitHead(nn.Module):
    """The last layer: a linear map with a learned gain that starts at zero."""

    def __init__(self, spec: Trunk, channels: int):
        super().__init__()
        self.channels = channels
        self.out = UnitLinear(spec.width, channels * spec.patch**2)
        self.gain = nn.Parameter(torch.zeros([]))

    def forward(self, x: Tensor, clock: Clock) -> Tensor:
        """Tokens ``[B, N, D]`` to ``[B, N, C p p]``, whatever the clock."""
        return self.out(unit(x), self.gain)

    def picture(self, x: Tensor) -> Tensor:
        """Media ``[B, T, C, H, W]`` as they are."""
        return x
