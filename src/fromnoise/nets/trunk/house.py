"""The trunk of our own recipes, and how it is read from runs in which it was a network of its own."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Literal

import torch
from torch import Tensor

from fromnoise.blocks import AttentionSpec, FeedForwardSpec
from fromnoise.nets.trunk.settings import Relative, Rotary, TextSpec, TimeSpec, Trunk

LOUD = 6.0  # else the first thing to learn would be to find the words in the noise


def house(width: int = 96, heads: int = 4, depth: int = 4, patch: int = 4, mlp_ratio: float = 4.0,
          positions: Literal["relative", "rotary"] = "relative", reach: int = 8, places: bool = True,
          token_shift: bool = True, pooled_text: bool = True) -> Trunk:
    """The house transformer: one stream, learned offsets, words told loudly, made to learn in minutes.

    positions: learned biases of offsets up to ``reach``, or rotary ones that know no size;  places: every patch is told
    where in the frame it lies;  token_shift: it sees a few features of its neighbours;  pooled_text: the mean of the
    words is added to the noise level.  The noise level turns its waves by 1 to 30 radians: the usual 1,000 make
    neighbouring times strangers to each other, which a short training cannot mend (docs/log.md).
    """
    return Trunk(
        patch=patch, width=width, single=depth, attention=AttentionSpec(heads=heads),
        feed_forward=FeedForwardSpec(ratio=mlp_ratio, activation="relu2"),
        time=TimeSpec(waves=128, scale=30.0, period=30.0, shift=1.0, pooled="mean" if pooled_text else "none"),
        text=TextSpec(loud=LOUD), places=places, token_shift=token_shift,
        positions=Relative(reach=reach) if positions == "relative" else
        Rotary(theta=100.0, corner=1))


# ---- runs in which it was a network of its own, of kind "transformer" ------------------------------------------------

OUTSIDE = {
    "text_in.": "text_in.map.", "pooled_in.": "time_in.pooled.", "time.inner.": "time_in.time.0.",
    "time.outer.": "time_in.time.2.", "patch_out.": "head.out.", "media_bias.": "places.media_bias.",
    "cross_bias": "places.cross_bias",
}
INSIDE = {
    "attention.qkv": "heads.qkv.weight", "attention.out.": "heads.out.", "attention.q_scale": "heads.q_norm.weight",
    "attention.k_scale": "heads.k_norm.weight", "feed_forward.0.": "feed_forward.inner.",
    "feed_forward.2.": "feed_forward.outer.",
}
MODULATION = "modulation."  # one map for all blocks and the last layer, which a trunk does not have


def is_older(tensors: Container[str], prefix: str) -> bool:
    """Whether they are weights of an older house transformer."""
    return f"{prefix}{MODULATION}weight" in tensors


def from_older(tensors: dict[str, Tensor], prefix: str, spec: Trunk) -> dict[str, Tensor]:
    """The weights with those of an older house transformer, whose names begin with ``prefix``, renamed to a trunk's."""
    if not is_older(tensors, prefix):
        return tensors
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        inner = name.removeprefix(prefix)
        if not name.startswith(prefix):
            found[name] = value
        elif inner.startswith(MODULATION):
            found |= {prefix + new: part for new, part in modulations(inner.removeprefix(MODULATION), value, spec)}
        else:
            found[prefix + renamed(inner)] = reordered(inner, value, spec)
    return found


def renamed(name: str) -> str:
    """The trunk's name of a weight."""
    if name.startswith("blocks."):
        _, block, inner = name.split(".", 2)
        return f"{layer(block)}{beginning(inner, INSIDE)}"
    return beginning(name, OUTSIDE)


def layer(block: str | int) -> str:
    return f"stages.single_stream.blocks.{block}.layers.all."


def beginning(name: str, names: dict[str, str]) -> str:
    """The name with its beginning exchanged."""
    return next((new + name.removeprefix(old) for old, new in names.items() if name.startswith(old)), name)


def modulations(kind: str, value: Tensor, spec: Trunk) -> Iterator[tuple[str, Tensor]]:
    """(name, weight) of the maps of every block and of the last layer."""
    *blocks, head = value.split([*[6 * spec.width] * spec.single, 2 * spec.width])
    yield from ((f"{layer(i)}modulation.map.{kind}", part) for i, part in enumerate(blocks))
    yield f"head.modulation.{kind}", head


def reordered(name: str, value: Tensor, spec: Trunk) -> Tensor:
    """A weight with its features in the trunk's order: the fastest sinusoids first, and rotary pairs side by side."""
    if name == "time.inner.weight":
        return torch.cat([half.flip(1) for half in value.chunk(2, dim=1)], dim=1)
    size = spec.width // spec.attention.heads
    pairs = torch.arange(size).view(2, -1).T.flatten()
    if isinstance(spec.positions, Rotary) and name.endswith(("q_scale", "k_scale")):
        return value[pairs]
    if isinstance(spec.positions, Rotary) and name.endswith("qkv"):
        q, k, v = value
        return torch.stack([*(x.unflatten(0, (-1, size))[:, pairs].flatten(0, 1) for x in (q, k)), v])
    return value
