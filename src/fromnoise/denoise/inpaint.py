"""Samples of which something is known: editing, inpainting and other linear measurements, without training.

    SDEdit          start at a noised picture instead of at noise                       (``start_from``)
    replacement     what is known takes the place of what is predicted                  (``replaced``)
    measurement     what is predicted moves with what is known, as covariances say      (``measured``)
    reconstruction  it moves so too, with one variance for all that is known            (``reconstructed``)

The last two add S A^T w to what is predicted, with S the covariance of x0 given x_t, A the mask and w the weight of
what is known and was not predicted; they differ in w.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fromnoise.denoise.denoiser import Denoise
from fromnoise.denoise.guidance import with_signal
from fromnoise.denoise.rules import dot, positive
from fromnoise.denoise.schedule import aligned
from fromnoise.process import GaussianPath
from fromnoise.process.gaussian import TINY
from fromnoise.types import Condition


def start_from(x0: Tensor, noise: Tensor, path: GaussianPath, t: float) -> Tensor:
    """The noise that makes a solver whose grid begins at ``t`` begin at alpha x0 + sigma noise.

    (SDEdit, Meng et al. 2021.)  Solvers scale what they are given by sigma(t), so it is noise + alpha / sigma x0.
    ValueError where there is no noise at ``t``.
    """
    time = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = float(path.alpha(time)), float(path.sigma(time))
    if not sigma > 0:
        raise ValueError(f"there is no noise at t = {t}: editing starts at a time above 0")
    return noise + (alpha / sigma) * x0


def replaced(denoise: Denoise, known: Tensor, mask: Tensor) -> Denoise:
    """x0 is ``known`` where ``mask`` is 1 (or True), and predicted where it is 0: inpainting by replacement.

    (Song et al. 2021b, appendix I.2.)  Along the ODE the known part is then alpha known + sigma eps with the eps it
    started from.  The rest is drawn to fit it, but only as the network sees it through that noise: the sample is not
    one of p(rest | known).
    """
    given = mask.to(known.dtype)
    return lambda x, t, condition: torch.lerp(denoise(x, t, condition), known, given)


def measured(denoise: Denoise, known: Tensor, mask: Tensor, path: GaussianPath, noise: float = 0.0,
             iterations: int = 5) -> Denoise:
    """E[x0 | x_t, y] for y = ``known`` + N(0, noise^2) where ``mask`` is 1, by matching moments.

    x0 given x_t is taken to be Gaussian with the mean D and covariance S = sigma^2 / alpha dD/dx, which is Tweedie's
    (Boys et al. 2023; Rozet et al. 2024), so that with A the mask

        D + S A^T (A S A^T + noise^2)^-1 (y - A D)

    It is exact where the data are Gaussian.  The system is solved by conjugate gradients: each of the
    ``iterations`` costs one pass backward through the network, and so does the step to the result.
    """
    given = mask.to(known.dtype)

    def weigh(S: Covariance, gap: Tensor, signal: Tensor) -> Tensor:
        return conjugate_gradients(lambda v: given * S(given * v) + noise**2 * v, gap, iterations)

    return moved(denoise, known, given, path, weigh)


def reconstructed(denoise: Denoise, known: Tensor, mask: Tensor, path: GaussianPath, weight: float = 1.0) -> Denoise:
    """Reconstruction guidance (Ho et al. 2022, Video Diffusion Models, eq. 7), and ``known`` where ``mask`` is 1:

        D - weight alpha / 2 grad_x |A (known - D)|^2

    It is ``measured`` with A S A^T taken to be sigma^2 / (weight alpha^2): all that is known has one variance and none
    of it says anything of the rest of it.  So it needs one pass backward, and no iterations.
    """
    given = mask.to(known.dtype)

    def weigh(S: Covariance, gap: Tensor, signal: Tensor) -> Tensor:
        return weight * signal * gap

    return replaced(moved(denoise, known, given, path, weigh), known, mask)


Covariance = Callable[[Tensor], Tensor]  # v to S v


def moved(denoise: Denoise, known: Tensor, given: Tensor, path: GaussianPath,
          weigh: Callable[[Covariance, Tensor, Tensor], Tensor]) -> Denoise:
    """D + S w with S = sigma^2 / alpha dD/dx, the covariance of x0 given x_t.

    weigh: (S, A (known - D), alpha^2 / sigma^2) to w, which is 0 where nothing is known.
    """

    def guided(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        early = with_signal(t, x, path)
        alpha, variance = path.alpha(early), path.sigma(early).square()
        factor = aligned(variance / alpha, x)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            x0 = denoise(x, early, condition)

        def S(v: Tensor) -> Tensor:
            return factor * torch.autograd.grad(x0, x, v, retain_graph=True)[0]

        mean = x0.detach()
        signal = aligned(alpha.square() / variance.clamp(min=TINY**2), x)
        return mean + S(given * weigh(S, given * (known - mean), signal))

    return guided


def conjugate_gradients(A, b: Tensor, iterations: int) -> Tensor:
    """z with A z = b for a symmetric positive A, every sample of ``[B, ...]`` by itself (Hestenes and Stiefel 1952)."""
    z, r = torch.zeros_like(b), b
    p, rr = r, dot(r, r)
    start, eps = rr, torch.finfo(rr.dtype).eps
    for _ in range(iterations):
        Ap = A(p)
        curve = dot(p, Ap)
        going = (rr > eps**2 * start) & (curve > 0)
        step = torch.where(going, rr / positive(curve), 0.0)
        z, r = z + step * p, r - step * Ap
        rr, before = dot(r, r), rr
        p = r + (rr / positive(before)) * p
    return z
