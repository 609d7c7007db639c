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


def breakout() -> Recipe:
    """The world that comes with fromnoise: Breakout of MinAtar, at 40 px, with rewards, ends and new beginnings.

    fromnoise worlds collect MinAtar/Breakout-v1 --size 40 --policy rally --explore 0.1 --frames 150000
    --out data/breakout makes its data.  A token is two by two cells of the game.  1.0 M parameters, 1,735 core-seconds
    with --train.threads 1: 54.7 dB on the next frame, 53.2 dB on the 16th of a free rollout, 16.5 and 14.4 for the last
    frame again.
    """
    base = world()
    return replace(
        base, name="breakout",
        data=replace(base.data, root="data/breakout", height=40, width=40, restarts=True),
        net=replace(house(patch=8, width=96, depth=4, heads=4, pooled_text=False),
                    temporal=Temporal(every=1, causal=True), actions=ByModulation(), outcomes=63),
        train=replace(base.train, steps=6000),
        sample=replace(base.sample, steps=4, shift=4.0))  # towards noise, where it is settled what happens next
