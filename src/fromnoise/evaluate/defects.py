"""Defects planted in a mixture, to see which metric notices what.

Each is drawn from the mixture itself and then spoilt in one way, so that everything else is exactly right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from fromnoise.analytic import GaussianMixture


@dataclass(frozen=True)
class Defect:
    """One way to be wrong.  draw: (mixture, count, generator) -> points ``[count, D]``;  size: points on either
    side at which it must be noticed."""

    name: str
    draw: Callable[[GaussianMixture, int, Generator], Tensor]
    size: int = 5000


def reweighted(mixture: GaussianMixture, weights: Tensor) -> GaussianMixture:
    """The same components with other weights; those of weight 0 are gone."""
    kept = weights > 0
    labels = torch.as_tensor(mixture.labels)[kept]
    return GaussianMixture(weights[kept], mixture.means[kept], mixture.covs[kept], labels)


def drop_mode(mixture: GaussianMixture, count: int, generator: Generator) -> Tensor:
    """The mode whose weight is nearest to the mean weight never comes."""
    weights = mixture.weights.clone()
    weights[(weights - weights.mean()).abs().argmin()] = 0
    return reweighted(mixture, weights).sample(count, generator)[0]


def reweight(mixture: GaussianMixture, count: int, generator: Generator, amount: float = 0.05) -> Tensor:
    """``amount`` of all probability moves from the odd modes to the even ones, in proportion to their weights."""
    even = torch.arange(len(mixture.weights)) % 2 == 0
    share = mixture.weights[even].sum()
    factor = torch.where(even, 1 + amount / share, 1 - amount / (1 - share))
    return reweighted(mixture, mixture.weights * factor).sample(count, generator)[0]


def shrink(mixture: GaussianMixture, count: int, generator: Generator, amount: float = 0.05) -> Tensor:
    """Every point is drawn nearer to the mean of its mode by ``amount``."""
    x, which = mixture.sample(count, generator)
    return torch.lerp(x, mixture.means[which], amount)


def lose_high_frequencies(mixture: GaussianMixture, count: int, generator: Generator, keep: float = 0.8) -> Tensor:
    """The half of the principal axes with the least variance keeps ``keep`` of its amplitude: details fade."""
    x, _ = mixture.sample(count, generator)
    fine = torch.linalg.eigh(mixture.cov).eigenvectors[:, : mixture.dim // 2]
    return x - (1 - keep) * (x - mixture.mean) @ fine @ fine.T


def memory(mixture: GaussianMixture, count: int, generator: Generator, remembered: int = 500) -> Tensor:
    """Only ``remembered`` true samples, over and over."""
    x, _ = mixture.sample(remembered, generator)
    return x[torch.randint(remembered, (count,), generator=generator)]


def additive_noise(mixture: GaussianMixture, count: int, generator: Generator, amount: float = 0.03) -> Tensor:
    """White noise of ``amount`` times the root-mean-square standard deviation on top."""
    x, _ = mixture.sample(count, generator)
    std = mixture.cov.diagonal().mean().sqrt()
    return x + amount * std * torch.randn(x.shape, generator=generator, dtype=x.dtype)


def outliers(mixture: GaussianMixture, count: int, generator: Generator, amount: float = 0.02) -> Tensor:
    """``amount`` of the points come from one Gaussian with the mean and covariance of the whole: between the modes."""
    x, _ = mixture.sample(count, generator)
    whole = GaussianMixture(torch.ones(1), mixture.mean[None], mixture.cov[None])
    astray = torch.rand(count, 1, generator=generator) < amount
    return torch.where(astray, whole.sample(count, generator)[0], x)


def shift(mixture: GaussianMixture, count: int, generator: Generator, amount: float = 0.05) -> Tensor:
    """Every coordinate is off by ``amount`` of the root-mean-square standard deviation."""
    return mixture.sample(count, generator)[0] + amount * mixture.cov.diagonal().mean().sqrt()


DEFECTS: dict[str, Defect] = {defect.name: defect for defect in (
    Defect("one mode of 16 dropped", drop_mode),
    Defect("5 % reweighted", reweight),
    Defect("shrunk by 5 %", shrink),
    Defect("high frequencies lost", lose_high_frequencies),
    Defect("500 samples remembered", memory),
    Defect("3 % noise added", additive_noise, 20_000),
    Defect("2 % outliers", outliers),
    Defect("shifted by 5 %", shift),
)}
