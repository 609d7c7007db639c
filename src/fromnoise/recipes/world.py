"""A world that is played: the next frame, given the action and the frames before."""

from dataclasses import replace

from fromnoise.data.episodes import Episodes
from fromnoise.denoise import Guidance, Held
from fromnoise.nets import house
from fromnoise.nets.trunk import ByModulation, Temporal
from fromnoise.process import Frames, LogNormal, Objective
from fromnoise.recipe import Evaluation, Optimizer, Recipe, Sampling, Training
from fromnoise.sample import Autoregressive
from fromnoise.text import Trained


def world() -> Recipe:
    """A world model of recorded episodes: fromnoise train world --data ./recording.

    Frames are pictures that meet in causal layers along time, so that a world is stepped frame by frame; every frame
    has a noise level of its own (Diffusion Forcing, Chen et al. 2024), and is told the action that led to it with that
    level (DIAMOND, Alonso et al. 2024; Oasis).
    """
    return Recipe(
        name="world",
        data=Episodes(root="", frames=16),  # --data says which
        text=Trained(width=32, depth=1, max_length=8),
        objective=Objective(prediction="x0", loss="velocity", max_weight=6.0, times=LogNormal(mean=0.8, std=1.4)),
        net=replace(house(patch=8, width=192, depth=6, heads=4, pooled_text=False),
                    temporal=Temporal(every=1, causal=True), actions=ByModulation()),
        train=Training(steps=8000, batch=8, text_dropout=0.0, action_dropout=0.1, ema=0.06,
                       frames=Frames(clock="each", prefix=0.3, random=0.2, noise=0.2), optimizer=Optimizer(lr=2e-3),
                       checkpoint_every=250, preview_every=500),
        sample=Sampling(guidance=Guidance(scale=1.0), steps=3, schedule=Autoregressive(),
                        keep=Held(history=0.05)),
        evaluate=Evaluation(samples=32),
    )


def invaders() -> Recipe:
    """The world that comes with fromnoise: Space Invaders of MinAtar, at 80 px, with rewards and ends.

    fromnoise worlds collect MinAtar/SpaceInvaders-v1 --size 80 --policy defend --explore 0.25 --sticky 0.25
    --frames 80000 --out data/invaders makes its data.  A token is two by two cells of the game.  5.4 M parameters,
    2,971 core-seconds with --train.threads 1: 44.0 dB on the next frame, 28.9 with other actions than those taken.
    """
    base = world()
    return replace(
        base, name="invaders",
        data=replace(base.data, root="data/invaders", height=80, width=80),
        net=replace(house(patch=16, width=184, depth=6, heads=4, pooled_text=False),
                    temporal=Temporal(every=1, causal=True), actions=ByModulation(), outcomes=63),
        train=replace(base.train, steps=2300))
