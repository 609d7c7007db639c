"""fromnoise demo"""

from __future__ import annotations

from pathlib import Path

from fromnoise.cli.options import parse
from fromnoise.config import spec


@spec
class Arguments:
    """Train and show the default models in a couple of minutes."""

    out: str = "runs/demo"
    """Where runs and page go."""


def main(argv: list[str]) -> int:
    args = parse(Arguments, argv, "fromnoise demo", about="Train and show the default models in a couple of minutes.")
    from fromnoise.demo import demo

    print(demo(Path(args.out)))
    return 0
