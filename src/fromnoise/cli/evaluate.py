"""fromnoise evaluate RUN"""

from __future__ import annotations

from pathlib import Path

import tyro

from fromnoise.cli.fields import parse
from fromnoise.config import spec


@spec
class Arguments:
    """Measure a trained run, and bring its page up to date."""

    run: tyro.conf.Positional[str]
    """The run folder."""
    samples: int | None = None
    """Pictures to generate and judge; by default the recipe's number."""
    guidance: float | None = None
    """Guidance while judging."""
    seed: int = 0
    """Fixes the noise."""
    device: str = "auto"
    """cpu, cuda, mps, ..."""


def main(argv: list[str]) -> int:
    args = parse(Arguments, None, argv, "fromnoise evaluate")
    from rich.console import Console

    from fromnoise.workflow import evaluate_run

    report = evaluate_run(Path(args.run), args.samples, args.guidance, args.seed, args.device)
    Console().print(report.table())
    return 0
