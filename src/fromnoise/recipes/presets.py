"""A published system in a recipe: its network at a small size, and the way it was trained.

``fromnoise train shapes --preset sd3`` trains what Stable Diffusion 3 is, at the size of a laptop, on shapes; every
field can be changed after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from fromnoise.config import nearest
from fromnoise.nets import Trunk
from fromnoise.nets.trunk import Learned, SinCos
from fromnoise.nets.trunk.presets import PRESETS
from fromnoise.process import VP, Flow, LogNormal, Objective, Uniform
from fromnoise.recipe import Recipe
from fromnoise.types import UserError


@dataclass(frozen=True)
class Paradigm:
    """How a system is trained: its path, and what it predicts with which loss at which times."""

    path: Any = field(default_factory=Flow)
    objective: Objective = field(default_factory=Objective)


EPS = Paradigm(VP(), Objective(prediction="eps", loss="eps", times=Uniform()))  # DDPM (Ho et al. 2020)
FLOW = Paradigm(Flow(), Objective(times=Uniform()))  # rectified flow (Liu et al. 2022; Lipman et al. 2022)
LOGIT_NORMAL = Paradigm(Flow(), Objective(times=LogNormal()))  # Stable Diffusion 3 (Esser et al. 2024)
PIXELS = Paradigm(Flow(), Objective(prediction="x0", times=LogNormal(mean=0.8, std=0.8)))  # JiT (Li and He 2025)


@dataclass(frozen=True)
class Small:
    """A preset at the size of a laptop: arguments of its function, and how it is trained."""

    paradigm: Paradigm
    arguments: dict[str, Any]


SMALL: dict[str, Small] = {
    "dit": Small(EPS, {"width": 96, "heads_": 4, "depth": 6}),
    "sit": Small(FLOW, {"width": 96, "heads_": 4, "depth": 6}),
    "sd3": Small(LOGIT_NORMAL, {"width": 96, "heads_": 4, "depth": 4}),
    "flux1": Small(LOGIT_NORMAL, {"width": 96, "heads_": 4, "double": 2, "single": 3, "guided": False}),
}


def with_preset(recipe: Recipe, name: str) -> Recipe:
    """The recipe with the network and the training of a system.  UserError for a name that is not there."""
    if name not in SMALL:
        raise UserError(f'There is no preset "{name}" to train. {nearest(name, SMALL)}')
    paradigm = SMALL[name].paradigm
    return replace(recipe, name=f"{recipe.name}-{name}", net=small(name, recipe), path=paradigm.path,
                   objective=paradigm.objective)


def small(name: str, recipe: Recipe) -> Trunk:
    """The network of a preset at a size for the recipe's pictures, which it sees in the recipe's patches."""
    net = published(name)(**SMALL[name].arguments)
    patch = getattr(recipe.net, "patch", 4)
    side = max(1, getattr(recipe.data, "size", 32) // patch)
    positions = net.positions
    if isinstance(positions, SinCos):
        positions = replace(positions, base=side, table=0)
    elif isinstance(positions, Learned):
        positions = replace(positions, places=side * side, words=recipe.text.max_length + 1)
    # Sizes and guidance scales are told by nobody here, and no variance is trained.
    time = replace(net.time, numbers="none")
    if time.pooled == "add" and recipe.text.pooled_width != net.width:
        time = replace(time, pooled="linear")
    return replace(net, patch=patch, positions=positions, learned_sigma=False, time=time)


def published(name: str) -> Callable[..., Trunk]:
    """The function of a preset.  UserError for a name that is not there."""
    if name not in PRESETS:
        raise UserError(f'There is no preset "{name}". {nearest(name, PRESETS)}')
    return PRESETS[name]
