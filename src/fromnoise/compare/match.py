"""The same size and the same work for recipes that differ in something else.

Two networks are comparable when they have as many parameters and have been trained with as many operations.  Sizes are
matched by the width, all else staying as it is; work by the number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fromnoise.nets import Trunk, UNet
from fromnoise.nets.count import Count, count
from fromnoise.nets.trunk import Rotary, SinCos
from fromnoise.nets.trunk.presets import axes
from fromnoise.recipe import AnyRecipe, Coder, Recipe
from fromnoise.types import UserError

BACKWARD = 2  # a backward pass multiplies twice for every product of the forward pass
HEADS = 2  # how many heads more or fewer a width may have than the recipe's, where no other width fits
NEAR = 0.05  # how far a size that fits may be from the one that is asked for


@dataclass(frozen=True)
class Given:
    """What a recipe gives its network: channels, size and frames of its latents, and the text of the first batch.

    text, pooled: features of a word and of a whole text, None where there are none;  words: of the padded batch.
    """

    channels: int
    size: tuple[int, int]
    text: int | None
    words: int
    pooled: int | None
    frames: int


def given(recipe: Recipe) -> Given:
    """What the recipe's network is given."""
    data, source = recipe.data, recipe.data.open("train")
    with torch.device("meta"):
        latents = recipe.latents.build(data.channels)
    first = range(min(recipe.train.batch, len(source)))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        encoder = recipe.text.build(recipe.text.learn_tokenizer(list(source.captions)))  # type: ignore[arg-type]
        told = encoder.encode(source.batch(first, first).text)
    text, words = (None, 0) if told.text is None else (told.text.shape[-1], told.text.shape[1])
    pooled = None if told.pooled is None else told.pooled.shape[-1]
    size = data.height // latents.factor, data.width // latents.factor
    return Given(latents.channels, size, text, words, pooled, latents.latent_frames(data.frames))


def size_of(recipe: AnyRecipe) -> Count:
    """What the recipe's network costs for one of its pictures, with the words that a batch of them is padded to."""
    if isinstance(recipe, Coder):
        return size_of_coder(recipe)
    to = given(recipe)
    return count(recipe.net, to.channels, to.size, to.text, to.words, to.pooled, to.frames)


