"""fromnoise recipes"""

from __future__ import annotations


def main(argv: list[str]) -> int:
    from rich.console import Console
    from rich.table import Table

    from fromnoise.recipes import RECIPES

    table = Table("recipe", "what it is", box=None, pad_edge=False)
    for name, make in RECIPES.items():
        table.add_row(f"[bold]{name}", (make.__doc__ or "").strip().splitlines()[0])
    Console().print(table)
    return 0
