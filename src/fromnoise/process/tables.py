"""Paths given by a table of discrete noise levels, as the networks of DDPM and Stable Diffusion were trained.

Level i of N (0 ... N-1) has alpha^2 = prod_{j <= i} (1 - beta_j).  On our clock it stands at t = (i+1)/N, and
between levels log alpha is a straight line (as in Lu et al. 2022, DPM-Solver, appendix), with alpha = 1 at
t = 0: continuous, and exact at every level of the table.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fromnoise.config import spec
from fromnoise.process.gaussian import TINY, GaussianPath

Beta = Annotated[float, Field(gt=0, lt=1)]


class TablePath(GaussianPath):
    """A variance-preserving path through the levels of a table."""

    beta_start: float
    beta_end: float
    levels: int

    def betas(self) -> Tensor:
        """``[levels]`` float64."""
        raise NotImplementedError

    def log_alpha(self, t: Tensor) -> Tensor:
        knots = _knots(self)
        position, left = self._place(t)
        table = knots.to(device=t.device)
        start, end = table[left].to(t.dtype), table[left + 1].to(t.dtype)
        return start + (end - start) * (position - left.to(t.dtype))

    def alpha(self, t: Tensor) -> Tensor:
        return self.log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self.log_alpha(t))).sqrt()

    def alpha_dot(self, t: Tensor) -> Tensor:
        knots = _knots(self).to(device=t.device)
        _, left = self._place(t)
        return self.alpha(t) * ((knots[left + 1] - knots[left]) * self.levels).to(t.dtype)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return -self.alpha(t) * self.alpha_dot(t) / self.sigma(t).clamp(min=TINY)

    def time_of(self, logsnr: Tensor) -> Tensor:
        wanted = -torch.nn.functional.softplus(-logsnr) / 2  # log alpha = log sigmoid(lambda) / 2
        falling = -_knots(self).to(device=logsnr.device)
        left = (torch.searchsorted(falling, -wanted.contiguous()) - 1).clamp(0, self.levels - 1)
        return (left + (-wanted - falling[left]) / (falling[left + 1] - falling[left])) / self.levels

    def time_of_level(self, level: Tensor) -> Tensor:
        """t of a discrete level 0 ... N-1, or of what lies between two of them."""
        return (level + 1) / self.levels

    def level_of_time(self, t: Tensor) -> Tensor:
        """The discrete level, in general between two, that stands at t: what such a network is told."""
        return t * self.levels - 1

    def _place(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(t in units of levels, the knot to its left)."""
        position = t * self.levels
        return position, position.detach().floor().long().clamp(0, self.levels - 1)


@lru_cache(maxsize=16)
def _knots(path: TablePath) -> Tensor:
    """log alpha at t = 0, 1/N, ..., 1, in float64."""
    return torch.cat([torch.zeros(1, dtype=torch.float64), torch.log1p(-path.betas()).cumsum(0) / 2])


@spec
class DDPM(TablePath):
    """DDPM's table of linear betas (Ho et al. 2020, section 4)."""

    kind: Literal["ddpm"] = "ddpm"
    beta_start: Beta = 1e-4
    """First beta."""
    beta_end: Beta = 0.02
    """Last beta."""
    levels: Annotated[int, Field(ge=2)] = 1000
    """Length of the table."""

    def betas(self) -> Tensor:
        return torch.linspace(self.beta_start, self.beta_end, self.levels, dtype=torch.float64)


@spec
class ScaledLinear(TablePath):
    """Stable Diffusion's table (Rombach et al. 2022): betas whose square roots are linear."""

    kind: Literal["scaled_linear"] = "scaled_linear"
    beta_start: Beta = 0.00085
    """First beta."""
    beta_end: Beta = 0.012
    """Last beta."""
    levels: Annotated[int, Field(ge=2)] = 1000
    """Length of the table."""

    def betas(self) -> Tensor:
        return torch.linspace(self.beta_start**0.5, self.beta_end**0.5, self.levels, dtype=torch.float64).square()
