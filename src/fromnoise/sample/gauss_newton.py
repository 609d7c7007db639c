"""Robust least squares for a few parameters and many rows, by damped Gauss-Newton steps (Levenberg, Marquardt 1963).

    (H + damping diag H) step = g,      g = mean_b w_b J_b^T r_b,      H = mean_b w_b J_b^T J_b

Each row b has residuals r_b of its own.  The parameters are handed to every row as a copy of its own, so that a single
pass backwards has a gradient for each: one pass gives J_b^T r_b, and one with random signs u in place of r_b gives
J_b^T u, whose outer product is J_b^T J_b on average (Hutchinson 1989).  One u a row will do where rows are many.

The loss of a row is that of Geman and McClure (1987), bounded by bend^2, and w_b what it makes of a square.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Residuals = Callable[[Tensor, Tensor], Tensor]  # (parameters [P] or [P, B], rows [B]) -> [B, D]

HARDER, EASIER, TRIES = 6.0, 4.0, 7  # factors of the damping after a step that failed or helped; steps tried
LEAST_DAMPING = 1e-8


def loss(distance: Tensor, bend: float) -> Tensor:
    """e^2 / (1 + (e / bend)^2): about e^2 below the bend, and never more than bend^2."""
    return distance.square() / (1 + (distance / bend).square())


def weight(distance: Tensor, bend: float) -> Tensor:
    """The slope of the loss in e^2."""
    return (1 + (distance / bend).square()) ** -2


def normal_equations(residuals: Residuals, values: Tensor, rows: Tensor, batch: int, bend: float,
                     draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """(g ``[P]``, H ``[P, P]``) at ``values`` ``[P]`` over ``rows``, ``batch`` at a time, with signs of ``draw``."""
    gradient, curvature = values.new_zeros(len(values)), values.new_zeros(len(values), len(values))
    for part in rows.split(batch):
        own = values[:, None].repeat(1, len(part)).requires_grad_()
        r = residuals(own, part)
        w = weight(r.detach().norm(dim=1), bend).to(values).nan_to_num(0.0)
        signs = (2 * torch.randint(2, r.shape, generator=draw) - 1).to(r)
        towards, = torch.autograd.grad(r.square().sum() / 2, own, retain_graph=True)  # [P, B]: J^T r
        across, = torch.autograd.grad((signs * r).sum(), own)  # J^T u
        towards, across = (g.nan_to_num(0.0, 0.0, 0.0) for g in (towards, across))
        gradient += towards @ w
        curvature += (across * w) @ across.mT
    return gradient / len(rows), curvature / len(rows)


def damped_step(objective: Callable[[Tensor], float], now: float, values: Tensor, equations: tuple[Tensor, Tensor],
                damping: float) -> tuple[Tensor, float]:
    """(values with an objective less than ``now``, the damping to go on with); the same values where no step helped."""
    gradient, curvature = equations
    strength = curvature.diagonal()
    scale = strength.clamp(min=max(1e-12 * float(strength.max()), 1e-300)).diag()
    for _ in range(TRIES):
        moved = values - torch.linalg.solve(curvature + damping * scale, gradient)
        if objective(moved) < now:
            return moved, max(damping / EASIER, LEAST_DAMPING)
        damping *= HARDER
    return values, min(damping, 1.0)
