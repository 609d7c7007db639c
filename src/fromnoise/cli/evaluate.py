"""fromnoise evaluate RUN"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field
from rich.console import Console

from fromnoise.cli.options import parse
from fromnoise.config import spec
from fromnoise.types import UserError


@spec
class Arguments:
    """What to measure, and how."""

    run: tyro.conf.Positional[str] = ""
    """The run folder."""
    samples: Annotated[int, Field(ge=2)] | None = None
    """Pictures to generate and judge; by default the recipe's number."""
    guidance: Annotated[float, Field(ge=0)] | None = None
    """Guidance while judging; by default the recipe's."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Fixes the noise."""
    tasks: Annotated[int, Field(ge=0)] | None = None
    """Clips of each task with given frames; 0 for none, by default the recipe's number."""
    rollout: Annotated[int, Field(ge=0)] | None = None
    """Frames of rollouts, as many as clips of a task; 0 for none, by default the recipe's number."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto takes a GPU where there is one."""


def main(argv: list[str]) -> int:
    args = parse(Arguments, argv, "fromnoise evaluate", about="Measure a trained run, and bring its page up to date.")
    if not args.run:
        raise UserError("Name a run folder: fromnoise evaluate runs/digits.")
    from fromnoise.workflow import evaluate_run

    report = evaluate_run(Path(args.run), args.samples, args.guidance, args.seed, args.device, tasks=args.tasks,
                          rollout=args.rollout)
    console = Console()
    console.print(report.table())
    if report.panel is not None:
        console.print(report.panel.table())
    print(Path(args.run) / "index.html")
    return 0
