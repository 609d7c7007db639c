"""fromnoise sample RUN "a prompt" [...]"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import Field

from fromnoise.cli.fields import defaults
from fromnoise.cli.options import parse
from fromnoise.config import spec, to_dict
from fromnoise.denoise import Guidance, Guided
from fromnoise.generate import read_picture
from fromnoise.opening import load_model
from fromnoise.recipe import Recipe, changes, differences, load_diffusion, read_recipe
from fromnoise.settings import Settings
from fromnoise.text import parts
from fromnoise.train.memory import keep_freed_memory
from fromnoise.types import UserError

ABOUT = """Pictures from a trained run.

fromnoise sample runs/digits "a handwritten seven" "the digit 3" --n 8

fromnoise sample runs/digits "the digit 3" --guidance 3 --guidance.interval 0.2 0.8 --guidance.method apg

fromnoise sample --like picture.png

fromnoise sample --like picture.png "another prompt" --n 2"""


@spec
class Arguments:
    """What to sample, and how.  What is not said is as in the recipe, or as in the picture of --like."""

    run: tyro.conf.Positional[str] = ""
    """The run folder; not needed with --like, where a text that is no folder is a prompt."""
    prompts: tyro.conf.Positional[tuple[str, ...]] = ()
    """What to show; without any, pictures of nothing in particular."""
    prompts_file: str | None = None
    """A text file with one prompt a line, besides those given."""
    n: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Samples of each prompt; by default 4."""
    out: str | None = None
    """The PNG to write; by default the next free sample-0001.png in the run's samples folder."""
    steps: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Solver steps."""
    guidance: Guided = Guidance()
    """Guidance; a number alone is its scale, of which 1 is none."""
    solver: str | None = None
    """auto, dpmpp_2m or another name of docs/solvers.md, or one of `fromnoise tune`: tuned-8."""
    size: str | None = None
    """WIDTHxHEIGHT in pixels, such as 64x48."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Fixes the noise; by default 0."""
    negative: str | None = None
    """What to steer away from."""
    compose: bool = False
    """AND and NOT in a prompt join and exclude what stands on their sides: "a red circle AND a blue square"."""
    weighted: bool = False
    """Brackets weigh words: "a (red:1.3) circle", "[faint]"; \\( is a bracket."""
    long: bool = False
    """A prompt that is too long is read in windows, one after the other, and not cut."""
    like: str | None = None
    """A PNG that fromnoise saved: make it again, but for what is said otherwise."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto takes a GPU where there is one."""


def main(argv: list[str]) -> int:
    args, usual = read(argv)
    if args.out is not None and Path(args.out).suffix.lower() != ".png":
        raise UserError(f"--out is a .png file, which keeps samples exact (got {args.out}).")
    if args.like is not None and not args.prompts and not os.path.isdir(args.run):
        args = replace(args, run="", prompts=(args.run,) if args.run else ())
    picture = read_picture(args.like) if args.like is not None else None
    if picture and picture["settings"].given_noise:
        raise UserError(f"{args.like} was made from noise that was given in Python and is not in the file: "
                        "make it again with Model.sample and the same noise.")
    run = args.run or (picture["run"] if picture else "")
    if not run:
        raise UserError('Name a run folder: fromnoise sample runs/digits "a handwritten seven".')
    prompts, settings = wanted(args, picture["settings"] if picture else None)
    for sentence in without_effect(usual, args, prompts):
        say(sentence)
    model = load_model(run, args.device)
    keep_freed_memory()
    if picture and not draws_alike(picture["recipe"], model.recipe):
        say(f"{run} is of another recipe than the picture, which will not come out the same.")
    output = model.sample(prompts, **settings)
    if output.settings.solver == "auto":
        say(f"{output.info.solver}, {output.info.nfe} evaluations")
    for note in output.notes:
        say(note)
    print(output.save(args.out or next_free(Path(run) / "samples"), columns=columns_of(prompts)))
    return 0


def read(argv: list[str]) -> tuple[Arguments, Guidance]:
    """(the arguments, the guidance that they change): which options there are depends on the method of the latter."""
    argv = [re.sub(r"^--sample\.", "--", word) for word in argv]  # a field of a recipe by its full name
    pairs = list(zip(["", *argv], argv, strict=False))
    run = next((word for before, word in pairs if before != "--guidance.guide" and is_run(word)), "")
    like = next((word for before, word in pairs if before == "--like"), None)
    args, usual = parse_over(argv, run, like)
    if (args.run, args.like) != (run, like):  # the guess was wrong, which is known now
        args, usual = parse_over(argv, args.run, args.like)
    return args, usual