def size_of_coder(recipe: Coder) -> Count:
    """What an autoencoder costs for one picture, there and back; its tokens are its latents."""
    data = recipe.data
    with torch.device("meta"), torch.no_grad():
        autoencoder = recipe.latents.build(data.channels)
        media = torch.empty(1, data.frames, data.channels, data.height, data.width)
        with FlopCounterMode(display=False) as counter:
            latents = autoencoder.encode(media)
            autoencoder.decode(latents)
    learned = sum(p.numel() for p in autoencoder.parameters() if p.requires_grad)
    return Count(learned, latents.shape[1] * latents.shape[3] * latents.shape[4], counter.get_total_flops() // 2)


def operations(recipe: AnyRecipe) -> float:
    """Multiplications and additions of the network in the whole training, some of whose steps may see single frames."""
    flops, stills = float(size_of(recipe).flops), getattr(recipe.train, "stills", 0.0)
    if isinstance(recipe, Recipe) and stills and recipe.data.frames > 1:
        to = replace(given(recipe), frames=1)
        flops += stills * (count(recipe.net, to.channels, to.size, to.text, to.words, to.pooled, 1).flops - flops)
    return flops * (1 + BACKWARD) * recipe.train.batch * recipe.train.steps


def same_operations(recipe: AnyRecipe, total: float) -> AnyRecipe:
    """The recipe with the steps that come nearest to ``total`` operations; warm-up, shorter than half of them."""
    steps = max(1, round(total * recipe.train.steps / operations(recipe)))
    optimizer = replace(recipe.train.optimizer, warmup=min(recipe.train.optimizer.warmup, steps // 2))
    return replace(recipe, train=replace(recipe.train, steps=steps, optimizer=optimizer))


def same_parameters(recipe: AnyRecipe, parameters: int) -> Recipe:
    """The recipe whose network's width brings it nearest to ``parameters``, all else as it is.

    UserError where no width can be built, and for an autoencoder.
    """
    if not isinstance(recipe, Recipe):
        raise UserError("Sizes are matched for diffusion models alone: leave --parameters out.")
    to, best = given(recipe), []
    for ladder in ladders(recipe.net):
        best += around(ladder, to, parameters)
        nearest = min(best, key=lambda one: abs(one[0] - parameters), default=None)
        if nearest is not None and abs(nearest[0] - parameters) <= NEAR * parameters:
            return replace(recipe, net=nearest[1])  # with as many heads, or nearly
    if not best:
        raise UserError(f"No width of net {recipe.net.kind} can be built to match {parameters:,} parameters.")
    return replace(recipe, net=min(best, key=lambda one: abs(one[0] - parameters))[1])


def around(ladder: Sequence[Trunk | UNet], to: Given, parameters: int) -> list[tuple[int, Trunk | UNet]]:
    """(parameters, network) of the largest of a ladder, from small to large, that is not too large, and the next."""
    tried: dict[int, int | None] = {}

    def size(i: int) -> int | None:
        if i not in tried:
            tried[i] = parameters_of(ladder[i], to)
        return tried[i]

    low, high = 0, len(ladder) - 1
    while high - low > 1:
        middle = (low + high) // 2
        here = size(middle)
        low, high = (middle, high) if here is None or here <= parameters else (low, middle)
    return [(here, ladder[i]) for i in (low, high) if (here := size(i)) is not None]


def parameters_of(net: Trunk | UNet, to: Given) -> int | None:
    """Parameters of a network for what it is given; None where it cannot be built."""
    with torch.device("meta"):
        try:
            built = net.build(to.channels, to.text, to.pooled)
        except UserError:
            return None
    return sum(p.numel() for p in built.parameters())


def ladders(net: Trunk | UNet) -> list[list[Trunk | UNet]]:
    """The network at widths from a quarter to four times its own, from small to large; for each number of heads."""
    least, most = net.width // 4, 4 * net.width
    if isinstance(net, UNet):
        step = max(net.groups, 8)
        return [[resized(net, width) for width in range(max(step, least // step * step), most + 1, step)]]
    own = net.attention.heads
    counts = sorted(range(max(1, own - HEADS), own + HEADS + 1), key=lambda n: abs(n - own))
    # Features are turned two by two, and sinusoids come as two.
    pairs = 2 if isinstance(net.positions, Rotary) or not net.time.network else 1
    fours = isinstance(net.positions, SinCos) or (isinstance(net.positions, Rotary) and net.positions.sincos)
    found = []
    for n in counts:
        step = math.lcm(pairs, 4 // math.gcd(n, 4) if fours else 1)  # sines and cosines of row and column: four shares
        sizes = range(max(8, least // n // step * step), most // n + 1, step)
        found.append([resized(net, n * head, n) for head in sizes])
    return found


def resized(net: Trunk | UNet, width: int, heads: int = 0) -> Trunk | UNet:
    """The network at another width, with so many heads; what goes with the width in a fixed share goes with it."""
    if isinstance(net, UNet):
        return replace(net, width=width, head_width=width if net.head_width else 0)
    attention = net.attention
    heads = heads or attention.heads
    told = {name: max(1, round(heads * value / attention.heads)) for name in ("kv_heads", "cross_heads")
            if (value := getattr(attention, name))}
    changes: dict[str, Any] = {"attention": replace(attention, heads=heads, **told)}
    if isinstance(net.positions, Rotary) and net.positions.axes:
        changes["positions"] = replace(net.positions, axes=axes(width, heads, net.positions.axes))
    if not net.time.network:  # the sinusoids themselves are the vector
        changes["time"] = replace(net.time, waves=width)
    return replace(net, width=width, **changes)
