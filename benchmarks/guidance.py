"""What guidance does to solvers: errors of ``auto`` and of other choices on a guided mixture.

    python benchmarks/guidance.py [scale ...]

The 64-D mixture, two of its classes, flow path.  The guided field u + s (c - u) is exact; the reference is ``rk4`` with
some 480 evaluations.  Printed: root mean square error at the end, relative to the size of the samples, worst class.
"""

from __future__ import annotations

import sys

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fromnoise.analytic import GaussianMixture, anisotropic
from fromnoise.process import Flow
from fromnoise.random import sample_noise
from fromnoise.sample import SOLVERS, solve

PATH, BUDGETS, LABELS = Flow(), (5, 8, 10, 15, 20), (0, 3)
COMPARED = (("auto", None), ("dpmpp_2m", "uniform"), ("dpmpp_2m", "beta"), ("unipc_2", "beta"), ("euler", "uniform"),
            ("heun", "uniform"), ("abm_flow", "beta"))


def guided(mixture: GaussianMixture, label: int, scale: float):
    """The exact denoiser under classifier-free guidance."""
    whole, inside = mixture.denoiser(PATH), mixture.denoiser(PATH, label)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        base = whole(x, t)
        return base + scale * (inside(x, t) - base)

    return denoise


def errors(scale: float) -> Table:
    mixture, noise = anisotropic(), sample_noise((64, 64), 3, dtype=torch.float64)
    fields = [guided(mixture, label, scale) for label in LABELS]
    ends = [solve(field, noise, path=PATH, solver="rk4", steps=120, grid="angle") for field in fields]
    table = Table("evaluations", *(f"{name}, {grid}" if grid else name for name, grid in COMPARED),
                  title=f"guidance {scale:g}", title_justify="left")
    for nfe in BUDGETS:
        row = []
        for name, grid in COMPARED:
            if name != "auto" and not SOLVERS[name].steps(nfe):
                row.append("")
                continue
            found = [solve(field, noise, path=PATH, solver=name, nfe=nfe, grid=grid, guidance=scale)
                     for field in fields]
            row.append(f"{max(float((x - r).norm() / r.norm()) for x, r in zip(found, ends, strict=True)):.4f}")
        table.add_row(str(nfe), *row)
    return table


if __name__ == "__main__":
    torch.set_num_threads(1)
    for given in [float(s) for s in sys.argv[1:]] or [1.15, 2.0, 4.0, 7.0]:
        Console(width=160).print(errors(given))
