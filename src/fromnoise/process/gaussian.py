"""What every Gaussian noise path shares.

    x_t = alpha(t) x0 + sigma(t) eps,      t = 0 clean, t = 1 noise,      lambda = log(alpha^2 / sigma^2)

A path is a frozen spec that gives alpha, sigma, their derivatives and the inverse of the log-SNR; the
rest follows.  Its methods take and return tensors of any shape, in the dtype of ``t``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Divisions by alpha near t = 1 or by sigma near t = 0 are kept finite; both are exact elsewhere.
TINY = 1e-6


class GaussianPath:
    """How much signal and how much noise there is at time t."""

    def alpha(self, t: Tensor) -> Tensor:
        """Share of the clean sample: 1 at t = 0, falling."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise: 0 at t = 0, rising."""
        raise NotImplementedError

    def alpha_dot(self, t: Tensor) -> Tensor:
        """d alpha / dt."""
        raise NotImplementedError

    def sigma_dot(self, t: Tensor) -> Tensor:
        """d sigma / dt."""
        raise NotImplementedError

    def time_of(self, logsnr: Tensor) -> Tensor:
        """``time`` for a float64 log-SNR."""
        raise NotImplementedError

    def logsnr(self, t: Tensor) -> Tensor:
        """lambda(t) = 2 log(alpha / sigma): +inf at t = 0, and -inf at t = 1 where nothing of the signal is left."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def logsnr_dot(self, t: Tensor) -> Tensor:
        """d lambda / dt = 2 (alpha'/alpha - sigma'/sigma), kept finite at the ends."""
        alpha, sigma = self.alpha(t).clamp(min=TINY), self.sigma(t).clamp(min=TINY)
        return 2 * (self.alpha_dot(t) / alpha - self.sigma_dot(t) / sigma)

    def time(self, logsnr: Tensor) -> Tensor:
        """t at which the log-SNR is ``logsnr``; 0 above, and 1 below, those of the path."""
        return self.time_of(logsnr.double()).clamp(0, 1).to(logsnr.dtype)

    def drift(self, t: Tensor) -> Tensor:
        """f(t) of the forward SDE dx = f x dt + g dw: f = alpha' / alpha (Song et al. 2021b)."""
        return self.alpha_dot(t) / self.alpha(t).clamp(min=TINY)

    def diffusion_squared(self, t: Tensor) -> Tensor:
        """g(t)^2 of the forward SDE: g^2 = d sigma^2/dt - 2 f sigma^2 = -sigma^2 dlambda/dt (Kingma et al. 2021)."""
        return 2 * self.sigma(t) * (self.sigma_dot(t) - self.drift(t) * self.sigma(t))

    def input_scale(self, t: Tensor) -> Tensor | None:
        """What x_t is multiplied by before a network sees it; None where paths keep it of order one."""
        return None

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t for ``x0``, ``eps`` ``[B, T, ...]`` and ``t`` that broadcasts against ``[B, T]``."""
        t = expand(t, x0)
        return self.alpha(t) * x0 + self.sigma(t) * eps

    def shift(self, t: Tensor, s: float) -> Tensor:
        """Time moved towards noise by 2 log s in log-SNR; on the flow path s t / (1 + (s-1) t) (SD3)."""
        return self.time(self.logsnr(t) - 2 * math.log(s)) if s != 1 else t


def expand(t: Tensor, like: Tensor) -> Tensor:
    """``t`` with trailing axes of length one, so that it broadcasts against ``like`` from the left.

    A clock ``[]``, ``[B]`` or ``[B, T]`` meets media ``[B, T, C, H, W]`` (or any ``[B, ...]``) this way.
    """
    if t.ndim > like.ndim:
        raise ValueError(f"time has {t.ndim} axes but the sample only {like.ndim}")
    return t.reshape(t.shape + (1,) * (like.ndim - t.ndim)) if t.ndim else t


def safe_log(x: Tensor) -> Tensor:
    """log x, -inf at 0, without NaN for what rounding put below 0."""
    return torch.log(x.clamp(min=0))
