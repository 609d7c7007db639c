"""The recipe: every choice that makes a model, each one field.

A recipe is data.  Named recipes (``fromnoise.recipes``) are functions that return one; the command line
changes fields before anything is built; ``recipe.json`` in a run folder is the resolved form and can be
trained from directly.
"""

from fromnoise.recipe.comparing import OPERATIONAL, changes, differences
from fromnoise.recipe.doubts import doubts
from fromnoise.recipe.idle import UNMEASURED, without_effect
from fromnoise.recipe.kinds import (
    KINDS,
    AnyRecipe,
    Coder,
    Data,
    Latents,
    Learned,
    Name,
    Net,
    Recipe,
    Text,
    named_outside,
)
from fromnoise.recipe.reading import load_diffusion, load_recipe, read_recipe
from fromnoise.recipe.sampling import USABLE, Evaluation, Looking, Sampling, has_own_grid
from fromnoise.recipe.saved import FORMAT, OLDEST, Saved, recipe_dict
from fromnoise.recipe.training import TERMS, Encoding, Optimizer, Schedule, Start, Training

__all__ = [
    "FORMAT", "KINDS", "OLDEST", "OPERATIONAL", "TERMS", "UNMEASURED", "USABLE", "AnyRecipe", "Coder", "Data",
    "Encoding", "Evaluation", "Latents", "Learned", "Looking", "Name", "Net", "Optimizer", "Recipe", "Sampling",
    "Saved", "Schedule", "Start", "Text", "Training", "changes", "differences", "doubts", "has_own_grid",
    "load_diffusion", "load_recipe", "named_outside", "read_recipe", "recipe_dict", "without_effect",
]
