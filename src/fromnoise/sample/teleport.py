"""The first stretch for nothing: the exact jump from noise to a later time for data that were Gaussian.

For x0 ~ N(mu, C) the probability-flow ODE has the solution

    x_t = alpha mu + S_t^(1/2) S_1^(-1/2) (x_1 - alpha_1 mu),        S_t = alpha^2 C + sigma^2

While noise outweighs the data, any data look Gaussian with their own mean and covariance (Wang and Vastola 2024,
"The unreasonable effectiveness of Gaussian score approximation"), so that a solver may start from there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fromnoise.config import spec

FULL = 256  # largest number of values for which a whole covariance is kept


@spec
class Gaussian:
    """A normal law over flattened samples: its mean, variances, and the axes ``[D][D]`` they belong to, by rows.

    Without axes the variances are those of the coordinates.
    """

    mean: tuple[float, ...]
    variances: tuple[float, ...]
    axes: tuple[tuple[float, ...], ...] | None = None

    @staticmethod
    def fit(samples: Tensor) -> Gaussian:
        """The law of samples ``[B, ...]``, the covariance shrunk towards a multiple of one."""
        flat = samples.flatten(1).double()
        mean = flat.mean(0)
        if flat.shape[1] > FULL:
            return Gaussian(mean=_list(mean), variances=_list(flat.var(0)))
        values, vectors = torch.linalg.eigh(shrunk(flat))
        return Gaussian(mean=_list(mean), variances=_list(values.clamp(min=0)), axes=_rows(vectors.mT))

    def jump(self, noise: Tensor, start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]) -> Tensor:
        """x at ``end`` for x = sigma noise at ``start``, both given as (alpha, sigma), each ``[]`` or ``[B]``."""
        like: dict[str, Any] = {"dtype": noise.dtype, "device": noise.device}
        (alpha0, sigma0), (alpha, sigma) = ([value[..., None] for value in pair] for pair in (start, end))
        mean = torch.tensor(self.mean, **like)
        values = torch.tensor(self.variances, dtype=torch.float64)
        ratio = ((alpha**2 * values + sigma**2) / (alpha0**2 * values + sigma0**2)).sqrt().to(**like)
        away = sigma0.to(**like) * noise.flatten(1) - alpha0.to(**like) * mean
        if self.axes is None:
            away = away * ratio
        else:
            axes = torch.tensor(self.axes, **like)
            away = ((away @ axes.mT) * ratio) @ axes
        return (alpha.to(**like) * mean + away).reshape(noise.shape)


def shrunk(flat: Tensor) -> Tensor:
    """The covariance ``[D, D]`` of ``[B, D]`` by oracle approximating shrinkage (Chen et al. 2010, eq. 23)."""
    count, dim = flat.shape
    cov = torch.cov(flat.mT, correction=0).reshape(dim, dim)
    size, square = cov.trace() ** 2, cov.square().sum()
    rho = ((1 - 2 / dim) * square + size) / ((count + 1 - 2 / dim) * (square - size / dim).clamp(min=1e-300))
    rho = rho.clamp(0, 1)
    return (1 - rho) * cov + rho * cov.trace() / dim * torch.eye(dim, dtype=cov.dtype, device=cov.device)


def _list(values: Tensor) -> tuple[float, ...]:
    return tuple(values.tolist())


def _rows(values: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, values.tolist()))
