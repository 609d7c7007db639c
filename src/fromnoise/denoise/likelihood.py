"""How likely a denoiser finds data: exactly, by the probability-flow ODE, and from above, by the variational bound.

Every path, brought to unit length, turns through the angle theta = atan(sigma / alpha) from data to noise:

    y = x_t / sqrt(alpha^2 + sigma^2),        dy/dtheta = f = (cos(theta) y - x0(y)) / sin(theta)
    log p(x at theta_0) = log p(y at theta_1) + int div f dtheta,      div f = (D cos(theta) - tr dx0/dy) / sin(theta)

(Song et al. 2021b, section 4.3, in the variable of Salimans and Ho 2022).  The trace takes D products with the
transposed Jacobian, or, unbiased, a few with random signs (Hutchinson; Grathwohl et al. 2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fromnoise.process import GaussianPath, LogUniform
from fromnoise.random import fold, sample_noise, uniforms

X0 = Callable[[Tensor, Tensor], Tensor]
PROBES, TIMES, NOISE, LEVEL = range(4)  # streams of one sample
FAINTEST = -20.0  # log-SNR: below, what is left of the data is a billionth of its variance


class Estimate(NamedTuple):
    """Nats a sample ``[B]`` and their standard error ``[B]``, 0 where nothing was drawn."""

    nats: Tensor
    error: Tensor


# ---- exact ------------------------------------------------------------------------------------------------


def log_likelihood(denoise: X0, x: Tensor, path: GaussianPath, *, steps: int | None = None, tolerance: float = 1e-7,
                   probes: int = 0, seed: int = 0, first: int = 0, start: float = 0.0,
                   prior: Callable[[Tensor], Tensor] | None = None) -> Estimate:
    """log p(x) of the model that carries sigma(1) times standard normal noise along the ODE.

    denoise: ``(x, t) -> x0``;  x: ``[B, ...]``;  steps: of the classical Runge-Kutta method on a fixed grid, 4
    evaluations each; by default the step is chosen by Dormand and Prince's eighth-order pair to ``tolerance`` over the
    batch, which suits small problems.  probes: random directions for the trace, fixed for sample i by (seed, first +
    i); 0 is the exact trace, D products an evaluation.  start: the time at which the data stand, 0 or a little more
    for a network that is not accurate there.  prior: log density ``[B]`` of x at t = 1 in place of the Gaussian.
    """
    if steps is not None and steps < 1:
        raise ValueError(f"steps should be at least 1 (got {steps})")
    (angle0, length0), (angle1, length1) = (_polar(path, t) for t in (start, 1.0))
    D = x[0].numel()
    flow = _Flow(denoise, path, _directions(x, probes, seed, first), exact=not probes)
    y, change = x / length0, x.new_zeros(probes or 1, len(x), dtype=torch.float64)
    integrate = _adaptive(tolerance) if steps is None else _runge_kutta(steps)
    y, change = integrate(flow, y, change, angle0, angle1)
    end = y.double() * length1
    log_prior = _normal(end, float(path.sigma(torch.ones((), dtype=torch.float64)))) if prior is None else prior(end)
    nats = log_prior.double() + D * math.log(length1 / length0) + change
    error = change.std(0) / probes**0.5 if probes > 1 else torch.zeros_like(nats[0])
    return Estimate(nats.mean(0), error)


def bits_per_dim(log_prob: Tensor, dim: int, bits: int = 8) -> Tensor:
    """Bits a dimension of pictures with ``2^bits`` levels in [-1, 1], to which uniform noise of a level was added.

    log_prob: nats ``[B]`` of ``dequantised`` pictures of ``dim`` numbers.  In the mean over that noise they are at
    least -log2 P(picture) / dim under the model (Theis et al. 2016).
    """
    return -log_prob / (dim * math.log(2)) + bits - 1


def dequantised(x: Tensor, bits: int = 8, seed: int = 0, first: int = 0) -> Tensor:
    """Pictures with ``2^bits`` levels from -1 to 1 with uniform noise, so that they fill [-1, 1) evenly, cell by cell.

    Level k of n comes to lie from 2 k / n - 1 to 2 (k + 1) / n - 1, so that a density on [-1, 1] gives every picture a
    probability, which ``bits_per_dim`` bounds.  x: ``[B, ...]``; the noise of sample i depends on (seed, first + i).
    ValueError where x has other values than the levels.
    """
    n = 2**bits
    level = (x.double() + 1) * (n - 1) / 2
    whole = level.round()
    if bool(((level - whole).abs() > 0.01).any()) or not bool(((whole >= 0) & (whole < n)).all()):
        raise ValueError(f"pictures to dequantise have {n} levels from -1 to 1, and these have other values")
    u = uniforms(fold(seed, np.arange(first, first + len(x)), LEVEL), x[0].numel())
    noise = torch.from_numpy(u).view(x.shape).to(x.device)
    return ((whole + noise) * 2 / n - 1).to(x.dtype)


@dataclass(frozen=True)
class _Flow:
    """(angle, y ``[B, ...]``) -> (dy/dtheta, divergence ``[K, B]``: one, or one for each direction)."""

    denoise: X0
    path: GaussianPath
    directions: Tensor
    exact: bool

    def __call__(self, angle: float, y: Tensor) -> tuple[Tensor, Tensor]:
        sin, cos = math.sin(angle), math.cos(angle)
        if sin == 0:  # at clean data both have the limit 0
            return torch.zeros_like(y), y.new_zeros(1 if self.exact else len(self.directions), len(y)).double()
        t = self.path.time(torch.tensor(2 * math.log(max(cos, 1e-17) / sin), dtype=torch.float64))
        length = float(torch.hypot(self.path.alpha(t), self.path.sigma(t)))
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            x0 = self.denoise(y * length, t.to(y.dtype))
            pulled = torch.stack([torch.autograd.grad(x0, y, direction, retain_graph=True)[0]
                                  for direction in self.directions])
        along = (self.directions * pulled).flatten(2).double().sum(-1)
        trace = along.sum(0, keepdim=True) if self.exact else along
        return ((cos * y - x0) / sin).detach(), (y[0].numel() * cos - trace) / sin


def _directions(x: Tensor, probes: int, seed: int, first: int) -> Tensor:
    """``[K, B, ...]``: the unit vectors, or random signs."""
    D = x[0].numel()
    if not probes:
        return torch.eye(D, dtype=x.dtype, device=x.device).view(D, 1, *x.shape[1:]).expand(D, *x.shape)
    keys = fold(seed, np.arange(first, first + len(x)), PROBES)
    signs = torch.from_numpy(np.sign(uniforms(keys, probes * D) - 0.5)).view(len(x), probes, *x.shape[1:])
    return signs.transpose(0, 1).to(x)


def _runge_kutta(steps: int):
    """The classical method of fourth order on angles that lie closer together near the data, as u^3."""
    def integrate(flow: _Flow, y: Tensor, change: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
        grid = [start + (end - start) * (i / steps) ** 3 for i in range(steps + 1)]
        for a, b in pairwise(grid):
            h = b - a
            k1, d1 = flow(a, y)
            k2, d2 = flow(a + h / 2, y + h / 2 * k1)
            k3, d3 = flow(a + h / 2, y + h / 2 * k2)
            k4, d4 = flow(b, y + h * k3)
            y, change = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), change + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
        return y, change

    return integrate


def _adaptive(tolerance: float):
    """Dormand and Prince's eighth-order pair over positions and divergences together."""
    def integrate(flow: _Flow, y: Tensor, change: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
        from scipy.integrate import solve_ivp

        def slope(angle: float, state: np.ndarray) -> np.ndarray:
            points = torch.from_numpy(state[: y.numel()]).to(y).view(y.shape)
            return torch.cat([part.flatten().double().cpu() for part in flow(angle, points)]).numpy()

        first = torch.cat([y.flatten().double().cpu(), change.flatten().cpu()]).numpy()
        found = solve_ivp(slope, (start, end), first, method="DOP853", rtol=max(tolerance, 3e-14), atol=tolerance)
        if not found.success:
            raise RuntimeError(f"the integration of the ODE failed: {found.message}")
        last = torch.from_numpy(found.y[:, -1].copy())
        return last[: y.numel()].view(y.shape).to(y.device), last[y.numel():].view(change.shape).to(change.device)

    return integrate


def _polar(path: GaussianPath, time: float) -> tuple[float, float]:
    """(theta, sqrt(alpha^2 + sigma^2)) at a time."""
    t = torch.tensor(time, dtype=torch.float64)
    alpha, sigma = path.alpha(t), path.sigma(t)
    return float(torch.atan2(sigma, alpha)), float(torch.hypot(alpha, sigma))


def _normal(x: Tensor, std: float) -> Tensor:
    """log N(x; 0, std^2 I) ``[B]``."""
    return -(x / std).square().flatten(1).sum(1) / 2 - x[0].numel() * math.log(std * math.sqrt(2 * math.pi))


# ---- from above -------------------------------------------------------------------------------------------


@torch.no_grad()
def variational_bound(denoise: X0, x: Tensor, path: GaussianPath, *, draws: int = 16, seed: int = 0, first: int = 0,
                      cleanest: float = 13.0) -> Estimate:
    """An upper bound on -log p(x) in continuous time, and the standard error of its estimate (Kingma et al. 2021).

        KL(q(x_1 | x) || N(0, sigma_1^2)) + 1/2 int E |eps - eps_hat|^2 dlambda - E log N(x; x0(x_s), 1 / SNR_s)

    with the integral up to log-SNR ``cleanest``, which is that of x_s.  x: ``[B, ...]``;  draws: noise levels for each
    sample, >= 2.  The randomness of sample i is a function of (seed, first + i).
    """
    if draws < 2:
        raise ValueError("a standard error needs at least two draws")
    B, D = len(x), x[0].numel()
    law = LogUniform(low=FAINTEST, high=cleanest)
    u = torch.from_numpy(uniforms(fold(seed, np.arange(first, first + B), TIMES), draws))
    times = law.times((torch.arange(draws) + u) / draws, path).to(x.device)
    noise = sample_noise((B, 2 * draws, *x.shape[1:]), int(fold(seed, NOISE)), first, x.dtype).to(x.device)

    def error(t: Tensor, eps: Tensor) -> Tensor:
        """|eps - eps_hat|^2 ``[B]``: SNR times |x - x0|^2."""
        found = denoise(path.add_noise(x, eps, t.to(x.dtype)), t.to(x.dtype))
        return path.logsnr(t).exp() * (x - found).double().square().flatten(1).sum(1)

    integral = torch.stack([error(t, noise[:, i]) / (2 * law.density(t, path)) for i, t in enumerate(times.T)])
    last = path.time(torch.tensor([cleanest], dtype=torch.float64, device=x.device))
    inverse = torch.stack([error(last.expand(B), noise[:, draws + i]) / 2 for i in range(draws)])
    end = torch.ones((), dtype=torch.float64)
    prior = float(path.logsnr(end).exp()) * x.double().square().flatten(1).sum(1) / 2
    found = integral + inverse
    nats = prior + found.mean(0) + D / 2 * (math.log(2 * math.pi) - cleanest)
    return Estimate(nats, found.std(0) / draws**0.5)
