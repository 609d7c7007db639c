"""From noise to a sample: one call for every solver, path and guidance."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, TypeGuard

import torch
from torch import Tensor

from fromnoise.config import nearest
from fromnoise.process import GaussianPath, expand
from fromnoise.random import fold, normal
from fromnoise.sample.auto import auto
from fromnoise.sample.brownian import brownian_noise
from fromnoise.sample.frames import abreast
from fromnoise.sample.grids import as_times, checked_grid, shifted, time_grid
from fromnoise.sample.plan import Noise, Number, Plan, Predict, Stage, Watch, run
from fromnoise.sample.procedure import Procedure, Task
from fromnoise.sample.progress import Callback, Progress, SolveInfo
from fromnoise.sample.schedules import checked_matrix
from fromnoise.sample.solvers import SOLVERS, Solver
from fromnoise.types import UserError


@torch.no_grad()
def solve(denoise: Predict, noise: Tensor, *, path: GaussianPath, solver: str | Solver = "dpmpp_2m",
          nfe: int | None = None, steps: int | None = None, grid: str | Sequence[float] | Tensor | None = None,
          shift: float = 1.0, schedule: Callable[[Tensor], Tensor] | None = None,
          given: Tensor | None = None, seed: int = 0, first: int = 0, brownian: bool = False,
          guidance: float = 1.0, callback: Callback | None = None, return_info: bool = False) -> Any:
    """x0 from standard normal ``noise`` ``[B, ...]``.

    denoise: ``(x, t) -> x0`` with t a scalar tensor;  solver: a name of SOLVERS, a solver, or "auto", which picks
    solver and grid by budget, size and ``guidance`` and says in the info what it picked;  nfe: evaluations of the
    denoiser, spent exactly, or steps: steps (by default 20);  grid: the name of a grid, or times from noise to
    clean; by default the solver's own, where it has one, else uniform;  shift: of a grid that is named or chosen by
    "auto", towards noise;
    schedule: makes a scheduling matrix (below) of the times of that grid;
    given: clean samples as ``noise`` that a grid which begins below t = 1 starts from: alpha given + sigma noise;
    seed, first: the noise that stochastic solvers add to sample i is a function of (seed, first + i);  brownian: that
    noise as one Brownian path, whatever the grid, so that more steps come nearer to one sample (some twenty draws a
    step instead of one);  callback: called after every step with a ``Progress``.

    A grid ``[steps + 1, T]`` or ``[steps + 1, B, T]`` is a scheduling matrix (``schedules``): every frame of ``noise``
    ``[B, T, ...]`` has a clock of its own, and denoise sees t ``[1, T]`` or ``[B, T]``.  A frame that is held from one
    row to the next stays as it is to the last bit, and one held at 0 throughout is ``given``.
    Adaptive solvers take no nfe, steps or grid, and spend what their tolerances ask for.
    Returns x0 as ``noise``, or ``(x0, SolveInfo)``.  UserError for what a solver cannot do.
    """
    check_inputs(noise, path)
    nfe, steps = whole("nfe", nfe), whole("steps", steps)
    grid = grid if grid is None or isinstance(grid, str) else as_times(grid)
    name, chosen, grid, shift = choose(solver, path, noise.shape[1:].numel(), guidance, nfe, steps, grid, shift)

    def fresh(table: Plan) -> Noise:
        return brownian_noise(table, path, seed, first) if brownian else fresh_noise(seed, first)

    if isinstance(chosen, Procedure):
        if is_matrix(grid) or schedule is not None or given is not None:
            raise UserError(f"{name} starts from noise and has one clock for all frames: schedules and given samples "
                            "are for solvers that are tables, such as euler, dpmpp_2m or heun.")
        chosen.check(name, nfe, steps is not None or shift != 1 or grid is not None)
        times = times_of(name, chosen, path, None, steps, grid, shift) if chosen.on_grid else None
        x, info = chosen.run(Task(name, denoise, noise, path, times, seed, first, fresh, callback))
        return (x, info) if return_info else x
    if schedule is not None:
        if is_matrix(grid):
            raise UserError("The grid is a schedule already: leave schedule out.")
        grid, nfe, steps, shift = schedule(times_of(name, chosen, path, nfe, steps, grid, shift)), None, None, 1.0
    if is_matrix(grid):
        if nfe is not None or steps is not None or shift != 1 or brownian:
            raise UserError("A schedule says itself which steps there are, and its frames share no Brownian path: "
                            "leave nfe, steps, shift and brownian out.")
        table = abreast(partial(plan, chosen, path), path, checked_matrix(grid, noise.shape), noise)
        added = fresh_noise(seed, first)
    else:
        table = plan(chosen, path, tuple(times_of(name, chosen, path, nfe, steps, grid, shift).tolist()))
        added = fresh(table)
    x = run(table, denoise, begin(table, path, noise, given), added, watcher(table, callback)).to(noise.dtype)
    info = SolveInfo(name, tuple(map(noisiest, table.grid)), table.nfe)
    return (x, info) if return_info else x


def table_of(path: GaussianPath, shape: Sequence[int], *, solver: str | Solver, steps: int | None = None,
             grid: str | None = None, shift: float = 1.0, guidance: float = 1.0) -> Plan:
    """The table by which ``solve`` makes samples of ``shape``, for whoever makes many of them one after another.

    UserError for a solver that finds its steps on the way.
    """
    name, chosen, times, shift = choose(solver, path, math.prod(shape), guidance, None, steps, grid, shift)
    if isinstance(chosen, Procedure):
        raise UserError(f"{name} finds its steps on the way: take a solver that is a table, such as euler, dpmpp_2m or "
                        "one that was tuned.")
    return plan(chosen, path, tuple(times_of(name, chosen, path, None, steps, times, shift).tolist()))


def choose(solver: str | Solver, path: GaussianPath, numbers: int, guidance: float, nfe: int | None, steps: int | None,
           grid: str | Tensor | None, shift: float) -> tuple[str, Solver, str | Tensor | None, float]:
    """(name, solver, grid, shift): those asked for, or where that is "auto" the best for samples of so many numbers."""
    if solver != "auto":
        return *named(solver), grid, shift
    choice = auto(nfe or steps or strides(grid) or 20, numbers, guidance)
    name = f"auto: {choice.name}"
    if grid is None:
        grid, shift = shifted(choice.grid(step_count(name, choice.solver, nfe, steps), path), path, shift), 1.0
    return name, choice.solver, grid, shift


def whole(name: str, number: int | None) -> int | None:
    """``number`` as an int.  UserError for one that is none."""
    try:
        return None if number is None else operator.index(number)
    except TypeError:
        raise UserError(f"{name} is a whole number (got {number!r}).") from None


def check_inputs(noise: Tensor, path: GaussianPath) -> None:
    """UserError for noise or a path that is none."""
    if not isinstance(noise, Tensor) or not noise.is_floating_point() or noise.ndim == 0:
        what = f"{noise.dtype} {list(noise.shape)}" if isinstance(noise, Tensor) else type(noise).__name__
        raise UserError(f"noise is a tensor [B, ...] of floating-point numbers (got {what}).")
    if not isinstance(path, GaussianPath):
        raise UserError(f"path is a path of fromnoise.process, such as Flow() (got {path!r}).")


def is_matrix(grid: str | Tensor | None) -> TypeGuard[Tensor]:
    """Whether a grid has a clock for every frame."""
    return isinstance(grid, Tensor) and grid.ndim > 1


def strides(grid: str | Tensor | None) -> int | None:
    """Steps of a grid that is given; of a schedule, those of the frame that takes most."""
    if grid is None or isinstance(grid, str):
        return None
    times = grid if is_matrix(grid) else checked_grid(grid)
    return int((times[1:] < times[:-1]).sum(0).max())


def noisiest(clock: Number) -> float:
    """The time of a clock, and of clocks of their own that of the noisiest frame."""
    return float(clock.max()) if isinstance(clock, Tensor) else clock


def begin(table: Plan[Number], path: GaussianPath, noise: Tensor, given: Tensor | None) -> Tensor:
    """State 0: of noise alone, or alpha given + sigma noise."""
    if given is None:
        return table.begin(noise)
    if given.shape != noise.shape:
        raise UserError(f"Given samples must have the shape of the noise, {list(noise.shape)} "
                        f"(got {list(given.shape)}).")
    if table.jump is not None:
        raise UserError("This tuned solver starts from noise alone: take another for given samples.")
    alpha = path.alpha(expand(torch.as_tensor(table.grid[0], dtype=torch.float64), noise))
    return table.begin(noise) + alpha.to(noise) * given.to(noise)


def named(solver: str | Solver) -> tuple[str, Solver]:
    """(name, solver)."""
    if not isinstance(solver, str):
        if isinstance(solver, type) or not hasattr(solver, "plan"):
            raise UserError(f"solver is a name, or a solver such as Multistep(order=2) (got {solver!r}).")
        return type(solver).__name__, solver
    if solver not in SOLVERS:
        raise UserError(f'There is no solver "{solver}". {nearest(solver, [*SOLVERS, "auto"])}')
    return solver, SOLVERS[solver]


def times_of(name: str, solver: Solver, path: GaussianPath, nfe: int | None, steps: int | None,
             grid: str | Tensor | None, shift: float) -> Tensor:
    """The grid to solve on: the one asked for, or the solver's own, whose steps are then those asked for."""
    own = getattr(solver, "grid", None) if grid is None else grid
    if own is None or isinstance(own, str):
        return time_grid(step_count(name, solver, nfe, steps), path, "uniform" if own is None else own, shift)
    times = checked_grid(own)
    if shift != 1:
        raise UserError("A shift moves a grid that has a name: to shift times of your own, give path.shift(times, s).")
    if nfe is not None or steps is not None:
        count = step_count(name, solver, nfe, steps)
        if count != len(times) - 1:
            whose = f"{name} has a grid of its own" if grid is None else "The grid is given"
            raise UserError(f"{whose}, with {len(times) - 1} steps, and {name} cannot take {count} on it.")
    return times


