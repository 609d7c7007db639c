"""Noise paths: how much signal and how much noise there is at time t.

    x_t = alpha(t) x0 + sigma(t) eps,      t = 0 clean, t = 1 noise,      lambda = log(alpha^2 / sigma^2)

A path is a frozen spec; its methods take and return tensors of any shape.  Adding one is one class
with alpha, sigma, their derivatives and the inverse of log-SNR.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fromnoise.config import spec


class _Path:
    """What follows for every path from alpha and sigma."""

    def alpha(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def logsnr(self, t: Tensor) -> Tensor:
        """lambda(t) = 2 log(alpha / sigma): +inf at t = 0 and -inf at t = 1."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t for ``x0``, ``eps`` ``[B, T, ...]`` and ``t`` that broadcasts against ``[B, T]``."""
        t = expand(t, x0)
        return self.alpha(t) * x0 + self.sigma(t) * eps

    def shift(self, t: Tensor, s: float) -> Tensor:
        """Time moved towards noise by 2 log s in log-SNR; on the flow path s t / (1 + (s-1) t) (SD3, eq. 23)."""
        return self.time(self.logsnr(t) - 2 * math.log(s)) if s != 1 else t

    def time(self, logsnr: Tensor) -> Tensor:
        raise NotImplementedError


@spec
class Flow(_Path):
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

    def time(self, logsnr: Tensor) -> Tensor:
        """t at which the log-SNR is ``logsnr``: sigma/alpha = t/(1-t), so t = sigmoid(-lambda/2)."""
        return torch.sigmoid(-logsnr / 2)


@spec
class Cosine(_Path):
    """Variance-preserving cosine path (Nichol and Dhariwal 2021, without its offset): alpha = cos(pi t / 2)."""

    kind: Literal["cosine"] = "cosine"

    def alpha(self, t: Tensor) -> Tensor:
        # cos(pi t / 2) as a sine of the complement, exactly 0 at t = 1.
        return torch.sin(math.pi / 2 * (1 - t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * self.sigma(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return math.pi / 2 * self.alpha(t)

    def time(self, logsnr: Tensor) -> Tensor:
        """t at which the log-SNR is ``logsnr``: tan(pi t / 2) = exp(-lambda / 2)."""
        return torch.atan(torch.exp(-logsnr / 2)) * (2 / math.pi)


Path = Annotated[Flow | Cosine, Field(discriminator="kind")]


def expand(t: Tensor, like: Tensor) -> Tensor:
    """``t`` with trailing axes of length one, so that it broadcasts against ``like`` from the left.

    A clock ``[]``, ``[B]`` or ``[B, T]`` meets media ``[B, T, C, H, W]`` (or any ``[B, ...]``) this way.
    """
    if t.ndim > like.ndim:
        raise ValueError(f"time has {t.ndim} axes but the sample only {like.ndim}")
    return t.reshape(t.shape + (1,) * (like.ndim - t.ndim)) if t.ndim else t
