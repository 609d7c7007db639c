"""fromnoise sample RUN "a prompt" [...]"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from fromnoise.config import spec
from fromnoise.types import UserError


@spec
class Arguments:
    """Pictures from a trained run."""

    run: tyro.conf.Positional[str] = ""
    """The run folder (not needed with --like)."""
    prompts: tyro.conf.Positional[tuple[str, ...]] = ()
    """One or more prompts."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 4
    """Samples of each prompt."""
    out: str = ""
    """The PNG to write; by default samples-SEED.png in the run's samples folder."""
    steps: int | None = None
    """Solver steps."""
    guidance: float | None = None
    """Classifier-free guidance; 1 is none."""
    solver: str | None = None
    """euler, heun or dpmpp_2m."""
    size: str | None = None
    """WIDTHxHEIGHT, such as 64x48."""
    seed: int = 0
    """Fixes the noise."""
    negative: str = ""
    """What to steer away from."""
    prompts_file: str | None = None
    """A text file with one prompt a line."""
    like: str | None = None
    """Make a saved PNG again, from what it says of itself."""
    device: str = "auto"
    """cpu, cuda, mps, ..."""


def main(argv: list[str]) -> int:
    from fromnoise.cli.fields import parse

    args = parse(Arguments, Arguments(), argv, "fromnoise sample")
    from fromnoise.generate import load, read_picture

    if args.like:
        found = read_picture(args.like)
        settings, run = found["settings"], args.run or found["run"]
        if not run:
            raise UserError("The picture does not name its run folder: give it as `fromnoise sample RUN --like PICTURE`.")
        model = load(run, args.device)
        output = model.sample(settings.prompts, steps=settings.steps, guidance=settings.guidance,
                              solver=settings.solver, size=settings.size, seed=settings.seed,
                              negative=settings.negative, first=settings.first)
        path = Path(args.out or f"{Path(args.like).stem}-again.png")
    else:
        prompts = wanted(args)
        model = load(args.run, args.device)
        output = model.sample(prompts, steps=args.steps, guidance=args.guidance, solver=args.solver,
                              size=size_of(args.size), seed=args.seed, negative=args.negative)
        path = Path(args.out or Path(args.run) / "samples" / f"seed-{args.seed}.png")
    import sys

    for note in output.notes:
        print(note, file=sys.stderr)
    print(output.save(path))
    return 0


def wanted(args: Arguments) -> list[str]:
    """Every prompt, n times."""
    if not args.run:
        raise UserError('Give a run folder: fromnoise sample runs/digits "a handwritten seven".')
    if args.n < 1:
        raise UserError(f"--n must be 1 or more (got {args.n}).")
    prompts = [*args.prompts, *(read_prompts(args.prompts_file) if args.prompts_file else [])]
    return [p for p in prompts or [""] for _ in range(args.n)]


def read_prompts(path: str) -> list[str]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"The prompt file {path} cannot be read: give a UTF-8 text file with one prompt a line.") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"The prompt file {path} is empty.")
    return prompts


def size_of(text: str | None) -> tuple[int, int] | None:
    """"64x48" as (height 48, width 64)."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(p.isdigit() for p in parts):
        raise UserError(f'--size is WIDTHxHEIGHT, such as 64x48 (got "{text}").')
    return int(parts[1]), int(parts[0])
