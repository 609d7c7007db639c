"""The named paths, each with its source.  Adding one is one class."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fromnoise.config import spec
from fromnoise.process.gaussian import TINY, GaussianPath

Positive = Annotated[float, Field(gt=0)]


@spec
class Flow(GaussianPath):
    """The straight path of rectified flow (Liu et al. 2022; Lipman et al. 2022): alpha = 1 - t, sigma = t."""

    kind: Literal["flow"] = "flow"

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time_of(self, logsnr: Tensor) -> Tensor:
        return torch.sigmoid(-logsnr / 2)  # sigma / alpha = t / (1 - t)


@spec
class Trigonometric(GaussianPath):
    """A quarter of a circle (Albergo and Vanden-Eijnden 2023; TrigFlow of Lu and Song 2024): alpha = cos(pi t/2)."""

    kind: Literal["trigonometric"] = "trigonometric"

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * (1 - t))  # cos(pi t / 2), exactly 0 at t = 1

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * self.sigma(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return math.pi / 2 * self.alpha(t)

    def time_of(self, logsnr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-logsnr / 2)) * (2 / math.pi)  # tan(pi t / 2) = exp(-lambda / 2)


@spec
class Cosine(GaussianPath):
    """Variance-preserving cosine path (Nichol and Dhariwal 2021, eq. 17).

    alpha = cos(phi(t)) / cos(phi(0)) with phi(t) = (t + offset) / (1 + offset) pi/2.
    """

    kind: Literal["cosine"] = "cosine"
    offset: Annotated[float, Field(ge=0)] = 0.008
    """How far the clock starts from a standstill, so that the first steps do change the picture."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(self._rate * (1 - t)) / math.cos(self._start)

    def sigma(self, t: Tensor) -> Tensor:
        # 1 - alpha^2 = sin(phi - phi0) sin(phi + phi0) / cos^2 phi0: no cancellation near t = 0.
        turned = self._rate * t
        return (torch.sin(turned) * torch.sin(turned + 2 * self._start)).clamp(min=0).sqrt() / math.cos(self._start)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -self._rate * torch.sin(self._start + self._rate * t) / math.cos(self._start)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return -self.alpha(t) * self.alpha_dot(t) / self.sigma(t).clamp(min=TINY)

    def time_of(self, logsnr: Tensor) -> Tensor:
        # cos^2 phi = cos^2 phi0 sigmoid(lambda), and so sin^2 phi = sin^2 phi0 + cos^2 phi0 sigmoid(-lambda).
        cos, sin = math.cos(self._start), math.sin(self._start)
        phi = torch.atan2((sin**2 + cos**2 * torch.sigmoid(-logsnr)).sqrt(), cos * torch.sigmoid(logsnr).sqrt())
        return (phi - self._start) / self._rate

    @property
    def _rate(self) -> float:
        return math.pi / 2 / (1 + self.offset)

    @property
    def _start(self) -> float:
        return self._rate * self.offset


class _LinearBeta(GaussianPath):
    """alpha = exp(-B/2) with B(t) the integral of beta = beta_min + t (beta_max - beta_min)."""

    beta_min: float
    beta_max: float

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def integral(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + t * ((self.beta_max - self.beta_min) / 2))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self.integral(t) / 2)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -self.beta(t) / 2 * self.alpha(t)

    def time_of_integral(self, B: Tensor) -> Tensor:
        """t with B(t) = B, by the form of the quadratic's root that has no cancellation."""
        slope, B = self.beta_max - self.beta_min, B.clamp(max=1e6)  # far beyond t = 1, where infinity is no number
        return 2 * B / (self.beta_min + (self.beta_min**2 + 2 * B * slope).clamp(min=0).sqrt())


@spec
class VP(_LinearBeta):
    """Variance-preserving SDE with linear beta (Ho et al. 2020 in continuous time; Song et al. 2021b, eq. 11)."""

    kind: Literal["vp"] = "vp"
    beta_min: Positive = 0.1
    """beta at t = 0."""
    beta_max: Positive = 20.0
    """beta at t = 1."""

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self.integral(t))).sqrt()

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self.beta(t) / 2 * self.alpha(t).square() / self.sigma(t).clamp(min=TINY)

    def logsnr(self, t: Tensor) -> Tensor:
        return -torch.log(torch.expm1(self.integral(t)))

    def time_of(self, logsnr: Tensor) -> Tensor:
        return self.time_of_integral(torch.nn.functional.softplus(-logsnr))  # exp(B) = 1 + exp(-lambda)


@spec
class SubVP(_LinearBeta):
    """Sub-variance-preserving SDE (Song et al. 2021b, eq. 12): alpha as VP, sigma = 1 - alpha^2."""

    kind: Literal["subvp"] = "subvp"
    beta_min: Positive = 0.1
    """beta at t = 0."""
    beta_max: Positive = 20.0
    """beta at t = 1."""

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self.integral(t))

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self.beta(t) * self.alpha(t).square()

    def time_of(self, logsnr: Tensor) -> Tensor:
        return self.time_of_integral(2 * torch.asinh(torch.exp(-logsnr / 2) / 2))  # sigma / alpha = 2 sinh(B / 2)


class _Exploding(GaussianPath):
    """alpha = 1: the signal stays and the noise grows over it."""

    data_std: float

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def input_scale(self, t: Tensor) -> Tensor:
        """c_in of EDM: one over the standard deviation of x_t."""
        return (self.data_std**2 + self.sigma(t).square()).rsqrt()


@spec
class VE(_Exploding):
    """Variance-exploding SDE (Song et al. 2021b, eq. 9): sigma^2 = sigma_min^2 ((sigma_max/sigma_min)^2t - 1)."""

    kind: Literal["ve"] = "ve"
    sigma_min: Positive = 0.01
    """Scale of the noise near t = 0."""
    sigma_max: Positive = 50.0
    """Scale of the noise at t = 1."""
    data_std: Positive = 0.5
    """Standard deviation of the data, by which the network's input is scaled."""

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.expm1(2 * self._growth * t).sqrt()

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self.sigma_min**2 * self._growth * torch.exp(2 * self._growth * t) / self.sigma(t).clamp(min=TINY)

    def time_of(self, logsnr: Tensor) -> Tensor:
        return torch.log1p(torch.exp(-logsnr) / self.sigma_min**2) / (2 * self._growth)

    @property
    def _growth(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)


@spec
class EDM(_Exploding):
    """EDM's noise levels (Karras et al. 2022) on the unit clock: sigma = sigma_max t^rho.

    The warp is that of their time grid (eq. 5) with sigma_min = 0, so that an even grid in t is close to
    theirs and a network's clock tells small noise levels apart.
    """

    kind: Literal["edm"] = "edm"
    sigma_max: Positive = 80.0
    """Standard deviation of the noise at t = 1."""
    rho: Annotated[float, Field(ge=1)] = 7.0
    """Warp of the clock: 1 is even in sigma, larger dwells at small noise."""
    data_std: Positive = 0.5
    """Standard deviation of the data, by which the network's input is scaled."""

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * t**self.rho

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self.sigma_max * self.rho * t ** (self.rho - 1)

    def logsnr(self, t: Tensor) -> Tensor:
        return -2 * (math.log(self.sigma_max) + self.rho * t.log())  # t^rho underflows long before its logarithm

    def logsnr_dot(self, t: Tensor) -> Tensor:
        return -2 * self.rho / t.clamp(min=TINY)

    def time_of(self, logsnr: Tensor) -> Tensor:
        return torch.exp((-logsnr / 2 - math.log(self.sigma_max)) / self.rho)
