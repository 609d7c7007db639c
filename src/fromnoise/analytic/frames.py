"""A Gaussian process over frames, and its exact denoiser where every frame has a clock of its own.

With A and S the diagonal matrices of alpha(t_f) and sigma(t_f),

    x_t = A x0 + S eps,      E[x0 | x_t] = mu + C A (A C A + S^2)^-1 (x_t - A mu)

A frame at t = 0 is known exactly, so that the same formula is the denoiser of every task: of p(clip), of p(clip | some
frames), and of anything between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.analytic.mixture import GaussianMixture
from fromnoise.process import GaussianPath


@dataclass(frozen=True, eq=False)
class GaussianFrames:
    """Clips of T frames of D numbers: mean ``[T, D]``, cov ``[T D, T D]`` positive definite, in float64."""

    mean: Tensor
    cov: Tensor

    @staticmethod
    def walk(frames: int, keep: float = 0.9, numbers: int = 1) -> GaussianFrames:
        """Stationary AR(1): frames of variance 1 whose covariance is ``keep`` to the power of their distance."""
        apart = (torch.arange(frames)[:, None] - torch.arange(frames)).abs()
        cov = torch.kron(keep ** apart.double(), torch.eye(numbers, dtype=torch.float64))
        return GaussianFrames(torch.zeros(frames, numbers, dtype=torch.float64), cov)

    @property
    def whole(self) -> GaussianMixture:
        """The clip as one Gaussian of T D numbers."""
        return GaussianMixture(torch.ones(1), self.mean.reshape(1, -1), self.cov[None])

    def given(self, frames: Sequence[int], values: Tensor) -> GaussianMixture:
        """p(the other frames | these), for ``values`` ``[K, D]`` of one clip: a Gaussian of their numbers."""
        D = self.mean.shape[1]
        return self.whole.given([f * D + d for f in frames for d in range(D)], values.reshape(-1))

    def x0(self, x: Tensor, t: Tensor, path: GaussianPath) -> Tensor:
        """E[x0 | x_t = x] for x ``[B, T, ...]`` with D numbers a frame; t: anything that broadcasts to ``[B, T]``."""
        T, D = self.mean.shape
        t = t.double().expand(t.shape[0] if t.ndim == 2 else 1, T).repeat_interleave(D, dim=1)
        alpha, sigma, mean = path.alpha(t), path.sigma(t), self.mean.reshape(-1)
        noisy = alpha[:, :, None] * self.cov * alpha[:, None] + torch.diag_embed(sigma.square())
        away = x.reshape(len(x), -1).double() - alpha * mean
        found = torch.linalg.solve(noisy.expand(len(x), -1, -1), away[..., None])[..., 0]
        return (mean + (alpha * found) @ self.cov).to(x.dtype).reshape(x.shape)

    def denoiser(self, path: GaussianPath) -> Callable[..., Tensor]:
        """``(x, t) -> x0``; a condition behind them is not looked at."""
        return lambda x, t, condition=None: self.x0(x, t, path)
