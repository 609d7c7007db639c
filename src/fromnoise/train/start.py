"""Beginning with the weights of another run.

As an expert branches off a denoiser of all noise levels (eDiff-I), or an image model is inflated to films by layers
along time, which begin as the identity (Make-A-Video, Align Your Latents, AnimateDiff).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fromnoise.recipe import AnyRecipe, Recipe, load_recipe
from fromnoise.system import TEMPORAL, Built, System, load_system, mismatch
from fromnoise.types import UserError
from fromnoise.weights import digest


def with_start(recipe: AnyRecipe, out: Path) -> AnyRecipe:
    """The recipe with the hash of the weights that its run in ``out`` begins with.

    A run that has begun keeps that which it wrote down, so that the folder of the other may go.  UserError as for
    ``load_system``.
    """
    if not isinstance(recipe, Recipe) or not recipe.train.start.run or recipe.train.start.sha256:
        return recipe
    start = recipe.train.start
    begun = load_recipe(out / "recipe.json") if (out / "recipe.json").is_file() else None
    if isinstance(begun, Recipe) and begun.train.start.run == start.run:
        sha256 = begun.train.start.sha256
    else:
        sha256 = weights_hash(other(start.run))
    return replace(recipe, train=replace(recipe.train, start=replace(start, sha256=sha256)))


def begin(recipe: AnyRecipe) -> System | None:
    """The system whose weights, and tokenizer, training begins with; None where they are random.

    UserError where they are not those that the recipe was made with, or where what is not trained would be random.
    """
    if not isinstance(recipe, Recipe):
        return None
    if not recipe.train.start.run:
        if recipe.train.only != "all":
            raise UserError(f'train.only "{recipe.train.only}" leaves the rest of the network as it is: name the run '
                            "that it is of with train.start.")
        return None
    found = other(recipe.train.start.run)
    if weights_hash(found) != recipe.train.start.sha256:
        raise UserError(f"The weights in {recipe.train.start.run} are not those that the recipe was made with: put "
                        "them back, or leave train.start.sha256 out.")
    return found


def fill(system: Built, start: System) -> None:
    """Give a new system the weights of another, whose network may lack layers along time.

    UserError where their networks differ in anything else, or where what will not be trained was trained for another
    task: with another path or prediction.
    """
    run, own, tensors = system.recipe.train.start.run, system.state_dict(), start.state_dict()
    if not any(name.startswith(TEMPORAL) for name in tensors):
        tensors |= {name: value for name, value in own.items() if name.startswith(TEMPORAL)}
    if wrong := mismatch({name: value.shape for name, value in own.items()}, tensors):
        raise UserError(f"Training cannot begin with the weights in {run}, whose network is another: {wrong}.")
    if system.recipe.train.only != "all":
        told = [(recipe.path, recipe.objective.prediction) for recipe in (system.recipe, start.recipe)]
        if told[0] != told[1]:
            raise UserError(f"{run} was trained with another path or prediction, and train.only would leave it so: "
                            "choose its path and objective.prediction, or train all.")
    system.load_state_dict(tensors)


def other(run: str) -> System:
    """The system of the run of a diffusion model."""
    found, _, _ = load_system(run, "cpu")
    if not isinstance(found, System):
        raise UserError(f"{run} holds an autoencoder, and train.start is for diffusion models: name another run.")
    return found


def weights_hash(system: System) -> str:
    return digest(system.state_dict(), {})
