"""Time laws: how often training visits each noise level.

A law turns uniform draws into times, so that stratified or low-discrepancy uniforms serve every law.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fromnoise.config import spec
from fromnoise.process.gaussian import GaussianPath


@spec
class Uniform:
    """t uniform in [0, 1]."""

    kind: Literal["uniform"] = "uniform"

    def times(self, u: Tensor, path: GaussianPath) -> Tensor:
        return u


@spec
class LogNormal:
    """log(sigma / alpha) normal, as in EDM (Karras et al. 2022); on the flow path this is SD3's logit-normal."""

    kind: Literal["lognormal"] = "lognormal"
    mean: float = 0.0
    """Mean of log(sigma / alpha): 0 is equal parts of signal and noise, larger is noisier."""
    std: Annotated[float, Field(gt=0)] = 1.0
    """Its standard deviation."""

    def times(self, u: Tensor, path: GaussianPath) -> Tensor:
        # ndtri is infinite at 0 and 1; half a float32 step inside is the most extreme draw.
        z = torch.special.ndtri(u.double().clamp(2**-25, 1 - 2**-25))
        return path.time(-2 * (self.mean + self.std * z)).to(u.dtype)


Times = Annotated[Uniform | LogNormal, Field(discriminator="kind")]


def stratified(count: int, generator: torch.Generator) -> Tensor:
    """``[count]`` uniforms, one in each of ``count`` equal strata, in random order: less noise in the loss."""
    strata = torch.randperm(count, generator=generator)
    return (strata + torch.rand(count, generator=generator)) / count
