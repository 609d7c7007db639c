"""Beginning with the weights of another run, as an expert branches off a denoiser of all noise levels (eDiff-I)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from fromnoise.recipe import AnyRecipe, Recipe, load_recipe
from fromnoise.system import Built, System, load_system, mismatch
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

    UserError where they are not those that the recipe was made with.
    """
    if not isinstance(recipe, Recipe) or not recipe.train.start.run:
        return None
    found = other(recipe.train.start.run)
    if weights_hash(found) != recipe.train.start.sha256:
        raise UserError(f"The weights in {recipe.train.start.run} are not those that the recipe was made with: put "
                        "them back, or leave train.start.sha256 out.")
    return found


def fill(system: Built, start: System) -> None:
    """Give a new system the weights of another.  UserError where their networks differ."""
    tensors: dict[str, Any] = start.state_dict()
    if wrong := mismatch({name: t.shape for name, t in system.state_dict().items()}, tensors):
        raise UserError(f"Training cannot begin with the weights in {system.recipe.train.start.run}, whose network is "
                        f"another: {wrong}.")
    system.load_state_dict(tensors)


def other(run: str) -> System:
    """The system of the run of a diffusion model."""
    found, _, _ = load_system(run, "cpu")
    if not isinstance(found, System):
        raise UserError(f"{run} holds an autoencoder, and train.start is for diffusion models: name another run.")
    return found


def weights_hash(system: System) -> str:
    return digest(system.state_dict(), {})
