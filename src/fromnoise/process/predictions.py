"""What a network may be asked to predict, and every conversion.

With x = alpha x0 + sigma eps, the four predictions are

    x0
    eps       = (x - alpha x0) / sigma                     (Ho et al. 2020)
    v         = alpha eps - sigma x0                       (Salimans and Ho 2022)
    velocity  = alpha' x0 + sigma' eps  =  dx/dt           (Lipman et al. 2022)

Given x, each is an affine function of x0, so the error of one is the error of x0 times
``error_scale``; that factor is all that separates "eps loss" from "x0 loss" or "v loss".
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fromnoise.process.paths import Cosine, Flow, expand

Prediction = Literal["x0", "eps", "v", "velocity"]

# Divisions by alpha near t = 1 or by sigma near t = 0 are kept finite; both are exact elsewhere.
_TINY = 1e-6


def target(prediction: Prediction, path: Flow | Cosine, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """The quantity itself, from clean data and noise ``[B, T, ...]``."""
    t = expand(t, x0)
    match prediction:
        case "x0":
            return x0
        case "eps":
            return eps
        case "v":
            return path.alpha(t) * eps - path.sigma(t) * x0
        case "velocity":
            return path.alpha_dot(t) * x0 + path.sigma_dot(t) * eps


def to_x0(prediction: Prediction, path: Flow | Cosine, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """x0 as implied by a network's ``output`` at ``x``."""
    t = expand(t, x)
    alpha, sigma = path.alpha(t), path.sigma(t)
    match prediction:
        case "x0":
            return output
        case "eps":
            return (x - sigma * output) / alpha.clamp(min=_TINY)
        case "v":
            return (alpha * x - sigma * output) / (alpha.square() + sigma.square())
        case "velocity":
            alpha_dot, sigma_dot = path.alpha_dot(t), path.sigma_dot(t)
            return (sigma_dot * x - sigma * output) / (alpha * sigma_dot - alpha_dot * sigma)


def from_x0(prediction: Prediction, path: Flow | Cosine, x0: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """The prediction that a given x0 implies at ``x``: the inverse of ``to_x0``."""
    if prediction == "x0":
        return x0
    t_ = expand(t, x)
    eps = (x - path.alpha(t_) * x0) / path.sigma(t_).clamp(min=_TINY)
    return target(prediction, path, x0, eps, t)


def convert(source: Prediction, to: Prediction, path: Flow | Cosine, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """A network output of kind ``source`` expressed as kind ``to``."""
    return output if source == to else from_x0(to, path, to_x0(source, path, output, x, t), x, t)


def error_scale(prediction: Prediction, path: Flow | Cosine, t: Tensor) -> Tensor:
    """|d prediction / d x0| at fixed x: 1 for x0, alpha/sigma for eps, (alpha^2+sigma^2)/sigma for v, ..."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    safe = sigma.clamp(min=_TINY)
    match prediction:
        case "x0":
            return t.new_ones(t.shape)
        case "eps":
            return alpha / safe
        case "v":
            return (alpha.square() + sigma.square()) / safe
        case "velocity":
            return (alpha * path.sigma_dot(t) - path.alpha_dot(t) * sigma) / safe