def step_count(name: str, solver: Solver, nfe: int | None, steps: int | None) -> int:
    """The steps to take, from the evaluations to spend or the steps asked for."""
    if nfe is None:
        return 20 if steps is None else steps
    if steps is not None:
        raise UserError("Give the number of steps or of evaluations (nfe), not both.")
    found = solver.steps(nfe) if nfe >= 1 else None
    if found is None:
        near = [n for n in range(max(1, nfe - 40), nfe + 41) if solver.steps(n)]
        close = sorted(near, key=lambda n: (abs(n - nfe), n))[:2]
        raise UserError(f"{name} cannot spend exactly {nfe} evaluations"
                        + (f": it can spend {' or '.join(map(str, sorted(close)))}." if close else "."))
    return found


@lru_cache(maxsize=64)
def plan(solver: Solver, path: GaussianPath, times: tuple[float, ...]) -> Plan:
    """The table of a solver on a path and grid; made once."""
    return solver.plan(path, torch.tensor(times, dtype=torch.float64))


def fresh_noise(seed: int, first: int) -> Noise:
    """Standard normal noise for stage ``i``: sample b's is a function of (seed, first + b, i) alone."""

    def noise(stage: int, like: Tensor) -> Tensor:
        return normal(fold(seed, range(first, first + len(like)), stage), like.shape[1:]).to(like)

    return noise


def watcher(table: Plan[Number], callback: Callback | None) -> Watch | None:
    """``callback`` after each stage that completes a step."""
    if callback is None:
        return None

    def watch(stage: Stage[Number], x: Tensor, x0: Tensor | None) -> None:
        if stage.step is not None:
            t, t_next = map(noisiest, table.grid[stage.step - 1 : stage.step + 1])
            callback(Progress(stage.step, len(table.grid) - 1, t, t_next, x, x if x0 is None else x0))

    return watch
