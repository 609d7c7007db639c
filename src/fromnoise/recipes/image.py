"""The user's own pictures."""

from fromnoise.data.pictures import Folder
from fromnoise.denoise import Guidance
from fromnoise.nets import house
from fromnoise.process import LogNormal, Objective
from fromnoise.recipe import Evaluation, Recipe, Sampling, Training
from fromnoise.text import Trained


def image() -> Recipe:
    """Your own folder of pictures, with or without captions: fromnoise train image --data ./photos."""
    return Recipe(
        name="image",
        data=Folder(root=""),  # --data says which
        text=Trained(width=128, depth=1, max_length=64),
        objective=Objective(prediction="x0", loss="velocity", times=LogNormal(), max_weight=25.0),
        net=house(patch=4, width=192, depth=6, heads=6, positions="rotary"),
        train=Training(steps=3000, batch=16, checkpoint_every=100, preview_every=200),
        sample=Sampling(guidance=Guidance(scale=2.0), steps=25, shift=2.0),
        evaluate=Evaluation(samples=256),
    )
