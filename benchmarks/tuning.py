"""Tuned solvers against the best of all fixed ones, on the exact test-bed.

    python benchmarks/tuning.py [ring grid25 anisotropic] [flow vp]

Errors are those of 1,024 end points of held-out noise against the exact ODE, relative to the spread of the data.  The
best fixed pair is chosen by its RMS on that very noise, from every deterministic solver and every grid, so that it is
as good as it can be; the tuned one has never seen it.
"""

from __future__ import annotations

import math
import sys
import time

import torch
from torch import Tensor

from fromnoise.analytic import PRESETS, GaussianMixture, ode_map
from fromnoise.process import VP, Flow
from fromnoise.random import sample_noise
from fromnoise.sample import GRIDS, SOLVERS, solve, time_grid, tune

BUDGETS = (5, 8, 10)
PATHS = {"flow": Flow(), "vp": VP()}


def errors(x: Tensor, ends: Tensor, mixture: GaussianMixture) -> tuple[float, float, float, float]:
    """(RMS, mean, median, share of paths that end in another mode)."""
    e = (x - ends).square().mean(1).sqrt() / (ends - ends.mean(0)).square().mean().sqrt()
    switched = (mixture.mode(x) != mixture.mode(ends)).double().mean()
    return float(e.square().mean().sqrt()), float(e.mean()), float(e.median()), float(switched)


def shown(values: tuple[float, float, float, float]) -> str:
    return " / ".join(f"{v:.4f}" for v in values[:3]) + f" / {values[3]:.1%}"


def best_fixed(denoise, noise: Tensor, path, nfe: int, judge) -> tuple[tuple[float, ...], str]:
    """The pair with the least RMS."""
    least, best = (math.inf, 0.0, 0.0, 0.0), ""
    for name, solver in SOLVERS.items():
        steps = solver.steps(nfe)
        for grid in GRIDS if steps else ():
            try:
                stochastic = solver.plan(path, time_grid(steps, path, grid)).stochastic
            except Exception:  # a grid that a solver cannot take
                continue
            if not stochastic and (found := judge(solve(denoise, noise, path=path, solver=name, nfe=nfe,
                                                        grid=grid)))[0] < least[0]:
                least, best = found, f"{name} on {grid}"
    return least, best


def main(mixtures: list[str], paths: list[str]) -> None:
    torch.set_num_threads(1)
    for mixture_name in mixtures:
        mixture = PRESETS[mixture_name]()
        held_out, own = (sample_noise((1024, mixture.dim), seed, dtype=torch.float64) for seed in (99, 1))
        for path_name in paths:
            path = PATHS[path_name]
            denoise, start = mixture.denoiser(path), float(path.sigma(torch.ones((), dtype=torch.float64)))
            ends = ode_map(mixture, start * held_out, path, tolerance=1e-9)
            for nfe in BUDGETS:
                fixed, name = best_fixed(denoise, held_out, path, nfe, lambda x: errors(x, ends, mixture))  # noqa: B023
                begun = time.monotonic()
                tuned = tune(denoise, path, nfe=nfe, noise=own)
                spent = time.monotonic() - begun
                found = errors(solve(denoise, held_out, path=path, solver=tuned), ends, mixture)
                print(f"| {mixture_name}, {path_name} | {nfe} | {name} | {shown(fixed)} | {shown(found)} | "
                      f"{fixed[0] / found[0]:.1f} / {fixed[1] / found[1]:.1f} / {fixed[2] / found[2]:.1f} | "
                      f"{tuned.steps_done} in {spent:.0f} s |", flush=True)


if __name__ == "__main__":
    named = sys.argv[1:]
    main([m for m in PRESETS if m in named] or ["ring", "grid25", "anisotropic"],
         [p for p in PATHS if p in named] or list(PATHS))
