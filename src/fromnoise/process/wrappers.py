"""Paths made from paths: shifted towards noise, or with nothing of the signal left at the end."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fromnoise.config import spec
from fromnoise.process.gaussian import TINY, GaussianPath, safe_log
from fromnoise.process.paths import EDM, VE, VP, Cosine, Flow, SubVP, Trigonometric
from fromnoise.process.tables import DDPM, ScaledLinear, TablePath

VariancePreserving = Annotated[VP | DDPM | ScaledLinear | Cosine, Field(discriminator="kind")]
Plain = Annotated[Flow | Trigonometric | Cosine | VP | SubVP | DDPM | ScaledLinear | VE | EDM,
                  Field(discriminator="kind")]


@spec
class Shifted(GaussianPath):
    """A path whose clock is shifted, so that every t is noisier: lambda(t) = base.lambda(t) - 2 log(by).

    (Hoogeboom et al. 2023, simple diffusion; Esser et al. 2024, SD3, on shifting with resolution.)  Train and
    sample on this path, or shift the sampler's grid alone; nothing shifts twice.
    """

    kind: Literal["shifted"] = "shifted"
    base: Plain = Flow()
    """The path that is shifted."""
    by: Annotated[float, Field(gt=0)] = 3.0
    """Factor on sigma/alpha; see also ``shift_of_size`` and ``shift_of_tokens``."""

    def _inner(self, t: Tensor) -> Tensor:
        return self.base.shift(t, self.by)

    def _speed(self, t: Tensor) -> Tensor:
        """How fast the inner clock runs: both clocks see lambda move alike."""
        inner, speed = self._inner(t), self.base.logsnr_dot(t)
        ratio = speed / self.base.logsnr_dot(inner)
        # At the ends both speeds are infinite; there the slope of the clock is taken a little way inside.
        inside = t.clamp(1e-4, 1 - 1e-4)
        edge = self.base.logsnr_dot(inside) / self.base.logsnr_dot(self._inner(inside))
        return torch.where((t < 1e-4) | (t > 1 - 1e-4), edge, ratio)

    def alpha(self, t: Tensor) -> Tensor:
        return self.base.alpha(self._inner(t))

    def sigma(self, t: Tensor) -> Tensor:
        return self.base.sigma(self._inner(t))

    def alpha_dot(self, t: Tensor) -> Tensor:
        return self.base.alpha_dot(self._inner(t)) * self._speed(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self.base.sigma_dot(self._inner(t)) * self._speed(t)

    def logsnr(self, t: Tensor) -> Tensor:
        return self.base.logsnr(t) - 2 * math.log(self.by)

    def time_of(self, logsnr: Tensor) -> Tensor:
        return self.base.time_of(logsnr + 2 * math.log(self.by))

    def input_scale(self, t: Tensor) -> Tensor | None:
        return self.base.input_scale(self._inner(t))


@spec
class ZeroTerminal(GaussianPath):
    """A variance-preserving path stretched until nothing of the signal is left at t = 1 (Lin et al. 2023, alg. 1).

    alpha = (A - A(1)) A_0 / (A_0 - A(1)) for the base's A, which keeps A_0: its value at t = 0, or that of the first
    level of a table, before which the path is that of the base.  A network trained on it must not predict eps, which
    says nothing at t = 1.
    """

    kind: Literal["zero_terminal"] = "zero_terminal"
    base: VariancePreserving = ScaledLinear()
    """The path that is stretched."""

    @cached_property
    def _ends(self) -> tuple[float, float, float]:
        """(A(1), A_0, 1 - A_0)."""
        first = torch.tensor(1 / self.base.levels if isinstance(self.base, TablePath) else 0.0, dtype=torch.float64)
        last, kept = (float(self.base.alpha(t)) for t in (torch.ones_like(first), first))
        return last, kept, float(self.base.sigma(first).square() / (1 + kept))

    def alpha(self, t: Tensor) -> Tensor:
        last, kept, _ = self._ends
        A = self.base.alpha(t)
        return torch.where(kept < A, A, (A - last) * (kept / (kept - last))).clamp(min=0)

    def sigma(self, t: Tensor) -> Tensor:
        # 1 - alpha = (A_0 (1 - A) - A(1) (1 - A_0)) / (A_0 - A(1)), and 1 - A = sigma_base^2 / (1 + A): no cancellation
        # near t = 0.
        last, kept, lost_first = self._ends
        sigma, A = self.base.sigma(t), self.base.alpha(t)
        lost = (kept * sigma.square() / (1 + A) - last * lost_first) / (kept - last)
        return torch.where(kept < A, sigma, (lost * (1 + self.alpha(t))).clamp(0, 1).sqrt())

    def alpha_dot(self, t: Tensor) -> Tensor:
        last, kept, _ = self._ends
        return self.base.alpha_dot(t) * torch.where(self.base.alpha(t) > kept, 1.0, kept / (kept - last))

    def sigma_dot(self, t: Tensor) -> Tensor:
        return -self.alpha(t) * self.alpha_dot(t) / self.sigma(t).clamp(min=TINY)

    def time_of(self, logsnr: Tensor) -> Tensor:
        last, kept, lost_first = self._ends
        alpha = torch.sigmoid(logsnr).sqrt()
        lost = (torch.sigmoid(-logsnr) / (1 + alpha) * (kept - last) + last * lost_first) / kept  # 1 - A
        A = 1 - lost
        stretched = self.base.time_of(2 * safe_log(A) - safe_log(lost) - safe_log(1 + A))
        return torch.where(alpha > kept, self.base.time_of(logsnr), stretched)


def shift_of_size(pixels: int, base: int = 256 * 256) -> float:
    """The shift that gives a picture of ``pixels`` the uncertainty of one of ``base``: sqrt of their ratio (SD3)."""
    return math.sqrt(pixels / base)


def shift_of_tokens(tokens: int, mu: tuple[float, float] = (0.5, 1.15), at: tuple[int, int] = (256, 4096)) -> float:
    """Flux 1's shift exp(mu), with mu a straight line in the number of tokens through ``mu`` at ``at``."""
    slope = (mu[1] - mu[0]) / (at[1] - at[0])
    return math.exp(mu[0] + slope * (tokens - at[0]))


Path = Annotated[Flow | Trigonometric | Cosine | VP | SubVP | DDPM | ScaledLinear | VE | EDM | Shifted | ZeroTerminal,
                 Field(discriminator="kind")]
