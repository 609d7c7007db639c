"""The user's own films."""

from dataclasses import replace

from fromnoise.data.clips import Clips
from fromnoise.denoise import Guidance
from fromnoise.nets import house
from fromnoise.process import LogNormal, Objective
from fromnoise.recipe import Evaluation, Recipe, Sampling, Training
from fromnoise.text import Trained


def video() -> Recipe:
    """Your own folder of films, with or without captions: fromnoise train video --data ./films."""
    net = house(patch=4, width=192, depth=6, heads=6, positions="rotary")
    return Recipe(
        name="video",
        data=Clips(root="", frames=8, fps=8.0, height=32, width=32),  # --data says which
        text=Trained(width=128, depth=1, max_length=64),
        # What happens is decided while there is little but noise to see, so most times are far out.
        objective=Objective(prediction="x0", loss="velocity", times=LogNormal(mean=1.2, std=1.6), max_weight=25.0),
        net=replace(net, time=replace(net.time, numbers="fps")),
        train=Training(steps=2000, batch=8, stills=0.1, checkpoint_every=100, preview_every=200),
        sample=Sampling(guidance=Guidance(scale=2.0), steps=25, shift=3.0),
        evaluate=Evaluation(samples=64),
    )
