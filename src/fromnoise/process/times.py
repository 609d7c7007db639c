"""Time laws: how often training visits each noise level.

A law turns uniform draws into times by its quantile function, so that stratified or low-discrepancy uniforms serve
every law, and knows its density p(lambda) over log-SNR, by which importance weights divide.  There are two families:
those on the clock of the path, and those on log(sigma / alpha) = -lambda / 2, which are the same on every path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic_core import PydanticCustomError
from torch import Tensor

from fromnoise.config import spec
from fromnoise.process.gaussian import TINY, GaussianPath
from fromnoise.types import UserError

Positive = Annotated[float, Field(gt=0)]


class TimeLaw:
    """A distribution of t on a path."""

    def times(self, u: Tensor, path: GaussianPath) -> Tensor:
        """t at the quantiles ``u`` in [0, 1], of any shape."""
        raise NotImplementedError

    def density(self, t: Tensor, path: GaussianPath) -> Tensor:
        """p(lambda) at lambda(t): how often log-SNRs near that of t are visited.  It integrates to 1."""
        raise NotImplementedError

    def quantile_of(self, t: Tensor, path: GaussianPath) -> Tensor:
        """u with ``times(u)`` = t: the inverse of ``times``."""
        raise NotImplementedError


# ---- on the clock of the path -----------------------------------------------------------------------------


class _OnClock(TimeLaw):
    """p(lambda) = p(t) / |dlambda/dt|."""

    def clock_density(self, t: Tensor) -> Tensor:
        """p(t)."""
        raise NotImplementedError

    def density(self, t: Tensor, path: GaussianPath) -> Tensor:
        return self.clock_density(t) / path.logsnr_dot(t).abs()


@spec
class Uniform(_OnClock):
    """t uniform in [0, 1], as in DDPM."""

    kind: Literal["uniform"] = "uniform"

    def times(self, u: Tensor, path: GaussianPath) -> Tensor:
        return u

    def quantile_of(self, t: Tensor, path: GaussianPath) -> Tensor:
        return t

    def clock_density(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@spec
class Mode(_OnClock):
    """SD3's law with heavy tails (Esser et al. 2024, mode sampling): t = 1 - u - scale (cos^2(pi u / 2) - 1 + u)."""

    kind: Literal["mode"] = "mode"
    scale: Annotated[float, Field(ge=-1, le=2 / (math.pi - 2))] = 1.29
    """Positive favours the middle of the clock, negative its ends; 0 is uniform."""

    def times(self, u: Tensor, path: GaussianPath) -> Tensor:
        return self._warp(u)

    def quantile_of(self, t: Tensor, path: GaussianPath) -> Tensor:
        return self._quantile(t)

    def _warp(self, u: Tensor) -> Tensor:
        """The paper's function at 1 - u, so that t rises with u as in every law."""
        return (u - self.scale * (torch.sin(math.pi / 2 * u).square() - u)).clamp(0, 1)

    def clock_density(self, t: Tensor) -> Tensor:
        return 1 / (1 + self.scale - self.scale * math.pi / 2 * torch.sin(math.pi * self._quantile(t))).clamp(min=TINY)

    def _quantile(self, t: Tensor) -> Tensor:
        """u with warp(u) = t, by bisection: the warp is monotone and has no inverse in closed form."""
        low, high = torch.zeros_like(t), torch.ones_like(t)
        for _ in range(54):
            middle = (low + high) / 2
            left = self._warp(middle) < t
            low, high = torch.where(left, middle, low), torch.where(left, high, middle)
        return (low + high) / 2


# ---- on log(sigma / alpha) ----------------------------------------------------------------------------------


class _OnNoise(TimeLaw):
    """A law of z = log(sigma / alpha); where a path ends at a finite z, the law is cut there."""

    def cdf(self, z: Tensor) -> Tensor:
        raise NotImplementedError

    def quantile(self, u: Tensor) -> Tensor:
        raise NotImplementedError

    def noise_density(self, z: Tensor) -> Tensor:
        """p(z), finite at z = +-inf."""
        raise NotImplementedError

    def times(self, u: Tensor, path: GaussianPath) -> Tensor:
        return path.time(-2 * self.quantile(u.double() * self._mass(path))).to(u.dtype)

    def density(self, t: Tensor, path: GaussianPath) -> Tensor:
        return self.noise_density(-path.logsnr(t) / 2) / (2 * self._mass(path))

    def quantile_of(self, t: Tensor, path: GaussianPath) -> Tensor:
        return self.cdf(-path.logsnr(t) / 2) / self._mass(path)

    def _mass(self, path: GaussianPath) -> float:
        """How much of the law the path covers: 1 where nothing of the signal is left at t = 1."""
        mass = float(self.cdf(-path.logsnr(torch.ones((), dtype=torch.float64)) / 2))
        if mass <= 0:
            raise UserError(f"The time law {self} has nothing in common with the log-SNRs of the path {path}.")
        return mass


