"""Solvers: pure functions from one time to the next.

A step gets the pair (t, t_next) and the history that earlier steps returned, and gives x at t_next,
the x0 predicted at t, and the new history.  Nothing is remembered anywhere else.  Times are float64
scalars on the CPU, so the coefficients are Python floats and no step waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fromnoise.process import GaussianPath

Predict = Callable[[Tensor, Tensor], Tensor]  # (x, t) -> x0
Step = Callable[[Predict, GaussianPath, Tensor, Tensor, Tensor, Any], tuple[Tensor, Tensor, Any]]


@dataclass(frozen=True)
class Solver:
    """A step and what it costs: ``evaluations`` a step, and in the last step, which may need fewer."""

    step: Step
    evaluations: int
    last: int

    def nfe(self, steps: int) -> int:
        return self.evaluations * (steps - 1) + self.last


def ddim(path: GaussianPath, x: Tensor, x0: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """x' = (sigma'/sigma) x + (alpha' - alpha sigma'/sigma) x0, exact for constant x0 (Song et al. 2021, eq. 12)."""
    ratio = float(path.sigma(t_next) / path.sigma(t))
    return ratio * x + float(path.alpha(t_next) - path.alpha(t) * ratio) * x0


def euler(denoise: Predict, path: GaussianPath, x: Tensor, t: Tensor, t_next: Tensor, history: Any):
    """First order: DDIM, which on the flow path is Euler's rule."""
    x0 = denoise(x, t)
    return ddim(path, x, x0, t, t_next), x0, None


def heun(denoise: Predict, path: GaussianPath, x: Tensor, t: Tensor, t_next: Tensor, history: Any):
    """Second order: the trapezoidal rule on dx/dt, corrected from an Euler step (Karras et al. 2022, alg. 1)."""
    x0 = denoise(x, t)
    if float(t_next) == 0:  # dx/dt is not defined by x0 at t = 0; the Euler step there is exact in x0
        return x0, x0, None
    v = velocity(path, x, x0, t)
    h = float(t_next - t)
    guess = x + h * v
    v_next = velocity(path, guess, denoise(guess, t_next), t_next)
    return x + (h / 2) * (v + v_next), x0, None


def velocity(path: GaussianPath, x: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """dx/dt = alpha' x0 + sigma' (x - alpha x0) / sigma of the probability-flow ODE."""
    slope = float(path.sigma_dot(t) / path.sigma(t))
    return slope * x + float(path.alpha_dot(t) - slope * path.alpha(t)) * x0


def dpmpp_2m(denoise: Predict, path: GaussianPath, x: Tensor, t: Tensor, t_next: Tensor, history: Any):
    """Second-order multistep DPM-Solver++(2M) (Lu et al. 2022, alg. 2); one evaluation a step.

    The target is extrapolated from the last two x0 in half the log-SNR.  Where that is infinite (from
    t = 1, to t = 0) the step is first order.
    """
    x0 = denoise(x, t)
    target = x0
    if history is not None and float(t_next) > 0:
        x0_previous, t_previous = history
        if float(t_previous) < 1:
            h = float(path.logsnr(t_next) - path.logsnr(t))
            h_previous = float(path.logsnr(t) - path.logsnr(t_previous))
            target = x0 + (h / (2 * h_previous)) * (x0 - x0_previous)
    return ddim(path, x, target, t, t_next), x0, (x0, t)


SOLVERS: dict[str, Solver] = {
    "euler": Solver(euler, evaluations=1, last=1),
    "heun": Solver(heun, evaluations=2, last=1),
    "dpmpp_2m": Solver(dpmpp_2m, evaluations=1, last=1),
}
