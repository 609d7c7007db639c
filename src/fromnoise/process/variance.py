"""The learned variance of the loss at each noise level (Karras et al. 2024, EDM2).

A network that is told only the noise level predicts u(lambda), and the loss L becomes

    L / exp(u) + u,        smallest where exp(u) = E [L | lambda],

the likelihood of errors of variance exp(u): every noise level then contributes alike, whatever its weight.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fromnoise.process.gaussian import expand

REACH = 20.0  # log-SNRs beyond +-20 are taken to be there


class LossVariance(nn.Module):
    """u(lambda) as a sum of ``waves`` cosines over log-SNR from -20 to 20, and 0 at first: the loss as it was."""

    def __init__(self, waves: int = 24):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(waves))

    def forward(self, logsnr: Tensor) -> Tensor:
        """u, of the shape of ``logsnr``."""
        place = (logsnr.float().clamp(-REACH, REACH) + REACH) / (2 * REACH)
        wave = torch.arange(len(self.weight), device=logsnr.device)
        return (torch.cos(math.pi * wave * place[..., None]) * self.weight).sum(-1)

    def balance(self, losses: Tensor, logsnr: Tensor) -> Tensor:
        """``losses`` ``[B, T, ...]`` at ``logsnr`` ``[B, T]`` divided by their variance, plus its logarithm."""
        u = expand(self(logsnr), losses)
        return losses * torch.exp(-u) + u
