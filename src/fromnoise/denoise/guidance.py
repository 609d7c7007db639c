"""Guidance: from denoisers to a denoiser.

    D = rule(c, u, s(t)),     usually u + s (c - u)

leads from a weak estimate u of x0 beyond a strong one c.  They may be of one network under two conditions
(``classifier_free``) or of two denoisers (``autoguidance``: a weaker network, or the same one with some layers
disturbed).  What comes out is a denoiser again, so that guidances compose with each other and with any solver.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fromnoise.denoise.denoiser import Denoise
from fromnoise.denoise.passes import passes
from fromnoise.denoise.rules import Rule, linear
from fromnoise.denoise.schedule import Interval, Scale, aligned, everywhere, schedule
from fromnoise.process import GaussianPath, expand, to_x0
from fromnoise.types import Condition


def classifier_free(denoise: Denoise, null: Condition, scale: Scale, interval: Interval = (0.0, 1.0), *,
                    others: Sequence[tuple[Condition, float]] = (), rule: Rule = linear,
                    max_batch: int | None = None) -> Denoise:
    """Classifier-free guidance (Ho and Salimans 2022): D = u + s (c - u).

    scale: a number, or a schedule over t; 1 is the plain conditional model, 0 the unconditional one.
    interval: guidance acts only at these times; a schedule has its own.
    null: the unconditional condition, of the same batch size, or the negative prompt.
    others: further conditions and their weights; c becomes u + (c - u) + sum_i w_i (c_i - u) (Liu et al. 2022,
    composable diffusion: AND, or NOT where the weight is negative).  rule: what is done with c and u.
    max_batch: most samples in one network call, which otherwise is one for all conditions.

    Where the scale is known to be 1 (t on the CPU) and there are no others, only c is evaluated.
    """
    strength, weights = schedule(scale, interval), [weight for _, weight in others]

    def guided(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        s = strength.at(t)
        if not others and everywhere(s == 1):
            return denoise(x, t, condition)
        conditions = [null, condition, *(other for other, _ in others)]
        u, c, *rest = passes(denoise, x, t, conditions, max_batch)
        for weight, other in zip(weights, rest, strict=True):
            c = c + weight * (other - u)
        return rule(c, u, aligned(s, x), x, t)

    return guided


def autoguidance(denoise: Denoise, weak: Denoise, scale: Scale, interval: Interval = (0.0, 1.0), *,
                 rule: Rule = linear) -> Denoise:
    """Guidance by a worse version of oneself (Karras et al. 2024): D = w + s (d - w), both under the condition.

    weak: a smaller or less trained network, or ``perturbed`` for perturbed-attention and skip-layer guidance,
    whose papers write d + (s - 1) (d - w).
    """
    strength = schedule(scale, interval)

    def guided(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        s, strong = strength.at(t), denoise(x, t, condition)
        return strong if everywhere(s == 1) else rule(strong, weak(x, t, condition), aligned(s, x), x, t)

    return guided


def mixed(base: Denoise, terms: Sequence[tuple[Scale, Denoise]]) -> Denoise:
    """D = base + sum_i w_i (D_i - base): any affine guidance, of as many denoisers as one likes.

    With c as the base, (1 - s, u) and (-w, p) it is u + s (c - u) + w (c - p): classifier-free and
    perturbed-attention guidance at once (Ahn et al. 2024).  Outside the interval of a schedule its weight is 0.
    """
    schedules = [(schedule(weight), denoise) for weight, denoise in terms]

    def guided(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        middle = base(x, t, condition)
        found = middle
        for weight, denoise in schedules:
            found = found + aligned(weight.at(t, none=0.0), x) * (denoise(x, t, condition) - middle)
        return found

    return guided


def classifier_guided(denoise: Denoise, gradient: Callable[[Tensor, Tensor], Tensor], path: GaussianPath,
                      scale: Scale = 1.0, interval: Interval = (0.0, 1.0)) -> Denoise:
    """Classifier guidance (Dhariwal and Nichol 2021): the score gains s grad log p(y | x_t).

    In x0 that is s sigma^2 / alpha grad.  gradient: ``(x, t) -> grad`` as x, such as ``gradient_of`` a trained
    classifier.  Where alpha vanishes so does the gradient: there it is taken a little earlier, where alpha is the
    root of the rounding error.
    """
    strength = schedule(scale, interval)

    def guided(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        s, x0 = strength.at(t, none=0.0), denoise(x, t, condition)
        if everywhere(s == 0):
            return x0
        early = with_signal(t, x, path)
        factor = s * path.sigma(early).square() / path.alpha(early)
        return x0 + aligned(factor, x) * gradient(x, early)

    return guided


def gradient_of(log_prob: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """grad_x of ``log_prob``: ``(x, t) -> [B]``, such as the logarithm of a classifier's probability of a label."""

    def gradient(x: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(log_prob(x, t).sum(), x)[0]

    return gradient


def with_signal(t: Tensor, x: Tensor, path: GaussianPath) -> Tensor:
    """``t``, but no later than where alpha / sigma is the root of the rounding error of x.

    What is divided by alpha is wrong by its rounding over alpha; a little earlier it is wrong by alpha.
    """
    ratio = torch.tensor(torch.finfo(x.dtype).eps, dtype=torch.float64).sqrt()
    return t.clamp(max=float(path.time(2 * ratio.log())))


def zero_init(denoise: Denoise, path: GaussianPath, above: float = 0.96) -> Denoise:
    """Velocity 0 while t lies above ``above`` (CFG-Zero*, Fan et al. 2025): guidance points least well from pure noise.

    On the flow path Euler's rule then leaves x as it is.  Theirs are the first 4 % of the steps; here it is a time,
    since a denoiser does not know the steps.
    """

    def guided(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        early = t > above
        if everywhere(~early):
            return denoise(x, t, condition)
        still = to_x0("velocity", path, torch.zeros_like(x), x, aligned(t, x))
        if everywhere(early):
            return still
        return torch.where(expand(early, x).to(x.device), still, denoise(x, t, condition))

    return guided
