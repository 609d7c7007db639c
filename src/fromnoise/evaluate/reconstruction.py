"""How well pictures come back from an autoencoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def psnr(made: Tensor, real: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture ``[n]``, of media ``[n, ...]`` in [-1, 1].

        10 log10(peak^2 / mean squared error),    peak = 2

    A picture that comes back exactly has an infinite one.
    """
    error = (made.double() - real.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error)


def total_psnr(made: Tensor, real: Tensor) -> float:
    """The ratio of all pictures as one: the peak over their mean squared error together, in dB."""
    error = float((made.double() - real.double()).square().mean())
    return 10 * math.log10(4 / error) if error else math.inf


