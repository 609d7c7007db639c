"""Letters in typefaces."""

from fromnoise.data.glyphs import Glyphs
from fromnoise.denoise import Guidance
from fromnoise.nets import house
from fromnoise.process import LogNormal, Objective
from fromnoise.recipe import Evaluation, Optimizer, Recipe, Sampling, Training
from fromnoise.text import Trained


def glyphs() -> Recipe:
    """Letters and digits in real typefaces, crisp at 32 px, with letter-and-style pairs it never saw.

    fromnoise train glyphs --train.threads 1: on held-out pairs 98.6 % of characters, 99.4 % of families and 99.4 %
    of styles right (all three 97.7 %) in 363 core-seconds.
    """
    return Recipe(
        name="glyphs",
        data=Glyphs(),
        text=Trained(width=96, depth=1, max_length=32),
        objective=Objective(prediction="x0", loss="velocity", max_weight=6.0, times=LogNormal(mean=0.2, std=1.4)),
        net=house(patch=4, width=96, depth=4),
        train=Training(steps=2400, batch=32, text_dropout=0.05, ema=0.06, optimizer=Optimizer(lr=4e-3),
                       checkpoint_every=200, preview_every=400),
        sample=Sampling(guidance=Guidance(scale=1.5), steps=20, shift=2.0),
        evaluate=Evaluation(samples=512),
    )
