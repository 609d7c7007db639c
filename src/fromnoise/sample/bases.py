"""The linear part of a solver: in which coordinates the ODE is nothing but an integral.

With r = sigma / alpha, every target F of the list below is affine in (x, x0) and obeys

    d(x / S) = F dm,       so       x' = (S'/S) x + S' int F dm

    target      S                              m               F
    x0          sigma                          1 / r           x0
    eps         alpha                          r               (x - alpha x0) / sigma
    v           sqrt(alpha^2 s^2 + sigma^2)    atan(r / s)     cos(m) eps - sin(m) x0 / s
    velocity    alpha + sigma                  r / (1 + r)     eps - x0

(x0: Lu et al. 2022b; eps: Song et al. 2021a, Zhang and Chen 2022; v: Salimans and Ho 2022, with s the standard
deviation of the data, exact where they are N(0, s^2); velocity: rectified flow, on any path.)  For constant x0
all but v are the same rule, DDIM.

The reverse SDEs have the target x0 as well, with more pull towards it and fresh noise: for a rising g(r)

    S = alpha g(r),      m = 1 / g(r),      noise variance = alpha'^2 (r'^2 - (g(r') / g(r))^2 r^2)

g = r is the ODE, g = r^(1 + tau^2) the SDE of strength tau (tau = 1: Song et al. 2021b; SA-Solver, Xue et al. 2023),
g = r (exp(r^0.3) + 10) the one of ER-SDE (Cui et al. 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Target = Literal["x0", "eps", "v", "velocity"]


@dataclass(frozen=True)
class Basis:
    """Coordinates S and m, and the target F = a x + b x0.  Arguments are alpha, sigma; or log r for m and its slope."""

    target: Target = "x0"
    data_std: float = 1.0  # s of the target v
    tau: float = 0.0  # strength of the SDE, for x0 only
    extended: bool = False  # ER-SDE, for x0 only

    def __post_init__(self):
        if (self.tau or self.extended) and self.target != "x0":
            raise ValueError("only the target x0 has an SDE here")

    def scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """S."""
        match self.target:
            case "x0":
                return sigma * self._pull(alpha, sigma)
            case "eps":
                return alpha
            case "v":
                return torch.hypot(alpha * self.data_std, sigma)
            case "velocity":
                return alpha + sigma

    def _pull(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """g(r) / r."""
        if self.extended:
            return torch.exp((sigma / alpha) ** 0.3) + 10
        return (sigma / alpha) ** self.tau**2 if self.tau else torch.ones_like(sigma)

    def measure(self, q: Tensor) -> Tensor:
        """m at q = log r, which may be infinite."""
        match self.target:
            case "x0":
                if self.extended:
                    return torch.exp(-q) / (torch.exp(torch.exp(0.3 * q)) + 10)
                return torch.exp(-(1 + self.tau**2) * q)
            case "eps":
                return torch.exp(q)
            case "v":
                return torch.atan(torch.exp(q) / self.data_std)
            case "velocity":
                return torch.sigmoid(q)

    def slope(self, q: Tensor) -> Tensor:
        """dm / dq."""
        match self.target:
            case "x0":
                if self.extended:
                    inner = torch.exp(0.3 * q)
                    pull = torch.exp(inner) + 10
                    return -self.measure(q) * (1 + 0.3 * inner * torch.exp(inner) / pull)
                return -(1 + self.tau**2) * self.measure(q)
            case "eps":
                return torch.exp(q)
            case "v":
                r = torch.exp(q) / self.data_std
                return r / (1 + r * r)
            case "velocity":
                return torch.sigmoid(q) * torch.sigmoid(-q)

    def affine(self, alpha: float, sigma: float) -> tuple[float, float]:
        """(a, b) of F = a x + b x0."""
        match self.target:
            case "x0":
                return 0.0, 1.0
            case "eps":
                return 1 / sigma, -alpha / sigma
            case "v":
                length = math.hypot(alpha * self.data_std, sigma)
                cos, sin = alpha * self.data_std / length, sigma / length
                return cos / sigma, -cos * alpha / sigma - sin / self.data_std
            case "velocity":
                return 1 / sigma, -alpha / sigma - 1

    def noise(self, alpha: float, sigma: float, alpha_next: float, sigma_next: float) -> float:
        """Standard deviation of the fresh noise of a step."""
        if not (self.tau or self.extended) or sigma_next == 0:
            return 0.0
        values = (torch.tensor([a], dtype=torch.float64) for a in (alpha, sigma, alpha_next, sigma_next))
        a, s, a_next, s_next = values
        if alpha == 0:  # from pure noise nothing of x is kept
            return sigma_next
        kept = self.scale(a_next, s_next) / self.scale(a, s)  # the share of x, and so of its noise, that stays
        return float((s_next.square() - (kept * s).square()).clamp(min=0).sqrt())


# ---- variables in which the target is taken for a polynomial ------------------------------------------------

Variable = Literal["logsnr", "angle", "flow", "sigma", "t"]


def variable(name: Variable, q: Tensor, time_of: Callable[[Tensor], Tensor]) -> Tensor:
    """The variable at q = log(sigma / alpha): -q itself, atan r, r / (1 + r), r, or the clock of the path."""
    match name:
        case "logsnr":
            return -q
        case "angle":
            return torch.atan(torch.exp(q))
        case "flow":
            return torch.sigmoid(q)
        case "sigma":
            return torch.exp(q)
        case "t":
            return time_of(-2 * q)
