"""fromnoise ema RUN --sigma-rel 0.15"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

from fromnoise.cli.options import parse
from fromnoise.config import spec
from fromnoise.types import UserError

ABOUT = """Another average of the weights of a run, after training: any width, from snapshots of two.

fromnoise train shapes --train.snapshots 16

fromnoise ema runs/shapes --sigma-rel 0.15

fromnoise evaluate runs/shapes-ema-0.15"""


@spec
class Arguments:
    """Which run, and how wide an average."""

    run: tyro.conf.Positional[str] = ""
    """The run folder, trained with train.snapshots."""
    sigma_rel: Annotated[float, Field(gt=0, lt=0.28)] = 0.1
    """Width of the average, relative to the training length (EDM2's sigma_rel)."""
    step: Annotated[int, Field(ge=1)] | None = None
    """The step up to which is averaged; by default that of the last snapshot."""
    out: str = ""
    """The new run folder; by default the run's name with the width behind it."""


def main(argv: list[str]) -> int:
    args = parse(Arguments, argv, "fromnoise ema", about=ABOUT)
    if not args.run:
        raise UserError("Name a run folder: fromnoise ema runs/shapes --sigma-rel 0.15.")
    from fromnoise.recipe import load_recipe
    from fromnoise.system import Coding, load_system
    from fromnoise.train.methods.end_to_end import EndToEndCoder
    from fromnoise.train.methods.reconstruction import save_statistics
    from fromnoise.train.snapshots import reconstruct
    from fromnoise.weights import load_weights, save_weights

    run = Path(args.run)
    out = Path(args.out) if args.out else run.with_name(f"{run.name}-ema-{args.sigma_rel:g}")
    recipe = load_recipe(run / "recipe.json")
    if out.exists():
        raise UserError(f"{out} is there already: choose another folder with --out.")
    tensors, tokenizer, _, words = load_weights(run)
    averages, step, error = reconstruct(run, args.sigma_rel, args.step)
    save_weights(out, tensors | averages, tokenizer, step, words)  # what is not learned stays as it is
    name = f"{recipe.name}-ema-{args.sigma_rel:g}"
    replace(recipe, name=name, train=replace(recipe.train, ema=args.sigma_rel, snapshots=0)).save(out / "recipe.json")
    system = load_system(out, "cpu")[0]
    if isinstance(system, Coding):
        save_statistics(system, out, recipe.data.open("train"), step)
    elif system.recipe.joint:
        EndToEndCoder(system).conclude(recipe.data.open("train"))  # type: ignore[arg-type]
        save_weights(out, system.state_dict(), tokenizer, step, words)
    print(f"{out}: the average of width {args.sigma_rel:g} after step {step}; its profile is met to {error:.2%}.")
    return 0
