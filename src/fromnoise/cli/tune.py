"""fromnoise tune RUN --nfe 6, of a world its next frame"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fromnoise.cli.options import parse
from fromnoise.config import spec
from fromnoise.sample import Tuned
from fromnoise.types import UserError

if TYPE_CHECKING:
    from fromnoise.generate import Model

ABOUT = """A fast solver for a trained run: the times it asks the model at, and how it weighs the answers, are fitted to
paths of the model itself.

fromnoise tune runs/digits --nfe 6

fromnoise tune runs/pong --nfe 2            (of a world: its next frame, under recorded history and actions)

fromnoise sample runs/digits "a handwritten seven" --solver tuned-6"""


@spec
class Arguments:
    """What to tune, and for how long."""

    run: tyro.conf.Positional[str] = ""
    """The run folder."""
    nfe: Annotated[int, Field(ge=1, le=100)] = 8
    """Evaluations of the model that a sample, or a frame of a world, may cost."""
    guidance: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Guidance to tune for, of a world that on actions; by default the recipe's."""
    history: Annotated[float, Field(ge=0, le=1)] | None = None
    """Noise level at which a world remembers its frames; by default the recipe's."""
    samples: Annotated[int, Field(ge=8)] = 192
    """Paths to learn from; a quarter of them is held out to judge on."""
    seconds: Annotated[float, Field(gt=0)] = 60.0
    """Longest time to spend, after which the best so far is kept."""
    steps: Annotated[int, Field(ge=0)] = 200
    """Gauss-Newton steps, where there is time for them; 0 keeps the best fixed solver and grid."""
    teleport: bool | None = None
    """May begin with the jump that is exact for Gaussian data, which costs no evaluation; by default it may, of a
    world not, whose frames follow from others."""
    weights: bool = True
    """Fit the weights of a step too, and not the times alone."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Fixes the paths and their order."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto takes a GPU where there is one."""


def main(argv: list[str]) -> int:
    args = parse(Arguments, argv, "fromnoise tune", about=ABOUT)
    if not args.run:
        raise UserError("Name a run folder: fromnoise tune runs/digits --nfe 6.")
    from fromnoise.opening import load_model
    from fromnoise.workflow import settle_threads

    model, name = load_model(args.run, args.device), f"tuned-{args.nfe}"
    settle_threads(model)
    console = Console(stderr=True)
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
               TextColumn("error {task.fields[error]:.4f}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None, error=float("nan"))
        tuned = fitter(model, args)(
            args.nfe, samples=args.samples, seed=args.seed, seconds=args.seconds, steps=args.steps,
            weights=args.weights,
            progress=lambda doing, done, total, error: bar.update(task, description=f"{name}: {doing}",
                                                                  completed=done, total=total, error=error))
    out = Path(args.run) / "solvers" / f"{name}.json"
    tuned.save(out)
    Console().print(table(tuned, name))
    print(out)
    return 0


def fitter(model: Model, args: Arguments) -> Callable[..., Tuned]:
    """What tunes a model: on its prompts, or a world on its next frames."""
    from fromnoise.worlds.dream import Dream
    from fromnoise.worlds.tuning import is_world, tune

    if is_world(model.recipe):
        dream = Dream(model, guidance=args.guidance, history=args.history)
        return partial(tune, dream, teleport=bool(args.teleport))
    if args.history is not None:
        raise UserError(f"{args.run} is no world that remembers frames: leave history out.")
    return partial(model.tune, guidance=args.guidance, teleport=args.teleport is not False)


def table(tuned: Tuned, name: str) -> Table:
    """Errors before and after."""
    guidance = tuned.guidance if tuned.history is None else tuned.action_guidance
    at = "" if guidance is None else f" at guidance {guidance:g}"
    at += "" if tuned.history is None else f", history at noise level {tuned.history:g}"
    rows = Table("error of end points", "rms", "mean", "median", "far away", caption_justify="left",
                 title=f"{tuned.nfe} evaluations{at}", title_justify="left",
                 caption=f"{tuned.steps_done} steps; relative to the spread of the data; on {tuned.noises // 4} paths "
                         "held out, against many evaluations")
    for what, errors in ((tuned.begun, tuned.before), (name, tuned.after)):
        if errors is not None:
            rows.add_row(what, *(f"{e:.4f}" for e in (errors.rms, errors.mean, errors.median)), f"{errors.strayed:.1%}")
    return rows
