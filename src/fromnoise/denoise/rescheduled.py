"""A denoiser trained on one path, used on another."""

from __future__ import annotations

import torch
from torch import Tensor

from fromnoise.denoise.denoiser import Denoise
from fromnoise.denoise.schedule import aligned
from fromnoise.process import GaussianPath
from fromnoise.types import Condition


def rescheduled(denoise: Denoise, trained: GaussianPath, sampled: GaussianPath) -> Denoise:
    """The schedule changed after training: D_B(x, t) = D_A(x alpha_A / alpha_B, t_A) at equal log-SNR.

    At equal log-SNR the two x_t differ by a factor alone, and with them nothing of what is known of x0 (Kingma et
    al. 2021; Karras et al. 2022).  The factor is written as that of sqrt(alpha^2 + sigma^2), which is finite at
    both ends.  Where the new path is noisier than the old one ever was, the network is asked at its noisiest.
    """

    noisiest = float(trained.logsnr(torch.ones((), dtype=torch.float64)))

    def moved(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        t = t.double()  # float32 does not tell log-SNRs near the ends apart
        before = trained.time(sampled.logsnr(t).clamp(min=noisiest))
        factor = _length(trained, before) / _length(sampled, t)
        return denoise(aligned(factor, x) * x, before, condition)

    return moved


def _length(path: GaussianPath, t: Tensor) -> Tensor:
    return torch.hypot(path.alpha(t), path.sigma(t))
