"""fromnoise train RECIPE [--preset SYSTEM] [--out RUN] [--field value ...]"""

from __future__ import annotations

import shlex
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

from pydantic import Field
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fromnoise.cli.fields import Values, kinds
from fromnoise.cli.options import parse, taken
from fromnoise.config import from_dict, nearest, spec, to_dict
from fromnoise.folders import whereabouts
from fromnoise.opening import with_autoencoder
from fromnoise.process import describe_weighting
from fromnoise.recipe import (
    AnyRecipe,
    Coder,
    Latents,
    Recipe,
    changes,
    doubts,
    load_recipe,
    named_outside,
    without_effect,
)
from fromnoise.recipes import RECIPES
from fromnoise.recipes.presets import with_preset
from fromnoise.types import UserError

USAGE = """usage: fromnoise train RECIPE [--preset SYSTEM] [--out RUN] [--field value ...]

RECIPE is the name of a recipe (fromnoise recipes), a recipe.json, or a run folder.  The run goes to RUN,
by default runs/<recipe>; the same command again goes on where it was stopped.

  fromnoise train digits
  fromnoise train digits --out runs/mine --train.steps 500 --net.width 64 --seed 1
  fromnoise train digits --net transformer --path cosine
  fromnoise train image --data ./photos
  fromnoise train shapes --latents runs/ae   (in the latents of a trained autoencoder)
  fromnoise train shapes --preset sd3   (a published system, small: fromnoise presets)

fromnoise train RECIPE --help lists every field of that recipe, with its value and its meaning."""


@spec
class Place:
    """Where a run goes."""

    out: Annotated[str, Field(min_length=1)]
    """The run folder."""


@spec
class Arguments(Place, Recipe):
    """A recipe and where its run goes."""


@spec
class CoderArguments(Place, Coder):
    """A recipe of an autoencoder and where its run goes."""


ARGUMENTS = {"diffusion": Arguments, "autoencoder": CoderArguments}  # by the kind of the recipe


def main(argv: list[str]) -> int:
    if argv and argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    recipe, named, out = resolve(argv)
    from fromnoise.workflow import summary, train_run

    console = Console(stderr=True)
    for name in named_outside(recipe):
        whereabouts(name)
    summary(recipe, console)  # whatever is not there is said before anything else
    console.print(describe(recipe, named, out))
    for field in changes(named, recipe).keys() & (idle := without_effect(recipe)).keys():
        console.print(f"--{field.replace('_', '-')} has no effect here: {idle[field]}.", highlight=False, markup=False)
    for sentence in doubts(recipe):
        console.print(sentence, highlight=False, markup=False)
    showcase = train_run(recipe, out, shlex.join(["fromnoise", "train", *argv]), console)
    if showcase.report is not None:
        console.print(showcase.report.table())
    print(out / "index.html")
    return 0


def resolve(argv: list[str], command: str = "train", arguments: dict[str, type[Place]] = ARGUMENTS,
            about: str = "The same command again goes on where a run was stopped.",
            out: str = "") -> tuple[AnyRecipe, AnyRecipe, Path]:
    """(the recipe to train, the recipe as named, the folder to write) that the arguments of a command ask for.

    arguments: by the kind of the recipe;  out: that folder where none is asked for, by default the run's.
    """
    if not argv or argv[0].startswith("-"):
        raise UserError(f"Name a recipe first: fromnoise {command} digits (`fromnoise recipes` lists them).")
    argv, preset = taken(argv, "--preset")
    named = find_recipe(argv[0])
    argv, autoencoder = taken_autoencoder(argv) if isinstance(named, Recipe) else (argv, None)
    if preset is not None:
        if not isinstance(named, Recipe):
            raise UserError(f"--preset is for diffusion models, and {argv[0]} is a recipe of kind {named.kind}.")
        named = with_preset(named, preset)
    if autoencoder is not None and isinstance(named, Recipe):
        named = behind(named, autoencoder, Path(taken(argv, "--out")[1] or default_out(argv[0], named)))
    if named.kind not in arguments:
        raise UserError(f"fromnoise {command} is for diffusion models, and {argv[0]} is a recipe of kind {named.kind}.")
    values = {**to_dict(named), "out": out or default_out(argv[0], named)}
    about = f"{first_line(argv[0])}\n\n{about}"
    chosen = to_dict(parse(arguments[named.kind], argv[1:], f"fromnoise {command} {argv[0]}", values, about))
    folder = Path(chosen.pop("out"))
    return from_dict(type(named), chosen), named, folder


