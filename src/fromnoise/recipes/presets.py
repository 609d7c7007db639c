"""A published system in a recipe: its network at a small size, and the way it was trained.

``fromnoise train shapes --preset sd3`` trains what Stable Diffusion 3 is, at the size of a laptop, on shapes; every
field can be changed after it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from fromnoise.nets import Trunk, UNet
from fromnoise.nets.published import published, resolve
from fromnoise.nets.trunk import Learned, SinCos
from fromnoise.nets.trunk.acting import Untold
from fromnoise.process import EDM, VP, Cosine, Flow, LogNormal, Objective, ScaledLinear, Uniform
from fromnoise.recipe import Recipe

MOST_WORDS = 512  # that a frozen encoder hands on, where its recipe does not say
TIME_SCALE = 30.0  # radians between clean and noise; 1,000 make neighbouring times strangers to a short training

MULTIPLE = 16  # of the features of a feed-forward; 256, as in Lumina 2, would be most of a small one


@dataclass(frozen=True)
class Paradigm:
    """How a system is trained: its path, and what it predicts with which loss at which times."""

    path: Any = field(default_factory=Flow)
    objective: Objective = field(default_factory=Objective)


EPS = Paradigm(VP(), Objective(prediction="eps", loss="eps", times=Uniform()))  # DDPM (Ho et al. 2020)
# DDPM's path for patches of pixels.  Trunks were trained on it with eps in latents, where a token has far more features
# than numbers to pass on; in pixels a small one hardly hears a caption in 1,800 steps (docs/log.md).
PATCHES = Paradigm(VP(), Objective(prediction="v", loss="v", times=Uniform()))  # Salimans and Ho 2022
LATENT = Paradigm(ScaledLinear(), EPS.objective)  # Stable Diffusion 1 and XL (Rombach et al. 2022)
LATENT_V = Paradigm(ScaledLinear(), Objective(prediction="v", loss="v", times=Uniform()))  # Stable Diffusion 2 at 768
FLOW = Paradigm(Flow(), Objective(times=Uniform()))  # rectified flow (Liu et al. 2022; Lipman et al. 2022)
LOGIT_NORMAL = Paradigm(Flow(), Objective(times=LogNormal()))  # Stable Diffusion 3 (Esser et al. 2024)
PIXELS = Paradigm(Flow(), Objective(prediction="x0", times=LogNormal(mean=0.8, std=0.8)))  # JiT (Li and He 2025)
COSINE = Paradigm(Cosine(), EPS.objective)  # Video Diffusion Models (Ho et al. 2022)
COSINE_V = Paradigm(Cosine(), Objective(prediction="v", loss="eps", times=Uniform()))  # Hoogeboom et al. 2023
# What EDM's network outputs, from x of unit variance, is v but for the data's variance (Karras et al. 2022; 2024).
EDM2 = Paradigm(EDM(), Objective(prediction="v", loss="v", times=LogNormal(mean=-0.4, std=1.0), learned_variance=True))

HOUSE = Paradigm(Flow(), Objective(prediction="x0", loss="velocity", max_weight=6.0,
                                   times=LogNormal(mean=0.5, std=1.4)))  # that of the recipe shapes


@dataclass(frozen=True)
class Small:
    """A preset at the size of a laptop: arguments of its function, and how it is trained, None for as the recipe is."""

    paradigm: Paradigm | None
    arguments: dict[str, Any]


def tokens(heads: str = "heads_", count: int = 3, **sizes: int) -> dict[str, int]:
    """Arguments of a trunk of width 96 with ``count`` heads."""
    return {"width": 96, heads: count, **sizes}


def scales(width: int = 24, *multipliers: int, **sizes: Any) -> dict[str, Any]:
    """Arguments of a U-Net of three scales: 32, 16 and 8 pixels."""
    return {"width": width, "multipliers": multipliers or (1, 2, 3), **sizes}


SMALL: dict[str, Small] = {
    "dit": Small(PATCHES, tokens(count=4, depth=6)),
    "sit": Small(FLOW, tokens(count=4, depth=6)),
    "pixart": Small(PATCHES, tokens(count=4, depth=6)),
    "pixart_sigma": Small(PATCHES, tokens(count=4, depth=6)),
    "sana": Small(LOGIT_NORMAL, tokens(depth=6, cross_heads=4)),
    "prx": Small(LOGIT_NORMAL, tokens(depth=5)),
    "uvit": Small(PATCHES, tokens(count=4, depth=7)),
    "jit": Small(PIXELS, tokens(depth=6, bottleneck=24)),
    "sd3": Small(LOGIT_NORMAL, tokens(count=4, depth=4)),
    "flux1": Small(LOGIT_NORMAL, tokens(count=4, double=2, single=3, guided=False)),
    "flux2": Small(LOGIT_NORMAL, tokens(double=1, single=6, guided=False)),
    "flux2_klein": Small(LOGIT_NORMAL, tokens(double=2, single=4)),
    "qwen_image": Small(LOGIT_NORMAL, tokens(depth=4)),
    "qwen_image21": Small(LOGIT_NORMAL, tokens(depth=7)),
    "lumina2": Small(LOGIT_NORMAL, tokens(count=4, kv_heads=2, depth=4, refine=1)),
    "z_image": Small(LOGIT_NORMAL, tokens(depth=5, refine=1)),
    "latte": Small(PATCHES, tokens(count=4, depth=3)),
    "house": Small(HOUSE, tokens("heads", 4, depth=4)),
    "cross": Small(None, tokens("heads", 4, depth=5)),
    "double": Small(None, tokens("heads", 4, depth=3)),
    "double_single": Small(None, tokens("heads", 4, depth=5)),
    "single": Small(None, tokens("heads", 4, depth=6)),
    "native": Small(None, tokens("heads", 4, depth=6)),
    "ddpm": Small(EPS, scales(depths=(0, 1, 0), blocks=1)),
    "adm": Small(EPS, scales(depths=(0, 1, 1), blocks=1)),
    "sd1": Small(LATENT, scales(16, 1, 2, 4, depths=(0, 1, 0))),
    "sd2": Small(LATENT_V, scales(16, 1, 2, 4, depths=(0, 1, 0))),
    "sdxl": Small(LATENT, scales(16, 1, 2, 4, depths=(0, 1, 1))),
    "edm2": Small(EDM2, scales(depths=(0, 1, 1), blocks=1)),
    "simple_diffusion": Small(COSINE_V, scales(24, 1, 2, 4, depth=5, blocks=1)),
    "vdm": Small(COSINE, scales(24, depths=(0, 1, 1), blocks=1)),
    # Not at DIAMOND's noise levels, which seldom hide things of more than a few pixels (docs/worlds.md).
    "diamond": Small(None, {"width": 40, "head_width": 0}),
}


def with_preset(recipe: Recipe, name: str) -> Recipe:
    """The recipe with the network and the training of a system.  UserError for a name that is not there."""
    name = resolve(name)
    paradigm = SMALL[name].paradigm
    trained = {} if paradigm is None else {"path": paradigm.path, "objective": paradigm.objective}
    return replace(recipe, name=f"{recipe.name}-{name}", net=small(name, recipe), **trained)


def small(name: str, recipe: Recipe) -> Trunk | UNet:
    """The network of a preset at a size for the recipe's pictures."""
    net = published(name)(**SMALL[name].arguments)
    return small_trunk(net, recipe) if isinstance(net, Trunk) else small_unet(net, recipe)


