"""What noise does to a picture, by spatial frequency.

White noise has the same power at every frequency; pictures have most of theirs at low ones (about 1/f^2).  So noise
drowns detail first and the layout last, and a denoiser draws a picture from coarse to fine (Dieleman 2024, "Diffusion
is spectral autoregression"; Rissanen et al. 2023).  With orthonormal transforms, white noise of unit variance has
power 1 everywhere, and at time t the band of power P has the signal-to-noise ratio

    SNR = alpha^2 P / sigma^2,        1 where the path's own log-SNR is -log P.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fromnoise.process import GaussianPath, expand


def bands(height: int, width: int, count: int) -> tuple[Tensor, Tensor]:
    """(mean frequency ``[count]`` in cycles a pixel, band ``[H, W]`` of every coefficient of ``fft2``).

    Rings of equal width up to 0.5; what is beyond, in the corners, belongs to the last, and the mean of the picture
    to none (-1).  ValueError where a ring would be empty.
    """
    radius = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])
    index = (radius * (2 * count)).long().clamp(max=count - 1)
    index[0, 0] = -1
    members = torch.bincount(index[index >= 0], minlength=count)
    if not bool((members > 0).all()):
        raise ValueError(f"{count} bands are too many for pictures of {width}x{height}: ask for fewer")
    return _by_band(radius, index, count), index


def radial_power(x: Tensor, count: int = 32) -> tuple[Tensor, Tensor]:
    """(frequency ``[count]`` in cycles a pixel, mean power ``[count]`` a coefficient) of media ``[B, T, C, H, W]``."""
    height, width = x.shape[-2:]
    frequency, index = bands(height, width, count)
    spectrum = torch.fft.fft2(x, norm="ortho")
    return frequency, _by_band(spectrum.abs().square(), index, count)


def band_snr(power: Tensor, path: GaussianPath, t: Tensor) -> Tensor:
    """Signal-to-noise ratio ``[N, K]`` at times ``[N]`` of bands of clean power ``[K]``."""
    return path.logsnr(t)[:, None].exp() * power


def drowning_time(power: Tensor, path: GaussianPath) -> Tensor:
    """``[K]``: the time at which noise is as strong as the signal in bands of clean power ``[K]``."""
    return path.time(-power.log())


def wiener_loss(power: Tensor, path: GaussianPath, t: Tensor) -> Tensor:
    """``[N, K]``: the least error power of any linear denoiser, which for Gaussian pictures is the least of all."""
    alpha2, sigma2 = path.alpha(t)[:, None].square(), path.sigma(t)[:, None].square()
    return power * sigma2 / (alpha2 * power + sigma2)


@torch.no_grad()
def band_loss(denoise: Callable[[Tensor, Tensor], Tensor], x0: Tensor, path: GaussianPath, t: Tensor,
              count: int = 32, generator: torch.Generator | None = None) -> Tensor:
    """``[N, K]``: mean power of the error x0 - denoise(x_t, t) in each band at times ``[N]``, for media ``x0``.

    Weighted by the coefficients in each band, it is the x0 loss of the denoiser taken apart (all but the error of the
    mean of a picture).
    """
    rows = []
    for time in t:
        clock = time.expand(len(x0))
        eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype).to(x0.device)
        error = x0 - denoise(path.add_noise(x0, eps, expand(clock, x0)), clock)
        rows.append(radial_power(error, count)[1])
    return torch.stack(rows)


def quantise(x: Tensor, bits: int) -> Tensor:
    """``x`` in [-1, 1] on 2^bits levels, the first and last at the ends."""
    if not 1 <= bits <= 16:
        raise ValueError(f"bits should be from 1 to 16 (got {bits})")
    steps = 2**bits - 1
    return ((x.clamp(-1, 1) + 1) / 2 * steps).round() / steps * 2 - 1


def noise_of_bits(bits: int) -> float:
    """Standard deviation of the error that ``bits`` bits make on values spread evenly: a step over sqrt(12)."""
    return 2 / (2**bits - 1) / 12**0.5


def _by_band(values: Tensor, index: Tensor, count: int) -> Tensor:
    """Means ``[count]`` of ``values`` ``[..., H, W]`` over the coefficients of each band and all else."""
    flat = values.reshape(-1, index.numel()).mean(0)
    where = index.to(values.device).flatten()
    inside = where >= 0
    total = torch.zeros(count, dtype=values.dtype, device=values.device).index_add_(0, where[inside], flat[inside])
    return total / torch.bincount(where[inside], minlength=count)
