"""Named recipes: each a function that returns a recipe; its first line says what it is for."""

from collections.abc import Callable

from fromnoise.recipe import AnyRecipe
from fromnoise.recipes.autoencoders import autoencoder, moving_kl, shapes64_kl, shapes_kl
from fromnoise.recipes.digits import digits
from fromnoise.recipes.glyphs import glyphs
from fromnoise.recipes.image import image
from fromnoise.recipes.moving import moving, moving_latent
from fromnoise.recipes.shapes import shapes, shapes64
from fromnoise.recipes.video import video
from fromnoise.recipes.world import breakout, world

RECIPES: dict[str, Callable[[], AnyRecipe]] = {
    f.__name__.replace("_", "-"): f
    for f in (digits, shapes, glyphs, image, autoencoder, shapes_kl, shapes64_kl, moving_kl, shapes64, moving,
              moving_latent, video, world, breakout)}

__all__ = [
    "RECIPES", "autoencoder", "breakout", "digits", "glyphs", "image", "moving", "moving_kl", "moving_latent", "shapes",
    "shapes64", "shapes64_kl", "shapes_kl", "video", "world",
]
