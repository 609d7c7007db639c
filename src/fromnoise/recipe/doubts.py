"""Choices that may be meant, and are more often a mistake: whoever makes them is told before training."""

from __future__ import annotations

from fromnoise.process import apart_at_end
from fromnoise.recipe.kinds import AnyRecipe, Recipe

TOLD_APART = 3.0  # standard deviations at which two samples are told apart in 93 % of the cases


def doubts(recipe: AnyRecipe) -> list[str]:
    """Sentences about a recipe that can be trained, and may not learn what it seems to be for."""
    return shows_what_comes(recipe) if isinstance(recipe, Recipe) and not recipe.latent else []


def shows_what_comes(recipe: Recipe) -> list[str]:
    """Of a world in pixels whose frames stand out of the noise wherever its path goes (docs/worlds.md)."""
    numbers = recipe.data.channels * recipe.data.height * recipe.data.width
    apart = apart_at_end(recipe.path, numbers)
    if recipe.data.frames < 2 or not recipe.net.causal or apart <= TOLD_APART:
        return []
    return [f"Where this path ends a frame still stands out of the noise by {apart:.0f} standard deviations: training "
            "shows at every level what comes next, so that the frames before it and what was done need not be heeded, "
            "while a new frame begins as noise alone. Take --path flow, or more noise: it is one standard deviation "
            f"with --path edm --path.sigma-max {numbers**0.5:.0f}."]
