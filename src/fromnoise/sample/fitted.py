"""Grids fitted to a model: those of a fine grid's times between which the cost of all steps together is least.

What a step from time i to time j costs is estimated once for all pairs, and dynamic programming finds the best choice
of any number of steps.  Two costs:

    gits    |x_j - DDIM(x_i, i -> j)| s / sqrt(alpha_j^2 s^2 + sigma_j^2),  along trajectories of the model: how far one
            step goes astray (GITS, Chen et al. 2024), carried to the end as it would be for data N(0, s^2)
    ays     1/2 int_i^j E|D_u - D_i|^2 dSNR_u,  along noised samples: what freezing the prediction adds to a bound on
            the KL divergence between the reverse SDE and its steps (Align Your Steps, Sabour et al. 2024)

The second is Girsanov's theorem for the SDE of ancestral sampling; in these coordinates nothing but D = denoise(x) is
left of it.  The first is for ODE solvers, the second for solvers with fresh noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fromnoise.process import GaussianPath
from fromnoise.random import fold, normal
from fromnoise.sample.grids import time_grid
from fromnoise.sample.plan import Predict
from fromnoise.sample.solve import plan, solve
from fromnoise.sample.solvers import Solver
from fromnoise.sample.tuned import Tuned, folded
from fromnoise.types import UserError

AYS = 0x415953  # keeps the noise of ``ays_grid`` apart from that of sampling


@torch.no_grad()
def gits_grid(denoise: Predict, path: GaussianPath, noise: Tensor, steps: int, fine: str | Tensor = "cosine",
              candidates: int = 96, teacher: str = "abm_angle") -> Tensor:
    """``[steps + 1]`` times at which DDIM's steps bend least away from the trajectories of ``noise`` ``[B, ...]``.

    fine, candidates: the times to choose from (a named grid of so many steps, or times);  teacher: the solver that
    follows the trajectories on them.  Twice ``candidates`` evaluations.
    """
    times = time_grid(candidates, path, fine)
    return times[cheapest(gits_costs(denoise, path, noise, times, teacher), steps)]


@torch.no_grad()
def ays_grid(denoise: Predict, path: GaussianPath, samples: Tensor, steps: int, fine: str | Tensor = "angle",
             candidates: int = 96, seed: int = 0) -> Tensor:
    """``[steps + 1]`` times with the least bound on the KL divergence of the SDE's steps, for clean ``samples``.

    fine, candidates: the times to choose from, the last of which before 0 is always kept, since the bound is infinite
    there.  ``candidates`` evaluations.
    """
    times = time_grid(candidates, path, fine)
    return times[cheapest(ays_costs(denoise, path, samples, times, seed), steps)]


def on_grid(solver: Solver, path: GaussianPath, grid: Tensor) -> Tuned:
    """A deterministic solver on a grid ``[steps + 1]`` that ends at 0, as one table that ``save`` keeps.

    In ``solvers/NAME.json`` of a run's folder it is the solver NAME of that run.
    """
    times = tuple(grid.tolist())
    table = plan(solver, path, times)
    if table.stochastic or table.nfe != len(times) - 1:
        raise UserError("Only a solver without fresh noise and with one evaluation a step can be kept with its grid.")
    return Tuned(path=path, grid=times, table=tuple(  # type: ignore[arg-type]
        tuple(row[: i + 2].tolist()) for i, row in enumerate(folded(table, path)[1])))


def gits_costs(denoise: Predict, path: GaussianPath, noise: Tensor, times: Tensor, teacher: str) -> Tensor:
    """``[n + 1, n + 1]``: RMS error of one step of DDIM from each time of ``times`` to each later one."""
    states = [float(path.sigma(times[0])) * noise]
    solve(denoise, noise, path=path, solver=teacher, grid=times, callback=lambda seen: states.append(seen.x))
    x = torch.stack([s.flatten(1) for s in states]).double()
    alpha, sigma, spread = path.alpha(times).to(x), path.sigma(times).to(x), x[-1].std()
    costs = x.new_full((len(times), len(times)), torch.inf)
    for i in range(len(times) - 1):
        x0 = denoise(states[i], times[i]).flatten(1).double()
        keep = (sigma[i + 1 :] / sigma[i])[:, None, None]
        step = keep * x[i] + (alpha[i + 1 :, None, None] - keep * alpha[i]) * x0
        error = (x[i + 1 :] - step).square().mean((1, 2)).sqrt()
        costs[i, i + 1 :] = error * spread / torch.hypot(alpha[i + 1 :] * spread, sigma[i + 1 :])
    return costs.cpu()


def ays_costs(denoise: Predict, path: GaussianPath, samples: Tensor, times: Tensor, seed: int = 0) -> Tensor:
    """``[n + 1, n + 1]``: the part of the bound that belongs to a step from each time to each later one, per number."""
    moved = squared_changes(denoise, path, samples, times[:-1], seed)
    snr = path.logsnr(times[:-1]).exp()
    along = torch.cumulative_trapezoid(moved.triu(), snr, dim=1) / 2
    costs = torch.full((len(times), len(times)), torch.inf, dtype=torch.float64)
    costs[:-1, 1:-1] = along.masked_fill(torch.ones_like(along).tril(-1).bool(), torch.inf)
    costs[-2, -1] = 0.0
    return costs


def squared_changes(denoise: Predict, path: GaussianPath, samples: Tensor, times: Tensor, seed: int = 0) -> Tensor:
    """``[n, n]``: E|D_i - D_j|^2 per number, where x_i and x_j are of one forward process.

    x / alpha is x0 and a Brownian motion at sigma^2 / alpha^2, whose increments are drawn from clean to noise.
    """
    variance = (-path.logsnr(times)).exp()
    walk, before, seen = torch.zeros_like(samples), 0.0, []
    for k, (t, now) in enumerate(zip(times.flip(0), variance.flip(0).tolist(), strict=True)):
        fresh = normal(fold(seed, range(len(samples)), AYS, k), samples.shape[1:]).to(samples)
        if now == torch.inf:
            x = float(path.sigma(t)) * fresh
        else:
            walk, before = walk + (now - before) ** 0.5 * fresh, now
            x = float(path.alpha(t)) * (samples + walk)
        seen.append(denoise(x, t).flatten().double())
    predictions = torch.stack(seen[::-1])
    gram = (predictions @ predictions.mT / predictions.shape[1]).cpu()
    size = gram.diagonal()
    return (size[:, None] + size - 2 * gram).clamp(min=0)


def cheapest(costs: Tensor, steps: int) -> list[int]:
    """The ``steps + 1`` nodes from the first to the last of ``[n + 1, n + 1]`` whose steps cost least together.

    best[j] after k steps is min_i best[i] + costs[i, j] (Bellman).
    """
    if not 1 <= steps < len(costs):
        raise UserError(f"A grid of {steps} steps cannot be chosen from {len(costs) - 1} fine ones.")
    best = torch.full((len(costs),), torch.inf, dtype=costs.dtype)
    best[0] = 0.0
    origins = []
    for _ in range(steps):
        best, origin = (best[:, None] + costs).min(0)
        origins.append(origin.tolist())
    if not bool(best[-1].isfinite()):
        raise UserError(f"No grid of {steps} steps leads from noise to clean here: take more.")
    nodes = [len(costs) - 1]
    for origin in reversed(origins):
        nodes.append(origin[nodes[-1]])
    return nodes[::-1]
