"""What a network may be asked to predict, and every conversion.

With x = alpha x0 + sigma eps, the predictions are

    x0
    eps       = (x - alpha x0) / sigma                                     (Ho et al. 2020)
    v         = (alpha eps - sigma x0) / sqrt(alpha^2 + sigma^2)           (Salimans and Ho 2022)
    velocity  = alpha' x0 + sigma' eps  =  dx/dt                           (Lipman et al. 2022)
    score     = -eps / sigma  =  grad log p_t(x), in expectation           (Song et al. 2021b)

v is the velocity on the circle on which x, of unit length, turns from x0 to eps; on a variance-preserving
path the root is 1.  Given x, each is an affine function of x0, so the error of one is the error of x0 times
``error_scale``; that factor is all that separates "eps loss" from "x0 loss" or "v loss".

Near the ends some of them say nothing of x0 (eps where alpha = 0) or are unbounded (the score where
sigma = 0): there, where alpha or sigma is below 1e-6, divisions are kept finite; elsewhere conversions are exact.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fromnoise.process.gaussian import TINY, GaussianPath, expand

Prediction = Literal["x0", "eps", "v", "velocity", "score"]


def target(prediction: Prediction, path: GaussianPath, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """The quantity itself, from clean data and noise ``[B, T, ...]``."""
    t = expand(t, x0)
    match prediction:
        case "x0":
            return x0
        case "eps":
            return eps
        case "v":
            alpha, sigma = path.alpha(t), path.sigma(t)
            return (alpha * eps - sigma * x0) / torch.hypot(alpha, sigma)
        case "velocity":
            return path.alpha_dot(t) * x0 + path.sigma_dot(t) * eps
        case "score":
            return -eps / path.sigma(t).clamp(min=TINY)


def to_x0(prediction: Prediction, path: GaussianPath, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """x0 as implied by a network's ``output`` at ``x``."""
    if prediction == "x0":
        return output
    of_x, of_output = x0_weights(prediction, path, expand(t, x))
    return of_x * x + of_output * output


def x0_weights(prediction: Prediction, path: GaussianPath, t: Tensor) -> tuple[Tensor, Tensor]:
    """(p, q) of x0 = p x + q output."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    match prediction:
        case "x0":
            return torch.zeros_like(t), torch.ones_like(t)
        case "eps":
            safe = alpha.clamp(min=TINY)
            return 1 / safe, -sigma / safe
        case "v":
            length = torch.hypot(alpha, sigma)
            return alpha / length.square(), -sigma / length
        case "velocity":
            sigma_dot = path.sigma_dot(t)
            turn = alpha * sigma_dot - path.alpha_dot(t) * sigma
            # Where the noise does not move at first (EDM at t = 0), x is x0.
            still = turn.abs() < TINY**2
            safe = torch.where(still, 1.0, turn)
            return torch.where(still, 1.0, sigma_dot / safe), torch.where(still, 0.0, -sigma / safe)
        case "score":
            safe = alpha.clamp(min=TINY)
            return 1 / safe, sigma.square() / safe


def from_x0(prediction: Prediction, path: GaussianPath, x0: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """The prediction that a given x0 implies at ``x``: the inverse of ``to_x0``."""
    if prediction == "x0":
        return x0
    t_ = expand(t, x)
    eps = (x - path.alpha(t_) * x0) / path.sigma(t_).clamp(min=TINY)
    return target(prediction, path, x0, eps, t)


def convert(source: Prediction, to: Prediction, path: GaussianPath, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """A network output of kind ``source`` expressed as kind ``to``."""
    return output if source == to else from_x0(to, path, to_x0(source, path, output, x, t), x, t)


def error_scale(prediction: Prediction, path: GaussianPath, t: Tensor) -> Tensor:
    """|d prediction / d x0| at fixed x: 1 for x0, alpha/sigma for eps, sqrt(alpha^2+sigma^2)/sigma for v, ..."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    safe = sigma.clamp(min=TINY)
    match prediction:
        case "x0":
            return t.new_ones(t.shape)
        case "eps":
            return alpha / safe
        case "v":
            return torch.hypot(alpha, sigma) / safe
        case "velocity":
            return (alpha * path.sigma_dot(t) - path.alpha_dot(t) * sigma).abs() / safe
        case "score":
            return alpha / safe.square()
