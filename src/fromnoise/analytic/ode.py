"""The exact map of the probability-flow ODE, to the accuracy of a high-order integrator.

For every Gaussian path x_t, brought to unit length, turns through the angle theta = atan(sigma / alpha):

    y = x_t / sqrt(alpha^2 + sigma^2),      dy/dtheta = cos(theta) E[eps | y] - sin(theta) E[x0 | y]

(Salimans and Ho 2022).  The right side is bounded and smooth from theta = pi/2, pure noise, to theta = 0, data,
so one integration serves every path.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fromnoise.analytic.mixture import GaussianMixture
from fromnoise.process import GaussianPath, Trigonometric


def ode_map(mixture: GaussianMixture, x: Tensor, path: GaussianPath, start: float = 1.0, end: float = 0.0,
            tolerance: float = 1e-12) -> Tensor:
    """Points ``[B, D]`` of time ``start`` carried to time ``end`` along the probability-flow ODE, in float64.

    By Dormand and Prince's eighth-order pair with relative tolerance ``tolerance`` over the whole batch; its own
    error, halving the tolerance, is below 1e-10.  Pass sigma(1) times standard normal noise for samples.
    """
    from scipy.integrate import solve_ivp

    (angle0, length0), (angle1, length1) = (_polar(path, time) for time in (start, end))
    circle, shape = Trigonometric(), x.shape

    def velocity(theta: float, y) -> object:
        points = torch.from_numpy(y).reshape(shape)
        t = torch.tensor(theta * 2 / torch.pi, dtype=torch.float64)
        return (mixture.velocity(points, t, circle) * (2 / torch.pi)).numpy().ravel()

    y0 = (x.double() / length0).numpy().ravel()
    found = solve_ivp(velocity, (angle0, angle1), y0, method="DOP853", rtol=max(tolerance, 3e-14), atol=tolerance)
    if not found.success:
        raise RuntimeError(f"the integration of the ODE failed: {found.message}")
    return torch.from_numpy(found.y[:, -1].copy()).reshape(shape) * length1


def _polar(path: GaussianPath, time: float) -> tuple[float, float]:
    """(theta, sqrt(alpha^2 + sigma^2)) at a time."""
    t = torch.tensor(time, dtype=torch.float64)
    alpha, sigma = path.alpha(t), path.sigma(t)
    return float(torch.atan2(sigma, alpha)), float(torch.hypot(alpha, sigma))
