"""How far solvers end from the exact ODE, on problems whose answer is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from fromnoise.analytic import PRESETS, GaussianMixture, ode_map
from fromnoise.process import GaussianPath
from fromnoise.sample import GRIDS, SOLVERS, solve
from fromnoise.types import UserError

# Deterministic solvers worth comparing, with every grid; further names of the same rule are left out.
COMPARED = ("ddim", "dpmpp_2m", "dpmpp_3m", "unipc_2", "unipc_3", "deis_2", "deis_3", "deis_4", "ipndm_3", "ipndm_4",
            "lms", "abm_angle", "abm_flow", "heun", "midpoint", "dpm_2", "dpm_3", "dpmpp_2s", "rk4")


@dataclass(frozen=True)
class Problem:
    """A mixture on a path, starting noise ``[n, D]`` and where the exact ODE takes it."""

    name: str
    mixture: GaussianMixture
    path: GaussianPath
    noise: Tensor
    answer: Tensor

    def error(self, x: Tensor) -> Error:
        """How far ``x`` is from the answer."""
        off = (x - self.answer).square().mean(1).sqrt()
        size = self.answer.square().mean().sqrt()
        switched = (self.mixture.mode(x) != self.mixture.mode(self.answer)).double().mean()
        return Error(float(off.square().mean().sqrt() / size), float(off.median() / size), float(switched))


@dataclass(frozen=True)
class Error:
    """Relative to the size of the answers: root mean square, median; and the share that ended in another mode."""

    rms: float
    median: float
    switched: float


@dataclass(frozen=True)
class Trial:
    """One solver on one grid with a budget."""

    problem: str
    nfe: int
    solver: str
    grid: str
    error: Error


@lru_cache(maxsize=8)
def problem(name: str, path: GaussianPath, count: int = 512, seed: int = 0) -> Problem:
    """A preset mixture on a path.  UserError for a name that is none."""
    if name not in PRESETS:
        raise UserError(f'There is no problem "{name}": choose one of {", ".join(PRESETS)}.')
    mixture = PRESETS[name]()
    noise = torch.randn(count, mixture.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    start = float(path.sigma(torch.ones((), dtype=torch.float64))) * noise
    return Problem(name, mixture, path, noise, ode_map(mixture, start, path, tolerance=1e-10))


def trials(on: Problem, nfe: int, solvers: Iterable[str] = COMPARED,
           grids: Iterable[str] = tuple(GRIDS)) -> list[Trial]:
    """Every solver that can spend ``nfe`` evaluations, on every grid, best first; without those that blew up."""
    denoise, found = on.mixture.denoiser(on.path), []
    for name in solvers:
        if not SOLVERS[name].steps(nfe):
            continue
        for grid in grids:
            x = solve(denoise, on.noise, path=on.path, solver=name, nfe=nfe, grid=grid)
            error = on.error(x)
            if error.rms == error.rms and error.rms != float("inf"):
                found.append(Trial(on.name, nfe, name, grid, error))
    return sorted(found, key=lambda t: t.error.rms)


def auto_trial(on: Problem, nfe: int) -> Trial:
    """What ``solver="auto"`` picks."""
    x, info = solve(on.mixture.denoiser(on.path), on.noise, path=on.path, solver="auto", nfe=nfe, return_info=True)
    return Trial(on.name, nfe, info.solver, "its own", on.error(x))


def table(rows: Sequence[Trial], title: str):
    """A ``rich`` table of trials."""
    from rich.table import Table

    found = Table(title=title, title_justify="left")
    for name in ("evaluations", "solver", "grid", "RMS", "median", "other mode"):
        found.add_column(name, justify="left" if name in ("solver", "grid") else "right")
    for row in rows:
        found.add_row(str(row.nfe), row.solver, row.grid, f"{row.error.rms:.4f}", f"{row.error.median:.4f}",
                      f"{row.error.switched:.1%}")
    return found
