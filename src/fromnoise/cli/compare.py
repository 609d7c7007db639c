"""fromnoise compare RECIPE VARIANT VARIANT ... [--seeds 3] [--field value ...]"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from fromnoise.cli.options import taken
from fromnoise.cli.train import resolve
from fromnoise.compare import (
    Job,
    gather,
    operations,
    run_jobs,
    same_operations,
    same_parameters,
    write_comparison,
)
from fromnoise.compare.match import size_of
from fromnoise.recipe import AnyRecipe
from fromnoise.types import UserError

USAGE = """usage: fromnoise compare RECIPE VARIANT VARIANT ... [--seeds N] [--parameters N] [--operations N]
                         [--jobs N] [--out FOLDER] [--dry] [--field value ...]

Trains every variant of RECIPE with several seeds and says how they differ, with error bars.  A VARIANT is a
preset (fromnoise presets), "base" for the recipe as it is, or "name: options" with any options of fromnoise train.
Options that are not listed here go to all variants.  The same command again goes on where it was stopped.

  --seeds N        how many seeds of each (3)
  --parameters N   bring every network to about so many parameters by its width (1000000, 1e6)
  --operations N   train every variant with so many operations (3e15); "equal": with those of the first variant
  --jobs N         runs at a time, one core each (all cores)
  --out FOLDER     where it all goes (comparisons/RECIPE)
  --dry            only say what would be trained

  fromnoise compare shapes cross double single --parameters 1e6 --operations equal
  fromnoise compare digits base "small: --net.width 16" "flow with eps: --objective.prediction eps" --seeds 5"""


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    argv, dry = flag(argv, "--dry")
    rest, said = argv, {}
    for option in ("--seeds", "--parameters", "--operations", "--jobs", "--out"):
        rest, said[option] = taken(rest, option)
    seeds, at_once = whole("--seeds", said["--seeds"] or "3"), whole("--jobs", said["--jobs"] or str(cores()))
    parameters, work = wanted(said["--parameters"], said["--operations"])
    variants, common = split(rest)
    out = Path(said["--out"] or Path("comparisons") / Path(rest[0]).stem)
    recipes = matched({name: recipe_of(rest[0], options, common) for name, options in variants.items()}, parameters,
                      work)
    jobs = [Job(name, replace(recipe, seed=seed, name=folder(name)), out / "runs" / f"{folder(name)}-{seed}")
            for seed in range(seeds) for name, recipe in recipes.items()]
    console = Console(stderr=True)
    for name, recipe in recipes.items():
        console.print(f"{name}: {size_of(recipe).parameters:,} parameters, {recipe.train.steps:,} steps of "
                      f"{recipe.train.batch}, {operations(recipe):.2e} operations", highlight=False, markup=False)
    if dry:
        return 0
    return run(jobs, at_once, out, argv, console)


def run(jobs: Sequence[Job], at_once: int, out: Path, argv: list[str], console: Console) -> int:
    """Train what is not trained, and write the page."""
    left = sum(job.report() is None for job in jobs)
    console.print(f"{len(jobs)} runs, {len(jobs) - left} of them done, {at_once} at a time, in {out}", markup=False)
    failed = run_jobs(jobs, at_once, Teller(console, left))
    found = gather(jobs)
    if not found.outcomes:
        raise UserError(f"No run ended well: the words of each are in {out / 'runs'}.")
    command = shlex.join(["fromnoise", "compare", *argv])
    page = write_comparison(out, f"fromnoise: {out.name}", command, found, jobs)
    print(found.markdown())
    print(page)
    if failed:
        names = ", ".join(job.out.name for job in failed)
        raise UserError(f"{len(failed)} of {len(jobs)} runs failed ({names}): their words are in {out / 'runs'}, and "
                        "the same command tries them again.")
    return 0


class Teller:
    """A line for every run that starts or ends, with the time that is left."""

    def __init__(self, console: Console, total: int):
        self.console, self.total, self.done, self.start = console, total, 0, time.monotonic()

    def __call__(self, job: Job, what: str) -> None:
        if what != "started":
            self.done += 1
        gone = time.monotonic() - self.start
        left = f", about {gone / self.done * (self.total - self.done) / 60:.0f} min left" if self.done else ""
        self.console.print(f"{job.out.name} {what} ({self.done} of {self.total} ended{left})", highlight=False,
                           markup=False)


# ---- what the arguments ask for -------------------------------------------------------------------------


def split(argv: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """({variant: its own options}, options of all) of ``RECIPE VARIANT ... --field value ...``."""
    words = next((i for i, word in enumerate(argv) if word.startswith("--")), len(argv))
    if words == 0:
        raise UserError("Name a recipe first: fromnoise compare shapes cross double.")
    found: dict[str, list[str]] = {}
    for text in argv[1:words]:
        name, colon, options = text.partition(":")
        own = shlex.split(options) if colon else [] if name == "base" else ["--preset", name]
        if name in found:
            raise UserError(f'There are two variants called "{name}": give one of them another name, "name: options".')
        found[name] = own
    if len(found) < 2:
        raise UserError("Name two variants at least: presets, base, or \"name: --field value\".")
    return found, argv[words:]


def recipe_of(base: str, own: list[str], common: list[str]) -> AnyRecipe:
    """The recipe of a variant, whose own options win, on one thread so that several runs share the cores."""
    recipe, _, _ = resolve([base, *common, *own])
    threads = recipe.train.threads or 1
    return replace(recipe, train=replace(recipe.train, threads=threads))


def wanted(size: str | None, work: str | None) -> tuple[int | None, float | str | None]:
    """(parameters, operations or "equal") that every variant should have, None where nothing is asked for."""
    parameters = None if size is None else int(number("--parameters", size))
    return parameters, work if work in (None, "equal") else number("--operations", work)


def matched(recipes: dict[str, AnyRecipe], parameters: int | None, work: float | str | None) -> dict[str, AnyRecipe]:
    """The recipes at the same size and with the same work, where that is ``wanted``."""
    if parameters is not None:
        recipes = {name: same_parameters(recipe, parameters) for name, recipe in recipes.items()}
    if work is not None:
        total = work if isinstance(work, float) else operations(next(iter(recipes.values())))
        recipes = {name: same_operations(recipe, total) for name, recipe in recipes.items()}
    return recipes


def flag(argv: list[str], name: str) -> tuple[list[str], bool]:
    return [word for word in argv if word != name], name in argv


def whole(option: str, text: str) -> int:
    """A whole number that is 1 or more."""
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"{option} should be a whole number that is 1 or more (got {text}).")
    return int(text)


def number(option: str, text: str) -> float:
    """A positive number, 1e6 as well as 1000000."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"{option} should be a positive number (got {text}).")
    return value


def folder(name: str) -> str:
    """A variant's name as that of a folder."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)


def cores() -> int:
    from fromnoise.train.threads import available_cores

    return available_cores()
