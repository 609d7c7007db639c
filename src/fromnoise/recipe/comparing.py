"""The fields in which two recipes differ, and which of them change what is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fromnoise.config import to_dict

if TYPE_CHECKING:
    from fromnoise.recipe.kinds import AnyRecipe

# Fields that do not change what is learned.
OPERATIONAL = ("name", "source", "data.cache", "sample.", "evaluate.", "encoding.source", "encoding.folder",
               "text.folder", "text.offload", "text.cache_texts", "text.cache_folder", "train.device", "train.threads",
               "train.checkpoint_every", "train.keep", "train.preview_every", "train.tracker", "train.start.run")


def differences(a: AnyRecipe, b: AnyRecipe) -> dict[str, tuple[object, object]]:
    """The fields, dotted, in which two recipes learn something else: ``{"train.batch": (64, 32)}``."""
    return {field: values for field, values in changes(a, b).items() if not field.startswith(OPERATIONAL)}


def changes(a: Any, b: Any) -> dict[str, tuple[object, object]]:
    """The fields, dotted, in which two specs differ at all."""
    old, new = leaves(to_dict(a)), leaves(to_dict(b))
    return {field: (old.get(field), new.get(field)) for field in sorted(old.keys() | new.keys())
            if old.get(field) != new.get(field)}


def leaves(values: dict[str, Any], prefix: str = "") -> dict[str, object]:
    """A nested recipe as dotted fields: ``{"train.batch": 64, ...}``."""
    found: dict[str, object] = {}
    for key, value in values.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
