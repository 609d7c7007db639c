"""fromnoise worlds measure RUN [--data.root FOLDER] [--field value ...]"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import tyro
from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fromnoise.cli.options import parse
from fromnoise.config import spec
from fromnoise.types import UserError
from fromnoise.worlds.measure import Measuring

ABOUT = """Measure a world: whether its frames do what they are told (read by inverse dynamics), whether other actions
would have made other frames as in the real environment (which must be installed), how near they are to the truth, and
whether they wear out in long rollouts.  The figures, a page and pictures go to RUN/measured.

fromnoise worlds measure runs/breakout

fromnoise worlds measure runs/breakout --states 256 --steps 1 --history 0"""


@spec
class Place:
    """Where the recording is."""

    root: str = ""
    """Its folder, where it is no longer where the recipe says."""


@spec
class Arguments(Measuring):
    """Which world is measured, how it is stepped, and on how much."""

    run: tyro.conf.Positional[str] = ""
    """The run folder of a world."""
    data: Place = Place()
    steps: Annotated[int, Field(ge=0, le=1000)] = 0
    """Solver steps of a frame; 0: as the recipe says."""
    solver: str = ""
    """The solver; by default as the recipe says."""
    guidance: float | None = None
    """The scale of guidance on actions; by default as the recipe says."""
    context: Annotated[int, Field(ge=0)] = 0
    """Frames that the model looks back at; 0: as in training."""
    history: Annotated[float, Field(ge=0, le=1)] | None = None
    """Noise level at which frames are remembered; by default as the recipe says."""
    commit: Literal["clean", "last"] = "clean"
    """What is remembered of a frame: clean, by one look more at it, or as its last evaluation saw it (last)."""
    precision: str = ""
    """auto, float32 or bfloat16, of the large products; by default as in training."""
    device: str = "auto"
    """cpu, cuda, or auto: the best that is there."""


def main(argv: list[str]) -> int:
    args = parse(Arguments, argv, "fromnoise worlds measure", about=ABOUT)
    if not args.run:
        raise UserError("Name a run folder of a world: fromnoise worlds measure runs/breakout.")
    from fromnoise.workflow import settle_threads
    from fromnoise.worlds.measure import measure
    from fromnoise.worlds.measure.page import write_page
    from fromnoise.worlds.opening import open_world

    opened = open_world(args.run, args.device)
    settle_threads(opened.model)
    world = opened.dream(steps=args.steps, solver=args.solver, guidance=args.guidance, context=args.context,
                         history=args.history, commit=args.commit, precision=args.precision)
    data = replace(opened.data, root=args.data.root) if args.data.root else opened.data
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("measuring")
        measured, shown = measure(world, data, opened.run, args, lambda part, done, total: bar.update(
            task, description=part, completed=done, total=total or None))
    page = write_page(opened.run, measured, shown)
    Console().print(measured.table())
    print(page)
    return 0
