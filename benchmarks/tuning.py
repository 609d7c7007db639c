"""Tuned solvers against the best of all fixed ones, on the exact test-bed.

    python benchmarks/tuning.py [ring grid25 anisotropic] [flow vp] [5 8 10] [--seconds 60]

Errors are those of 4,096 end points of held-out noise against the exact ODE, relative to the spread of the data.  The
best fixed pair is chosen by its RMS on that very noise, from every deterministic solver and every grid (the 8 that are
best on the first 1,024 are compared on all), so that it is as good as it can be; the tuned one has never seen it.
Core-seconds are printed beside the time, since a busy machine leaves less of it.
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from torch import Tensor

from fromnoise.analytic import PRESETS, GaussianMixture, ode_map
from fromnoise.process import VP, Flow, GaussianPath
from fromnoise.random import sample_noise
from fromnoise.sample import GRIDS, SOLVERS, solve, time_grid, tune
from fromnoise.types import UserError

PATHS = {"flow": Flow(), "vp": VP()}
OWN, HELD_OUT, SIEVE = 2048, 4096, 1024


def errors(x: Tensor, ends: Tensor, mixture: GaussianMixture) -> tuple[float, float, float, float]:
    """(RMS, mean, median, share of paths that end in another mode)."""
    e = (x - ends).square().mean(1).sqrt() / (ends - ends.mean(0)).square().mean().sqrt()
    e = e.nan_to_num(math.inf, math.inf)
    switched = (mixture.mode(x) != mixture.mode(ends)).double().mean()
    return float(e.square().mean().sqrt()), float(e.mean()), float(e.median()), float(switched)


def shown(values: tuple[float, float, float, float]) -> str:
    return " / ".join(f"{v:.4f}" for v in values[:3]) + f" / {values[3]:.1%}"


def fixed_pairs(path: GaussianPath, nfe: int) -> list[tuple[str, str]]:
    """(solver, grid) of all that spend exactly ``nfe`` evaluations and add no noise."""
    found = []
    for name, solver in SOLVERS.items():
        for grid in GRIDS:
            if not (steps := solver.steps(nfe)):
                continue
            try:
                stochastic = solver.plan(path, time_grid(steps, path, grid)).stochastic
            except UserError:  # a grid that this solver refuses
                continue
            if not stochastic:
                found.append((name, grid))
    return found


def compare(mixture_name: str, path_name: str, budgets: list[int], seconds: float) -> None:
    """A row for each budget."""
    mixture, path = PRESETS[mixture_name](), PATHS[path_name]
    held_out, own = (sample_noise((count, mixture.dim), seed, dtype=torch.float64)
                     for count, seed in ((HELD_OUT, 99), (OWN, 1)))
    denoise, start = mixture.denoiser(path), float(path.sigma(torch.ones((), dtype=torch.float64)))
    ends = ode_map(mixture, start * held_out, path, tolerance=1e-9)

    def judge(count: int, **choice) -> tuple[float, float, float, float]:
        return errors(solve(denoise, held_out[:count], path=path, **choice), ends[:count], mixture)

    for nfe in budgets:
        pairs = fixed_pairs(path, nfe)
        for count, keep in ((SIEVE, 8), (HELD_OUT, 1)):
            pairs = sorted(pairs, key=lambda p: judge(count, solver=p[0], grid=p[1], nfe=nfe)[0])[:keep]
        name, grid = pairs[0]
        begun, worked = time.monotonic(), time.process_time()
        tuned = tune(denoise, path, nfe=nfe, noise=own, seconds=seconds)
        spent, work = time.monotonic() - begun, time.process_time() - worked
        fixed, found = judge(HELD_OUT, solver=name, grid=grid, nfe=nfe), judge(HELD_OUT, solver=tuned)
        print(f"| {mixture_name}, {path_name} | {nfe} | {name} on {grid} | {shown(fixed)} | {shown(found)} | "
              f"{fixed[0] / found[0]:.1f} / {fixed[1] / found[1]:.1f} / {fixed[2] / found[2]:.1f} | "
              f"{tuned.steps_done} in {spent:.0f} s ({work:.0f}) |", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("named", nargs="*", help="mixtures, paths, evaluations; all of a kind if none is named")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each tuning")
    given = parser.parse_args()
    unknown = set(given.named) - {*PRESETS, *PATHS} - {n for n in given.named if n.isdigit()}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    for mixture in [m for m in PRESETS if m in given.named] or ["ring", "grid25", "anisotropic"]:
        for path in [p for p in PATHS if p in given.named] or list(PATHS):
            compare(mixture, path, [int(n) for n in given.named if n.isdigit()] or [5, 8, 10], given.seconds)


if __name__ == "__main__":
    main()