def parse_over(argv: list[str], run: str, like: str | None) -> tuple[Arguments, Guidance]:
    """(the arguments, the guidance) over what the picture says, or else the recipe of the run."""
    usual, flags = Guidance(), {}
    if like is not None:
        settings = read_picture(like)["settings"]
        usual, flags = settings.guidance, {name: getattr(settings, name) for name in ("compose", "weighted", "long")}
    elif is_run(run):
        usual = load_diffusion(Path(run) / "recipe.json").sample.guidance
    values = defaults(Arguments) | {"guidance": to_dict(usual), **flags}
    return parse(Arguments, argv, "fromnoise sample", values, ABOUT), usual


def is_run(word: str) -> bool:
    return os.path.isfile(os.path.join(word, "recipe.json"))


def without_effect(usual: Guidance, args: Arguments, prompts: list[str]) -> list[str]:
    """A sentence for every option of guidance that was said in vain."""
    guidance = args.guidance
    joined = args.compose and any(len(wanted) + len(excluded) > 1 for wanted, excluded in map(parts, prompts))
    said = {f"guidance.{field}" for field in changes(usual, guidance)} | {"compose"}
    idle = {f"guidance.{field}": why for field, why in guidance.idle(others=joined).items()}
    if args.compose and not joined:
        idle["compose"] = "no prompt has AND or NOT in it"
    if args.weighted and not any(set(prompt) & set("()[]") for prompt in prompts):
        said.add("weighted")
        idle["weighted"] = "no prompt has a bracket in it"
    if args.negative and (guidance.guide is not None or (guidance.inert and not joined)):
        said.add("negative")
        idle["negative"] = "guidance is 1 at all times" if guidance.inert else "the guide stands in its place"
    return [f"--{field.replace('_', '-')} has no effect here: {why}." for field, why in idle.items() if field in said]


def draws_alike(said: dict[str, Any], recipe: Recipe) -> bool:
    """Whether the recipe that a picture names makes the same pictures; its name, judging and such may differ."""
    try:
        other = read_recipe(said, "the picture")
    except UserError:
        return False
    if not isinstance(other, Recipe):
        return False
    grids = [(r.sample.grid, r.sample.shift) for r in (other, recipe)]
    return not differences(other, recipe) and grids[0] == grids[1]


def wanted(args: Arguments, like: Settings | None) -> tuple[list[str], dict[str, Any]]:
    """(every prompt n times, the other settings): those of ``like``, if there is one, unless said otherwise."""
    said = {"steps": args.steps, "guidance": args.guidance, "solver": args.solver, "size": size_of(args.size),
            "seed": args.seed, "negative": args.negative, "compose": args.compose, "weighted": args.weighted,
            "long": args.long}
    prompts = [*args.prompts, *(read_prompts(args.prompts_file) if args.prompts_file is not None else [])]
    base: dict[str, Any] = {"seed": 0, "negative": ""}
    if like is not None:
        base = {name: getattr(like, name) for name in (*said, "first")}
        if not prompts and args.n is None:
            return like.prompts, base | {k: v for k, v in said.items() if v is not None}
        prompts = prompts or list(dict.fromkeys(like.prompts))
    repeated = [prompt for prompt in prompts or [""] for _ in range(args.n or 4)]
    return repeated, base | {k: v for k, v in said.items() if v is not None}


def columns_of(prompts: list[str]) -> int | None:
    """The samples of a prompt, where there are several prompts with as many each, so that each has its rows."""
    counts = set(Counter(prompts).values())
    n = counts.pop()
    return n if not counts and 1 < n <= 12 and n < len(prompts) else None


def read_prompts(path: str) -> list[str]:
    """The lines of a prompt file that are not empty."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"There is no prompt file {path}.") from None
    except (OSError, UnicodeDecodeError):
        raise UserError(f"The prompt file {path} cannot be read: give a UTF-8 text file, a prompt a line.") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"The prompt file {path} is empty: write one prompt a line.")
    return prompts


def size_of(text: str | None) -> tuple[int, int] | None:
    """"64x48" as (height 48, width 64)."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text.lower())
    if found is None:
        raise UserError(f'--size is WIDTHxHEIGHT, such as 64x48 (got "{text}").')
    return int(found[2]), int(found[1])


def next_free(folder: Path) -> Path:
    """``sample-0001.png`` or the first number after those that are there."""
    taken = [int(m[1]) for p in folder.glob("sample-*.png") if (m := re.fullmatch(r"sample-(\d+)", p.stem))]
    return folder / f"sample-{max(taken, default=0) + 1:04d}.png"


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr)
