"""fromnoise recipes"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from fromnoise.cli.options import parse
from fromnoise.cli.train import first_line
from fromnoise.config import spec
from fromnoise.recipes import RECIPES


@spec
class Arguments:
    """The list takes no options."""


def main(argv: list[str]) -> int:
    parse(Arguments, argv, "fromnoise recipes", about="List the named recipes.")
    table = Table(box=None, show_header=False, pad_edge=False)
    for name in RECIPES:
        table.add_row(f"[bold]{name}", first_line(name))
    Console().print(table)
    print("\nfromnoise train RECIPE trains one; fromnoise train RECIPE --help lists its fields.")
    return 0
