"""Grids fitted to a model against fixed ones, same solver and evaluations, on mixtures with an exact answer.

    python benchmarks/fitted_grids.py

Median error at the end relative to the size of the samples, flow path (a root mean square is made by the few paths that
end in another mode); ``gits`` is fitted on 64 other noises, ``ays`` on 512 samples of the data.  For
ancestral sampling: the energy distance of 3,000 samples to 3,000 of the data.
"""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table

from fromnoise.analytic import PRESETS, ode_map
from fromnoise.process import Flow
from fromnoise.sample import ays_grid, gits_grid, solve

FIXED = ("uniform", "angle", "logsnr")


def main() -> None:
    torch.set_num_threads(1)
    path, generator = Flow(), torch.Generator().manual_seed(0)
    table = Table("problem", "evaluations", "solver", *FIXED, "gits", "ays")
    for name, make in PRESETS.items():
        mixture = make()
        denoise = mixture.denoiser(path)
        fit, noise, many = (torch.randn(n, mixture.dim, dtype=torch.float64, generator=generator)
                            for n in (64, 256, 3000))
        exact, clean = ode_map(mixture, noise, path, 1.0, 0.0), mixture.sample(512, generator)[0]
        real = mixture.sample(3000, generator)[0]
        for nfe in (5, 10, 20):
            grids = [*FIXED, gits_grid(denoise, path, fit, nfe), ays_grid(denoise, path, clean, nfe)]
            for solver in ("ddim", "dpmpp_2m", "deis_3", "ancestral"):
                start = many if solver == "ancestral" else noise
                ends = [solve(denoise, start, path=path, solver=solver, grid=grid, steps=nfe) for grid in grids]
                errors = [energy(x, real) if solver == "ancestral" else
                          float((x - exact).norm(dim=1).median() / exact.norm(dim=1).median()) for x in ends]
                table.add_row(name, str(nfe), solver, *(f"{e:.4f}" for e in errors))
    Console().print(table)


def energy(x: torch.Tensor, y: torch.Tensor) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'|, without bias."""
    inner = [torch.cdist(a, a).sum() / (len(a) * (len(a) - 1)) for a in (x, y)]
    return float(2 * torch.cdist(x, y).mean() - inner[0] - inner[1])


if __name__ == "__main__":
    main()
