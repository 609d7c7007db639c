"""A run folder of a tiny world of Breakout with random weights, and the recording that it comes from."""

from dataclasses import replace
from pathlib import Path

import torch
from dots import films

from fromnoise.data.episodes import Episodes, World
from fromnoise.data.episodes.collect import collect
from fromnoise.data.episodes.play import Play
from fromnoise.nets.trunk.acting import ByModulation
from fromnoise.nets.trunk.settings import Temporal
from fromnoise.process import Frames
from fromnoise.recipe import Recipe, Sampling
from fromnoise.system import System
from fromnoise.weights import save_weights

BREAKOUT = World(id="MinAtar/Breakout-v1", height=20, width=20)


def record(folder: Path) -> Path:
    collect(Play(world=BREAKOUT, sticky=0.5), folder, count=8)
    return folder


def recipe_of(recording: Path, outcomes: int = 0) -> Recipe:
    """Causal along time, and told actions by modulation.  outcomes: bins of rewards, 0 for a world without heads."""
    recipe = films(Frames(clock="each"))
    net = replace(recipe.net, single=1, temporal=Temporal(every=1, causal=True), actions=ByModulation(),
                  outcomes=outcomes)
    data = Episodes(root=str(recording), frames=6, height=20, width=20, held_out=0.25)
    return replace(recipe, name="tiny", net=net, data=data, sample=Sampling(solver="euler", steps=1)).resolved()


def write_run(recipe: Recipe, folder: Path) -> Path:
    """Weights that are not zero anywhere, so that actions matter."""
    system = System.of(recipe, [""])
    torch.manual_seed(0)
    with torch.no_grad():
        for p in system.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    folder.mkdir(parents=True)
    recipe.save(folder / "recipe.json")
    save_weights(folder, system.state_dict(), system.tokenizer, 0)
    return folder