def taken_autoencoder(argv: list[str]) -> tuple[list[str], str | None]:
    """The arguments without ``--latents FOLDER``, and the folder; ``--latents kl`` and such stay."""
    rest, value = taken(argv, "--latents")
    return (argv, None) if value is None or value in kinds(Latents) else (rest, value)


def behind(recipe: Recipe, autoencoder: str, out: Path) -> Recipe:
    """The recipe in the latents of the autoencoder in a folder, which a run that has begun need not read again."""
    if (out / "recipe.json").is_file():
        begun = load_recipe(out / "recipe.json")
        if isinstance(begun, Recipe) and begun.encoding.source == autoencoder:
            encoding = replace(recipe.encoding, source=autoencoder, sha256=begun.encoding.sha256)
            return replace(recipe, latents=begun.latents, encoding=encoding)
    alike = get_close_matches(autoencoder, kinds(Latents), n=1, cutoff=0.5)
    if alike and not Path(autoencoder).exists():
        raise UserError(f'There is no folder {autoencoder}. Did you mean the kind of latents "{alike[0]}"?')
    return with_autoencoder(recipe, autoencoder)


def find_recipe(name: str) -> AnyRecipe:
    """A recipe by name, or from a recipe.json or a run folder."""
    if name in RECIPES:
        return RECIPES[name]()
    path = Path(name)
    if path.is_dir():
        return load_recipe(path / "recipe.json")
    if path.suffix == ".json":
        return load_recipe(path)
    raise UserError(f'There is no recipe "{name}". {nearest(name, RECIPES)}')


def default_out(name: str, recipe: AnyRecipe) -> str:
    """The run folder itself where a run is named as the recipe, otherwise one by the recipe's name."""
    return name if name not in RECIPES and Path(name).is_dir() else str(Path("runs") / recipe.name)


def first_line(name: str) -> str:
    """What a recipe is."""
    return (RECIPES[name].__doc__ or "").strip().splitlines()[0] if name in RECIPES else f"The recipe in {name}."


# ---- the resolved recipe --------------------------------------------------------------------------------


def describe(recipe: AnyRecipe, named: AnyRecipe, out: Path) -> Table:
    """The resolved recipe, a line for each part; values that differ from the named recipe stand out."""
    table = Table(title=f"{recipe.name} -> {out}", title_justify="left", title_style="bold", box=None,
                  show_header=False, pad_edge=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for name, words in rows(to_dict(recipe), to_dict(named)):
        table.add_row(name, words)
        if name == "objective.weighting" and isinstance(recipe, Recipe):
            words = describe_weighting(recipe.objective, recipe.path)
            table.add_row("", f"effective weighting over log-SNR: {words}")
    return table


def rows(values: Values, base: Values, prefix: str = "") -> list[tuple[str, Text]]:
    """(part, its values in words), inner parts after the outer ones."""
    kind, old = values.get("kind"), base.get("kind")
    words = [Text(kind, "bold") if kind == old else changed(kind, old)] if kind else []
    inner: list[tuple[str, Text]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            old_value = base.get(key)  # of another kind it may be no part
            inner += rows(value, old_value if isinstance(old_value, dict) else {}, f"{prefix}{key}.")
        elif key != "kind":
            same = value == base.get(key) or kind != old
            words.append(Text(f"{key} {shown(value)}") if same else changed(f"{key} {shown(value)}", base.get(key)))
    return [(prefix.rstrip("."), Text(", ").join(words)), *inner] if words else inner


def changed(text: str, old: object) -> Text:
    return Text(f"{text} (was {shown(old)})", "bold yellow")


def shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)
