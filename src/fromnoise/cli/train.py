"""fromnoise train RECIPE [--out RUN] [--field value ...]"""

from __future__ import annotations

import shlex
from pathlib import Path

from fromnoise.cli.fields import parse_recipe
from fromnoise.config import nearest, to_dict
from fromnoise.recipe import Recipe, load_recipe
from fromnoise.recipes import RECIPES
from fromnoise.types import UserError

USAGE = """usage: fromnoise train RECIPE [--out RUN] [--field value ...]

RECIPE is the name of a recipe (fromnoise recipes), a recipe.json, or a run folder.  The run goes to RUN,
by default runs/<recipe>; the same command again goes on where it was stopped.

  fromnoise train digits
  fromnoise train digits --out runs/mine --train.steps 500 --net.width 64 --seed 1
  fromnoise train image --data ./photos
  fromnoise train digits --path cosine --net transformer

fromnoise train RECIPE --help lists every field of that recipe."""


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    named, args = find_recipe(argv[0]), argv[1:]
    out, args = take_out(args)
    recipe = parse_recipe(named, args, prog=f"fromnoise train {argv[0]}")
    folder = Path(out) if out else default_out(argv[0], recipe)

    from rich.console import Console

    from fromnoise.workflow import train_run

    console = Console(stderr=True)
    console.print(describe(recipe, named))
    showcase = train_run(recipe, folder, shlex.join(["fromnoise", "train", *argv]), console)
    console.print(showcase.report.table())
    print(f"{folder / 'index.html'}")
    return 0


def find_recipe(name: str) -> Recipe:
    """A recipe by name, or from a recipe.json or a run folder."""
    if name in RECIPES:
        return RECIPES[name]()
    path = Path(name)
    if path.is_dir():
        return load_recipe(path / "recipe.json")
    if path.suffix == ".json":
        return load_recipe(path)
    raise UserError(f'There is no recipe "{name}". {nearest(name, RECIPES)}')


def take_out(args: list[str]) -> tuple[str | None, list[str]]:
    """``--out`` and its value out of the arguments."""
    rest, out, i = [], None, 0
    while i < len(args):
        if args[i] == "--out":
            if i + 1 == len(args):
                raise UserError("--out needs a folder.")
            out, i = args[i + 1], i + 2
        elif args[i].startswith("--out="):
            out, i = args[i][6:], i + 1
        else:
            rest.append(args[i])
            i += 1
    return out, rest


def default_out(name: str, recipe: Recipe) -> Path:
    path = Path(name)
    return path if path.is_dir() else Path("runs") / recipe.name


def describe(recipe: Recipe, named: Recipe):
    """The resolved recipe as a tree; fields that differ from the named recipe stand out."""
    from rich.tree import Tree

    tree = Tree(f"[bold]{recipe.name}")

    def grow(branch, values: dict, base: dict) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                old = base.get(key)
                grow(branch.add(f"[cyan]{key}"), value, old if isinstance(old, dict) else {})
            else:
                changed = base.get(key, value if not base else None) != value
                text = f"{key}: {value}"
                branch.add(f"[bold yellow]{text}  (was {base.get(key)})" if changed else text)

    grow(tree, to_dict(recipe), to_dict(named))
    return tree
