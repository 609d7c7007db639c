"""fromnoise presets [NAME [--diff OTHER] [--field value ...]]"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from fromnoise.cli.options import parse, taken
from fromnoise.cli.train import shown
from fromnoise.config import to_dict
from fromnoise.nets import Trunk
from fromnoise.nets.trunk.presets import PRESETS
from fromnoise.recipes.presets import published
from fromnoise.types import UserError

USAGE = """usage: fromnoise presets [NAME [--diff OTHER] [--field value ...]]

Without NAME: the published systems whose network is a setting of the trunk.
With it: every field of that network, at its published size.

  fromnoise presets flux2
  fromnoise presets flux2 --diff sd3
  fromnoise presets flux2 --attention.qk-norm none --width 3072

fromnoise train shapes --preset NAME trains one at the size of a laptop."""


def main(argv: list[str]) -> int:
    if argv and argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if not argv:
        return listing()
    if argv[0].startswith("-"):
        raise UserError("Name a preset first: fromnoise presets sd3 (`fromnoise presets` lists them).")
    name, rest = argv[0], argv[1:]
    rest, other = taken(rest, "--diff")
    spec = published(name)()
    changed = parse(Trunk, rest, f"fromnoise presets {name}", to_dict(spec), f"The trunk of {name}.")
    changed.check()
    mine, base = flat(to_dict(changed)), flat(to_dict(published(other)() if other else spec))
    console = Console()
    if other is None:
        console.print(fields(mine, base, changed=bool(rest)))
    else:
        console.print(difference(mine, base, name, other))
    return 0


def listing() -> int:
    """Names and what they are."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, make in PRESETS.items():
        table.add_row(f"[bold]{name}", (make.__doc__ or "").strip().splitlines()[0])
    Console().print(table)
    print("\nfromnoise presets NAME shows one, --diff OTHER what is different; "
          "fromnoise train shapes --preset NAME trains it, small.")
    return 0


def flat(values: dict, prefix: str = "") -> dict[str, object]:
    """``{"attention.heads": 24, ...}``."""
    found: dict[str, object] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def fields(mine: dict[str, object], base: dict[str, object], changed: bool) -> Table:
    """Every field; changed ones stand out."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in mine.items():
        new = changed and value != base.get(key)
        table.add_row(f"[cyan]{key}", shown(value), f"[bold yellow](was {shown(base.get(key))})" if new else "")
    return table


def difference(mine: dict[str, object], base: dict[str, object], name: str, other: str) -> Table:
    """The fields in which two networks differ."""
    table = Table(box=None, pad_edge=False)
    for title in ("field", name, other):
        table.add_column(title)
    for key in [*mine, *(key for key in base if key not in mine)]:
        if mine.get(key) != base.get(key):
            table.add_row(f"[cyan]{key}", *(shown(v[key]) if key in v else "-" for v in (mine, base)))
    return table
