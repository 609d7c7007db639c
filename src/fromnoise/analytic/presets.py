"""Mixtures to try things on."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from fromnoise.analytic.mixture import GaussianMixture


def grid25(std: float = 0.05) -> GaussianMixture:
    """2-D: 25 equal modes on a 5 x 5 grid of unit variance overall; the label is the row."""
    axis = torch.arange(5, dtype=torch.float64) - 2
    means = torch.cartesian_prod(axis, axis) * math.sqrt((1 - std**2) / 2)
    return GaussianMixture.isotropic(means, std, labels=torch.arange(25) // 5)


def ring(modes: int = 8, std: float = 0.1) -> GaussianMixture:
    """2-D: equal modes on the circle of radius sqrt(2), so of about unit variance; the label is the mode."""
    angle = torch.arange(modes, dtype=torch.float64) * (2 * math.pi / modes)
    return GaussianMixture.isotropic(math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], 1), std)


def anisotropic(dim: int = 64, modes: int = 10, seed: int = 0, spread: float = 0.7) -> GaussianMixture:
    """``dim``-D: unequal modes, each with its own axes and variances over two decades, of unit variance overall.

    spread: share of the variance that lies between the modes.  The variances within fall as those of pictures
    do, from large to small by a power law.
    """
    random = torch.Generator().manual_seed(seed)
    means = torch.randn(modes, dim, generator=random, dtype=torch.float64)
    weights = 0.5 + torch.rand(modes, generator=random, dtype=torch.float64)
    weights = weights / weights.sum()
    means = means - weights @ means
    means = means * math.sqrt(spread * dim / float(weights @ means.square().sum(1)))
    decay = torch.logspace(0, -2, dim, dtype=torch.float64)
    axes = torch.linalg.qr(torch.randn(modes, dim, dim, generator=random, dtype=torch.float64)).Q
    order = torch.stack([torch.randperm(dim, generator=random) for _ in range(modes)])
    variances = decay[order] * ((1 - spread) / float(decay.mean()))
    covs = axes @ torch.diag_embed(variances) @ axes.mT
    return GaussianMixture(weights, means, (covs + covs.mT) / 2)


PRESETS: dict[str, Callable[[], GaussianMixture]] = {"grid25": grid25, "ring": ring, "anisotropic": anisotropic}
