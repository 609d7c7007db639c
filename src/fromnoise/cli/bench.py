"""fromnoise bench solvers | worlds"""

from __future__ import annotations

from typing import Annotated, Literal

import tyro
from pydantic import Field
from rich.console import Console

from fromnoise.cli.options import parse
from fromnoise.config import spec
from fromnoise.process import Flow, Path
from fromnoise.types import UserError

ABOUT = """Measure solvers side by side on problems whose exact answer is known.

For every budget: the best pairs of solver and grid, DPM-Solver++ 2M on an even grid, and what "auto" picks.
`fromnoise bench worlds --help`: how long frames of a dreamt world take."""


@spec
class Arguments:
    """What to compare."""

    what: tyro.conf.Positional[Literal["solvers", "worlds"] | None] = None
    """solvers: their error against the exact ODE; worlds has options of its own."""
    problem: Literal["grid25", "ring", "anisotropic", "all"] = "all"
    """grid25 and ring have two dimensions, anisotropic 64."""
    path: Path = Flow()
    """The noise path."""
    nfe: tuple[Annotated[int, Field(ge=1)], ...] = (5, 8, 10, 15, 20)
    """Evaluations of the denoiser."""
    samples: Annotated[int, Field(ge=16)] = 512
    """Starting points."""
    best: Annotated[int, Field(ge=1)] = 3
    """Pairs shown for each budget."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Fixes the starting points."""


def main(argv: list[str]) -> int:
    if argv and argv[0] == "worlds":
        from fromnoise.cli import bench_worlds

        return bench_worlds.main(argv[1:])
    args = parse(Arguments, argv, "fromnoise bench", about=ABOUT)
    if args.what != "solvers":
        raise UserError("Say first what to measure: fromnoise bench solvers, or fromnoise bench worlds.")
    from fromnoise.evaluate.solvers import auto_trial, problem, table, trials

    console = Console()
    for name in ("grid25", "ring", "anisotropic") if args.problem == "all" else (args.problem,):
        with Console(stderr=True).status(f"Solving {name} exactly"):
            on = problem(name, args.path, args.samples, args.seed)
        rows = []
        for nfe in args.nfe:
            with Console(stderr=True).status(f"{name}: every solver on every grid with {nfe} evaluations"):
                every = trials(on, nfe)
            usual = [t for t in every if (t.solver, t.grid) == ("dpmpp_2m", "uniform")]
            rows += [*every[: args.best], *usual, auto_trial(on, nfe)]
        console.print(table(rows, f"{name}, {args.path.kind} path, {args.samples} starting points"))
    return 0
