"""What recipes of every kind have in common: their JSON form, and recipe.json."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import fromnoise
from fromnoise.config import to_dict
from fromnoise.files import write_text

FORMAT = 3  # of recipe.json; raised when an older library could no longer read it rightly
OLDEST = 1  # with a number for sample.guidance, which is still short for its scale; 2 had no kinds of recipes


class Saved:
    """A recipe of any kind."""

    data: Any

    @property
    def latent(self) -> bool:
        """Whether a trained autoencoder stands in front of what is trained."""
        return False

    def resolved(self) -> Self:
        """The recipe with what it names from outside looked up and written down: by its data, where they do."""
        look_up = getattr(self.data, "resolved", None)
        return self if look_up is None else replace(self, data=look_up())  # type: ignore[type-var]

    def save(self, path: Path) -> None:
        """Write recipe.json."""
        write_text(path, json.dumps(recipe_dict(self), indent=2, ensure_ascii=False) + "\n")


def recipe_dict(recipe: Saved) -> dict[str, Any]:
    """The JSON form, with the format and the library's version first."""
    return {"format": FORMAT, "fromnoise": fromnoise.__version__, **to_dict(recipe)}