@spec
class LogNormal(_OnNoise):
    """log(sigma / alpha) normal, as in EDM (Karras et al. 2022); on the flow path this is SD3's logit-normal."""

    kind: Literal["lognormal"] = "lognormal"
    mean: float = 0.0
    """Mean of log(sigma / alpha): 0 is equal parts of signal and noise, larger is noisier."""
    std: Positive = 1.0
    """Its standard deviation."""

    def cdf(self, z: Tensor) -> Tensor:
        return torch.special.ndtr((z - self.mean) / self.std)

    def quantile(self, u: Tensor) -> Tensor:
        # ndtri is infinite at 0 and 1; half a float32 step inside is the most extreme draw.
        return self.mean + self.std * torch.special.ndtri(u.clamp(2**-25, 1 - 2**-25))

    def noise_density(self, z: Tensor) -> Tensor:
        return torch.exp(-((z - self.mean) / self.std).square() / 2) / (self.std * math.sqrt(2 * math.pi))


@spec
class CosMap(_OnNoise):
    """The log-SNRs of the cosine path, on any path: sigma / alpha = tan(pi u / 2) (Esser et al. 2024, CosMap)."""

    kind: Literal["cosmap"] = "cosmap"

    def cdf(self, z: Tensor) -> Tensor:
        return torch.atan(z.exp()) * (2 / math.pi)

    def quantile(self, u: Tensor) -> Tensor:
        return torch.log(torch.tan(math.pi / 2 * u.clamp(2**-25, 1 - 2**-25)))

    def noise_density(self, z: Tensor) -> Tensor:
        return 1 / (math.pi * torch.cosh(z))


@spec
class LogUniform(_OnNoise):
    """log-SNR uniform between two ends."""

    kind: Literal["loguniform"] = "loguniform"
    low: float = -10.0
    """Log-SNR of the noisiest level."""
    high: float = 10.0
    """Log-SNR of the cleanest level; above ``low``."""

    def __post_init__(self):
        if self.high <= self.low:
            raise PydanticCustomError("ends", "should have high above low")

    def cdf(self, z: Tensor) -> Tensor:
        return ((2 * z + self.high) / (self.high - self.low)).clamp(0, 1)

    def quantile(self, u: Tensor) -> Tensor:
        return ((self.high - self.low) * u - self.high) / 2

    def noise_density(self, z: Tensor) -> Tensor:
        inside = (-2 * z >= self.low) & (-2 * z <= self.high)
        return inside.to(z.dtype) * (2 / (self.high - self.low))


@dataclass(frozen=True)
class ShiftedTimes(TimeLaw):
    """``law`` moved by -2 log ``shift`` in log-SNR, and cut where the path ends (SD3, Esser et al. 2024, 5.3.2).

    On the flow path t becomes s t / (1 + (s - 1) t): above 1 noisier, as large pictures need, below 1 cleaner.
    """

    law: TimeLaw
    shift: float

    def times(self, u: Tensor, path: GaussianPath) -> Tensor:
        low, high = self._ends(path)
        inner = self.law.times(low + (high - low) * u.double(), path)
        return path.shift(inner, self.shift).to(u.dtype)

    def density(self, t: Tensor, path: GaussianPath) -> Tensor:
        low, high = self._ends(path)
        return self.law.density(path.shift(t, 1 / self.shift), path) / (high - low)

    def quantile_of(self, t: Tensor, path: GaussianPath) -> Tensor:
        low, high = self._ends(path)
        return (self.law.quantile_of(path.shift(t, 1 / self.shift), path) - low) / (high - low)

    def _ends(self, path: GaussianPath) -> tuple[float, float]:
        """The quantiles of the law that are moved to the ends of the path."""
        ends = path.shift(torch.tensor([0.0, 1.0], dtype=torch.float64), 1 / self.shift)
        low, high = self.law.quantile_of(ends, path).tolist()
        if high <= low:
            raise UserError(f"The time law {self.law} shifted by {self.shift:g} has nothing in common with the "
                            f"log-SNRs of the path {path}.")
        return low, high


@dataclass(frozen=True)
class CutTimes(TimeLaw):
    """``law`` between two times alone: what an expert of one interval of noise is trained on (eDiff-I)."""

    law: TimeLaw
    low: float
    high: float

    def times(self, u: Tensor, path: GaussianPath) -> Tensor:
        first, last = self._ends(path)
        return self.law.times(first + (last - first) * u.double(), path).clamp(self.low, self.high).to(u.dtype)

    def density(self, t: Tensor, path: GaussianPath) -> Tensor:
        first, last = self._ends(path)
        return torch.where((t >= self.low) & (t <= self.high), self.law.density(t, path) / (last - first), 0.0)

    def quantile_of(self, t: Tensor, path: GaussianPath) -> Tensor:
        first, last = self._ends(path)
        return ((self.law.quantile_of(t, path) - first) / (last - first)).clamp(0, 1)

    def _ends(self, path: GaussianPath) -> tuple[float, float]:
        """The quantiles of the law at the two times."""
        first, last = self.law.quantile_of(torch.tensor([self.low, self.high], dtype=torch.float64), path).tolist()
        if last <= first:
            raise UserError(f"The time law {self.law} draws no times between {self.low:g} and {self.high:g}: choose "
                            "another law, or another interval.")
        return first, last


Times = Annotated[Uniform | LogNormal | Mode | CosMap | LogUniform, Field(discriminator="kind")]


def stratified(count: int, generator: torch.Generator, shared: bool = False) -> Tensor:
    """``[count]`` uniforms, one in each of ``count`` equal strata, in random order: less noise in the loss.

    shared: all lie at the same place of their stratum, the low-discrepancy draw of VDM (Kingma et al. 2021).
    """
    strata = torch.randperm(count, generator=generator)
    return (strata + torch.rand(1 if shared else count, generator=generator)) / count