def small_trunk(net: Trunk, recipe: Recipe) -> Trunk:
    """The trunk that sees the recipe's patches and words, is told no sizes or scales, and trains no variance."""
    height, width = recipe.data.height, recipe.data.width
    patch = getattr(recipe.net, "patch", max(1, min(height, width) // 8))
    rows, columns = max(1, height // patch), max(1, width // patch)
    positions = net.positions
    if isinstance(positions, SinCos):
        positions = replace(positions, base=rows, table=0, scale=1.0)
    elif isinstance(positions, Learned):
        positions = replace(positions, places=rows * columns, words=(recipe.text.max_length or MOST_WORDS) + 1)
    time = replace(net.time, numbers="none", hidden=0, scale=TIME_SCALE)
    if time.pooled == "add" and recipe.text.pooled_width != net.width:
        time = replace(time, pooled="linear")
    feed_forward = replace(net.feed_forward, multiple_of=min(net.feed_forward.multiple_of, MULTIPLE))
    return replace(net, patch=patch, positions=positions, learned_sigma=False, time=time, feed_forward=feed_forward)


def small_unet(net: UNet, recipe: Recipe) -> UNet:
    """The U-Net that is told the recipe's text in place of classes, its actions, no sizes, and trains no variance."""
    head_width = net.width if net.head_width else 0
    time = replace(net.time, scale=TIME_SCALE) if net.time.kind == "sinusoid" else net.time
    net = replace(net, head_width=head_width, heads=min(net.heads, 4), groups=8, time=time, extra_outputs=0, numbers=0)
    if net.pooled == "none" and net.attention != "spatial":  # trained without a text (DDPM)
        net = replace(net, pooled="linear" if recipe.text.pooled_width else "mean")
    told = min(net.told_frames, recipe.data.frames - 1)
    return replace(net, pooled_width=0, told_frames=told, actions=net.actions if recipe.net.reads_actions else Untold())
