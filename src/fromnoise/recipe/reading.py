"""recipe.json read: of this library and of older ones, and everything else refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fromnoise
from fromnoise.config import from_dict, nearest, read_json
from fromnoise.recipe.kinds import KINDS, AnyRecipe, Recipe
from fromnoise.recipe.saved import FORMAT, OLDEST
from fromnoise.types import UserError


def load_recipe(path: Path) -> AnyRecipe:
    """The recipe in a file.  UserError where it is missing, damaged, newer than this library, or wrong."""
    return read_recipe(read_json(path), str(path))


def load_diffusion(path: Path) -> Recipe:
    """The recipe of a diffusion model in a file.  UserError as for ``load_recipe``, and where it is of another kind."""
    recipe = load_recipe(path)
    if not isinstance(recipe, Recipe):
        raise UserError(f"{path.parent} is a run of kind {recipe.kind}, and this asks for a diffusion model: name "
                        "another run.")
    return recipe


def read_recipe(data: Any, where: str, as_type: type[AnyRecipe] | None = None) -> AnyRecipe:
    """A recipe from its JSON form.  UserError as for ``load_recipe``, naming ``where`` it stands.

    One that does not say its kind is of before there were kinds: of a diffusion model.  as_type: what it is read as,
    for recipes that stand in no file, as those of published models.
    """
    if not isinstance(data, dict):
        raise UserError(f"{where} is not a recipe: it must be a JSON object.")
    version, found = data.get("fromnoise", "unknown"), data.get("format", FORMAT)
    if type(found) is not int or found < OLDEST:
        raise UserError(f"{where} has recipe format {found!r:.60}, which is not known here: it must be {OLDEST} to "
                        f"{FORMAT}.")
    if found > FORMAT:
        raise UserError(f"{where} was written by a newer fromnoise ({version}, recipe format {found}; this is "
                        f"{fromnoise.__version__}, format {FORMAT}): update fromnoise to open it.")
    kind = data.get("kind", "diffusion")
    if kind not in KINDS:
        raise UserError(f"{where} is a recipe of kind {kind!r:.60}, which is not known here. "
                        f"{nearest(str(kind), KINDS)}")
    values = {k: v for k, v in data.items() if k not in ("format", "fromnoise")}
    return from_dict(as_type or KINDS[kind], values, where)
