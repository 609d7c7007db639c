"""fromnoise play RUN"""

from __future__ import annotations

from typing import Annotated, Literal

import tyro
from pydantic import Field

from fromnoise.cli.options import parse
from fromnoise.config import spec

ABOUT = """A world to play in the browser, with the real environment beside it where that is installed.

fromnoise play runs/pong

fromnoise play runs/pong --steps 1 --fps 30 --port 9000

fromnoise play runs/pong --host 0.0.0.0 --no-browser     (for other machines too)"""


@spec
class Arguments:
    """Which world is played, how it is sampled, and where the page is."""

    run: tyro.conf.Positional[str] = ""
    """A run folder of a world; without one, the world that comes with fromnoise."""
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Where to listen: 127.0.0.1 is this machine alone, 0.0.0.0 every machine that reaches this one."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """The port; 0: any that is free."""
    fps: Annotated[float, Field(ge=0, le=240)] = 0.0
    """Frames a second; 0: as the environment is played."""
    steps: Annotated[int, Field(ge=0, le=1000)] = 0
    """Solver steps of a frame; 0: as the recipe says."""
    solver: str = ""
    """The solver; by default as the recipe says."""
    guidance: float | None = None
    """The scale of guidance on actions; by default as the recipe says."""
    context: Annotated[int, Field(ge=0)] = 0
    """Frames that the model looks back at; 0: as in training."""
    commit: Literal["clean", "last"] = "clean"
    """What is remembered of a frame: clean, by one look more at it, or as its last evaluation saw it (last)."""
    sessions: Annotated[int, Field(ge=1, le=1000)] = 4
    """How many may play at once."""
    idle: Annotated[float, Field(gt=0)] = 600.0
    """Seconds after which a session that nobody plays is ended."""
    real: bool = True
    """Whether the real environment stands beside the world."""
    browser: bool = True
    """Whether the page is opened at once."""
    device: str = "auto"
    """cpu, cuda, or auto: the best that is there."""


def main(argv: list[str]) -> int:
    args = parse(Arguments, argv, "fromnoise play", about=ABOUT)
    from fromnoise.worlds.play.serving import listening, serve, serving_of

    serving = serving_of(args.run or None, args.real, args.sessions, args.idle, args.fps, args.device,
                         steps=args.steps, solver=args.solver, guidance=args.guidance, context=args.context,
                         commit=args.commit)
    with listening(args.host, args.port) as sockets:
        serve(serving, sockets, args.browser)
    return 0
