"""What a path leaves of the data where it ends.

A sample begins as noise alone.  Training at t = 1 shows x with what alpha(1) leaves of the data, and where that is
enough to tell samples apart, a network that looks at x alone makes few errors: it need not heed what it is told, and is
at a loss when it starts from nothing (Lin et al. 2023, of pictures that come out neither dark nor bright).
"""

from __future__ import annotations

import math

import torch

from fromnoise.process.gaussian import GaussianPath


def apart_at_end(path: GaussianPath, numbers: int) -> float:
    """How far apart at t = 1, in standard deviations of the noise, samples are that differ by 1 in so many numbers.

    d = sqrt(numbers) alpha(1) / sigma(1).  Which of two it is can be told from x in Phi(d / 2) of the cases:
    84 % at 2, 99.4 % at 5.
    """
    end = torch.ones((), dtype=torch.float64)
    return math.sqrt(numbers) * math.exp(float(path.logsnr(end)) / 2)
