"""fromnoise demo"""

from __future__ import annotations

from pathlib import Path

from fromnoise.cli.fields import parse
from fromnoise.config import spec


@spec
class Arguments:
    """Train and show the default models in a couple of minutes."""

    out: str = "runs/demo"
    """Where runs and page go."""


def main(argv: list[str]) -> int:
    args = parse(Arguments, Arguments(), argv, "fromnoise demo")
    from fromnoise.demo import demo

    print(demo(Path(args.out)))
    return 0
