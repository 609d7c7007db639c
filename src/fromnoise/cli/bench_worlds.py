"""fromnoise bench worlds [RUN]"""

from __future__ import annotations

from typing import Annotated, Literal

import tyro
from pydantic import Field
from rich.console import Console

from fromnoise.cli.options import parse
from fromnoise.config import spec

ABOUT = """Step a world frame by frame, and measure whether late frames cost more than early ones.

Without a run: the recipe world as it is before training, which is as slow as after it."""


@spec
class Arguments:
    """Which world, and how it is stepped."""

    run: tyro.conf.Positional[str] = ""
    """The run folder of a world model."""
    frames: Annotated[int, Field(ge=300)] = 10_000
    """Frames to step; the last hundred are compared with the second hundred."""
    steps: Annotated[int, Field(ge=0)] = 2
    """Solver steps of a frame; 0: as in the recipe."""
    context: Annotated[int, Field(ge=0)] = 16
    """Frames that the next one sees; 0: as many as in training."""
    sink: Annotated[int, Field(ge=0)] = 0
    """How many of these are the first of the world, which are never forgotten."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """In which the network's large products are computed; auto: as in the recipe."""
    threads: Annotated[int, Field(ge=0)] = 1
    """CPU threads; 0: as many as torch takes by itself."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps, ...; auto takes a GPU where there is one."""


def main(argv: list[str]) -> int:
    args = parse(Arguments, argv, "fromnoise bench worlds", about=ABOUT)
    import torch

    from fromnoise.generate import load
    from fromnoise.worlds import Dream
    from fromnoise.worlds.pace import pace, untrained

    if args.threads:
        torch.set_num_threads(args.threads)
    model = load(args.run, args.device) if args.run else untrained()
    dream = Dream(model, context=args.context, sink=args.sink, steps=args.steps,
                  precision="" if args.precision == "auto" else args.precision)
    with Console(stderr=True).status(f"{args.frames:,} frames") as status:
        found = pace(dream, args.frames, lambda frame: status.update(f"frame {frame:,} of {args.frames:,}"))
    commits = " + 1" if not model.recipe.net.told_frames else ""  # told frames are kept without a look
    print(f"{found.parameters / 1e6:.1f} M parameters, {dream.plan.nfe}{commits} looks a frame, {dream.context} frames "
          f"seen, {torch.get_num_threads()} threads, {dream.precision}")
    print(f"frames 100 to 200: {1e3 * found.early:.1f} ms (median)")
    print(f"last 100 of {found.frames:,}: {1e3 * found.late:.1f} ms (median), {1e3 * found.slow:.1f} ms (95 %)")
    print(f"late over early: {found.ratio:.3f}; memory gained in between: {found.grown / 2**20:.2f} MiB")
    return 0
