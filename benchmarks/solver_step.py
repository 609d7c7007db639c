"""Microseconds a step outside the network: ours against diffusers' ``scheduler.step`` of the same algorithm.

    python benchmarks/solver_step.py

Samples are 4 x 4 x 64 x 64 in float32, one thread; the network is a tensor that is handed back at once.  Whole
trajectories of 20 steps are timed in turns, so that a busy machine slows all alike, and medians are compared.
"bare" is the arithmetic alone: as many in-place operations as the steps have terms.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from statistics import median

import diffusers
import torch
from rich.console import Console
from rich.table import Table

from fromnoise.process import Flow, ScaledLinear
from fromnoise.sample import SOLVERS, Plan, time_grid
from fromnoise.sample.plan import run
from fromnoise.sample.solve import plan

STEPS, SHAPE, REPEATS = 20, (4, 4, 64, 64), 60
SIGMAS = {"beta_schedule": "scaled_linear", "use_karras_sigmas": True}
PAIRS = {
    "dpmpp_2m": (ScaledLinear(), lambda: diffusers.DPMSolverMultistepScheduler(solver_order=2, **SIGMAS)),
    "unipc_2": (ScaledLinear(), lambda: diffusers.UniPCMultistepScheduler(solver_order=2, **SIGMAS)),
    "euler": (Flow(), lambda: diffusers.FlowMatchEulerDiscreteScheduler()),
}


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    table = Table("solver", "ours, us", "diffusers, us", "bare, us", "ours over diffusers", "goal")
    for name, (path, make) in PAIRS.items():
        steps = plan(SOLVERS[name], path, tuple(time_grid(STEPS, path, "karras").tolist()))
        ours, theirs, bare = in_turns(our_steps(steps), their_steps(make()), bare_steps(steps))
        table.add_row(name, f"{ours:.0f}", f"{theirs:.0f}", f"{bare:.0f}", f"{ours / theirs:.2f}", "0.33")
    Console().print(table)


def in_turns(*works: Callable[[], Callable[[], object]]) -> list[float]:
    """Median microseconds a step of each; every work is prepared anew, outside the clock, each time."""
    times: list[list[float]] = [[] for _ in works]
    for i in range(REPEATS + 5):
        for taken, prepare in zip(times, works, strict=True):
            go = prepare()
            start = time.perf_counter()
            go()
            if i >= 5:
                taken.append((time.perf_counter() - start) / STEPS * 1e6)
    return [median(taken) for taken in times]


def our_steps(table: Plan) -> Callable[[], Callable[[], object]]:
    x, x0 = torch.randn(SHAPE), torch.randn(SHAPE)
    return lambda: lambda: run(table, lambda x, t: x0, x)


def their_steps(scheduler) -> Callable[[], Callable[[], object]]:
    x, output = torch.randn(SHAPE), torch.randn(SHAPE)

    def prepare() -> Callable[[], object]:
        scheduler.set_timesteps(STEPS)

        def go() -> None:
            state = x
            for t in scheduler.timesteps:
                state = scheduler.step(output, t, state, return_dict=False)[0]

        return go

    return prepare


def bare_steps(table: Plan) -> Callable[[], Callable[[], object]]:
    x, value = torch.randn(SHAPE), torch.randn(SHAPE)
    terms = [len(stage.states) + len(stage.predictions) for stage in table.stages]

    def go() -> None:
        for count in terms:
            state = x * 0.5
            for _ in range(count - 1):
                state.add_(value, alpha=0.5)

    return lambda: go


if __name__ == "__main__":
    with torch.no_grad():
        main()
