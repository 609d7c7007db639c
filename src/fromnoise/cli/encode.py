"""fromnoise encode RECIPE --latents AUTOENCODER --out SHARDS"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from fromnoise.cli import train
from fromnoise.config import spec
from fromnoise.recipe import Recipe
from fromnoise.types import UserError

USAGE = """usage: fromnoise encode RECIPE --latents AUTOENCODER [--out SHARDS] [--field value ...]

RECIPE is the name of a recipe, a recipe.json, or a run folder.  The latents of its training data go to SHARDS, by
default runs/latent-cache, where runs beside it look for them; those that are there already are not made again.

  fromnoise encode shapes --latents runs/ae --encoding.examples 20000
  fromnoise encode image --data ./photos --latents ./vae --out shards
  fromnoise train image --data ./photos --latents ./vae --encoding.folder shards"""


@spec
class Arguments(train.Arguments):
    """A recipe, and where the latents of its data go."""

    out: Annotated[str, Field(min_length=1)]
    """The folder of the shards."""


def main(argv: list[str]) -> int:
    if argv and argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    from fromnoise.train.latent_cache import FOLDER
    from fromnoise.workflow import encode_data

    about = "What is there already is not encoded again."
    recipe, _, out = train.resolve(argv, "encode", {"diffusion": Arguments}, about, str(Path("runs") / FOLDER))
    if not isinstance(recipe, Recipe):
        raise UserError(f"{argv[0]} is a recipe of kind {recipe.kind}: name one of a diffusion model.")
    print(encode_data(recipe, out, run=Path(argv[0])))
    return 0
