"""Named recipes: each a function that returns a ``Recipe``; its first line says what it is for."""

from collections.abc import Callable

from fromnoise.recipe import Recipe
from fromnoise.recipes.digits import digits
from fromnoise.recipes.glyphs import glyphs
from fromnoise.recipes.image import image
from fromnoise.recipes.shapes import shapes

RECIPES: dict[str, Callable[[], Recipe]] = {f.__name__: f for f in (digits, shapes, glyphs, image)}

__all__ = ["RECIPES", "digits", "glyphs", "image", "shapes"]
