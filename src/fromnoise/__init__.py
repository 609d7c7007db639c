"""fromnoise: train, sample, edit, distil, measure and play generative models that start from noise.

    import fromnoise as fn
    model = fn.load("runs/digits")
    model.sample(["a handwritten seven"] * 16, guidance=2.0, seed=0).save("sevens.png")
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fromnoise import worlds as worlds
    from fromnoise.codec import Codec as Codec
    from fromnoise.generate import Model as Model
    from fromnoise.opening import load as load
    from fromnoise.output import Output as Output
    from fromnoise.recipe import Coder as Coder
    from fromnoise.recipe import Recipe as Recipe
    from fromnoise.types import UserError as UserError

_PUBLIC = {
    "Codec": "fromnoise.codec", "Coder": "fromnoise.recipe", "Model": "fromnoise.generate",
    "Output": "fromnoise.output", "load": "fromnoise.opening", "Recipe": "fromnoise.recipe",
    "UserError": "fromnoise.types",
}

__all__ = ["Codec", "Coder", "Model", "Output", "Recipe", "UserError", "__version__", "load", "worlds"]


def __getattr__(name: str):
    """Public names are imported when first used, so that ``import fromnoise`` costs nothing."""
    import importlib

    if name == "worlds":
        return importlib.import_module("fromnoise.worlds")
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'fromnoise' has no attribute '{name}'")
