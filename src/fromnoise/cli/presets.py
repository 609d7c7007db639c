"""fromnoise presets [NAME [--diff OTHER] [--field value ...]]"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from fromnoise.cli.options import parse, taken
from fromnoise.cli.train import shown
from fromnoise.config import to_dict
from fromnoise.nets import Trunk, UNet
from fromnoise.nets.published import MEDIA, PUBLISHED, published, published_count, resolve
from fromnoise.types import UserError

USAGE = """usage: fromnoise presets [NAME [--diff OTHER] [--field value ...]]

Without NAME: the published systems whose network is a setting of the trunk or of the U-Net.
With it: every field of that network, at its published size, and what it costs.

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
    name, rest = resolve(argv[0]), argv[1:]
    rest, other = taken(rest, "--diff")
    spec = published(name)()
    changed = parse(type(spec), rest, f"fromnoise presets {name}", to_dict(spec), f"The network of {name}.")
    changed.check()
    console = Console()
    if other is None:
        console.print(fields(flat(to_dict(changed)), flat(to_dict(spec)), changed=bool(rest)))
        print(f"\n{cost(name, changed)}")
        return 0
    other = resolve(other)
    against = published(other)()
    console.print(difference(flat(to_dict(changed)), flat(to_dict(against)), name, other))
    print(f"\n{cost(name, changed)}\n{cost(other, against)}")
    return 0


def cost(name: str, spec: Trunk | UNet) -> str:
    """Parameters, and operations of a forward pass on what the network was published for, in a sentence."""
    media = MEDIA[name]
    given = f"x of {media.channels}x{media.size[0]}x{media.size[1]}"
    given += f" in {media.frames} frames" if media.frames > 1 else ""
    given += f" and {media.words} words of {media.text_width} features" if media.text_width else ""
    try:
        found = published_count(name, spec)
    except UserError as reason:
        return f"{name} cannot be counted on {given}: {reason}"
    return (f"{name}: {amount(found.parameters)} parameters; a forward pass on {given} takes "
            f"{amount(found.flops)} FLOPs ({amount(found.multiply_adds)} multiply-adds)")


def amount(number: float) -> str:
    """A large number in words: 2.03 billion."""
    for unit in ("", " thousand", " million", " billion"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} trillion"


def listing() -> int:
    """Names and what they are."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, make in PUBLISHED.items():
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
