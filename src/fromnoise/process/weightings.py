"""Weightings: how much each noise level counts in the loss, as in the reweighted ELBO.

    L = 1/2 E_{t, eps} [ w(lambda_t) (-dlambda/dt) |eps - eps_hat|^2 ],     t uniform
      = 1/2 E_{lambda ~ p, eps} [ w(lambda) / p(lambda) |eps - eps_hat|^2 ]

(Kingma and Gao 2023.)  w alone says what is learned: the path and the law p of the training times only decide
how noisy its estimate is.  w = 1 is the ELBO.  Papers that put a factor f on the error of eps at t uniform have
w = f dt/d(-lambda), which depends on their path.  Each weighting gives w at the times of a path, up to a constant.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fromnoise.config import spec
from fromnoise.process.gaussian import TINY, GaussianPath
from fromnoise.process.predictions import Prediction, error_scale
from fromnoise.process.times import LogNormal, Times, Uniform

Positive = Annotated[float, Field(gt=0)]


@spec
class Implied:
    """What the space of the loss and the law of the times make of it, with no further factor."""

    kind: Literal["implied"] = "implied"


@spec
class Simple:
    """DDPM's simple loss (Ho et al. 2020, eq. 14): the plain error of eps at t uniform."""

    kind: Literal["simple"] = "simple"

    def weight(self, t: Tensor, path: GaussianPath) -> Tensor:
        return Uniform().density(t, path)


@spec
class Elbo:
    """The variational bound itself: every log-SNR counts alike (Kingma et al. 2021)."""

    kind: Literal["elbo"] = "elbo"

    def weight(self, t: Tensor, path: GaussianPath) -> Tensor:
        return torch.ones_like(t)


@spec
class MinSNR:
    """The simple loss, with the error of x0 counting at most gamma: factor min(1, gamma / SNR) (Hang et al. 2023)."""

    kind: Literal["min_snr"] = "min_snr"
    gamma: Positive = 5.0
    """The signal-to-noise ratio above which levels count less."""

    def weight(self, t: Tensor, path: GaussianPath) -> Tensor:
        return Uniform().density(t, path) * (self.gamma * torch.exp(-path.logsnr(t))).clamp(max=1)


@spec
class P2:
    """The simple loss with the factor (k + SNR)^-gamma, which leaves out imperceptible detail (Choi et al. 2022)."""

    kind: Literal["p2"] = "p2"
    k: Positive = 1.0
    """Where the factor begins to fall."""
    gamma: Annotated[float, Field(ge=0)] = 1.0
    """How fast it falls; 0 is the simple loss."""

    def weight(self, t: Tensor, path: GaussianPath) -> Tensor:
        return Uniform().density(t, path) * (self.k + torch.exp(path.logsnr(t))) ** -self.gamma


@spec
class EDMWeighting:
    """EDM's loss: equal errors of its network at log sigma ~ N(mean, std) (Karras et al. 2022, table 1).

    w = N(lambda; -2 mean, 2 std) (e^-lambda + data_std^2)  (Kingma and Gao 2023, table 1).
    """

    kind: Literal["edm"] = "edm"
    data_std: Positive = 0.5
    """Standard deviation of the data."""
    mean: float = -1.2
    """Mean of log(sigma / alpha)."""
    std: Positive = 1.2
    """Its standard deviation."""

    def weight(self, t: Tensor, path: GaussianPath) -> Tensor:
        z = -path.logsnr(t) / 2
        density = LogNormal(mean=self.mean, std=self.std).noise_density(z) / 2
        return density * (torch.exp((2 * z).clamp(max=60)) + self.data_std**2)  # e^60 where the density is 0


@spec
class Sigmoid:
    """w = sigmoid(bias - lambda): a monotone weighting, so still a bound, of data with noise (VDM++; SiD2).

    (Kingma and Gao 2023; Hoogeboom et al. 2024.)
    """

    kind: Literal["sigmoid"] = "sigmoid"
    bias: float = 0.0
    """The log-SNR at which the weight has fallen to half; larger counts finer detail."""

    def weight(self, t: Tensor, path: GaussianPath) -> Tensor:
        return torch.sigmoid(self.bias - path.logsnr(t))


@spec
class Kept:
    """The weighting that a loss and a law of times imply, kept while the times are drawn from another law."""

    kind: Literal["kept"] = "kept"
    loss: Prediction = "velocity"
    """The space of the loss."""
    times: Times = LogNormal()
    """The law whose weighting is kept."""

    def weight(self, t: Tensor, path: GaussianPath) -> Tensor:
        return self.times.density(t, path) * eps_error(self.loss, t, path)


Weighting = Annotated[Implied | Simple | Elbo | MinSNR | P2 | EDMWeighting | Sigmoid | Kept,
                      Field(discriminator="kind")]


def eps_error(prediction: Prediction, t: Tensor, path: GaussianPath) -> Tensor:
    """|d prediction / d eps|^2 at fixed x_t: what the squared error of eps is multiplied by to give that of another."""
    if prediction == "eps":
        return torch.ones_like(t)
    return (error_scale(prediction, path, t) / error_scale("eps", path, t).clamp(min=TINY**2)).square()
