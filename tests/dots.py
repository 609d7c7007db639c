"""A data set of clips for tests: a dot that goes to the left or right, a pixel a frame, and back at the sides."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fromnoise.blocks import AttentionSpec
from fromnoise.data.digits import Digits
from fromnoise.nets import house
from fromnoise.nets.trunk import TextSpec
from fromnoise.process import Frames, Objective, Uniform
from fromnoise.random import uniforms
from fromnoise.recipe import Encoding, Recipe, Training
from fromnoise.recipes import digits
from fromnoise.text import Trained
from fromnoise.types import Source

SIDE, FRAMES = 8, 8


def path(phase, frames):
    """``[B, frames]``: the left edge of the dot, from 0 to SIDE - 2, of phases ``[B]`` of its way there and back."""
    room = SIDE - 2
    away = (np.asarray(phase)[:, None] + np.arange(frames)) % (2 * room)
    return np.where(away > room, 2 * room - away, away)


def drawn(x, y) -> Tensor:
    """``[B, T, 1, SIDE, SIDE]`` in [-1, 1] of left and upper edges ``[B, T]``: a square of 2 pixels."""
    at = np.arange(SIDE)
    wide, high = ((at >= edge[..., None]) & (at < edge[..., None] + 2) for edge in (x, y))
    return torch.from_numpy((2 * high[..., :, None] * wide[..., None, :] - 1).astype(np.float32))[:, :, None]


def places(media: Tensor) -> Tensor:
    """``[B, T, 2]``: the middle (x, y) of what is bright."""
    light = (media[:, :, 0] + 1).clamp(min=0) + 1e-6
    at = torch.arange(SIDE).float()
    total = light.sum((-1, -2))
    return torch.stack([(light.sum(-2) * at).sum(-1) / total, (light.sum(-1) * at).sum(-1) / total], -1)


class DotSource(Source):
    captions = ("a dot",)
    groups = (range(2**20),)

    def __init__(self, frames):
        self.length = frames

    def __len__(self) -> int:
        return 2**20

    def choose(self, indices: Sequence[int], keys: Sequence[int]):
        return [0] * len(indices), ["a dot"] * len(indices)

    def pictures(self, indices: Sequence[int], versions: Sequence[int]) -> Tensor:
        u = uniforms(list(indices), 2)
        x = path((2 * (SIDE - 2) * u[:, 0]).astype(int), self.length)
        return drawn(x, np.broadcast_to(((SIDE - 1) * u[:, 1]).astype(int)[:, None], x.shape))


@dataclass(frozen=True)
class Dots(Digits):
    """It says it is digits, of which recipes know."""

    frames = FRAMES  # type: ignore[assignment]
    endless = True

    def open(self, split):
        return DotSource(self.frames)


def films(frames: Frames | None = None, causal: bool = False, **training) -> Recipe:
    """A tiny recipe of dots."""
    settings = {"steps": 4, "batch": 4, "threads": 1, "preview_every": 0, "text_dropout": 0.0, **training}
    net = house(width=32, heads=2, depth=2, patch=2, reach=8, places=False, token_shift=False)
    if causal:
        net = replace(net, mask="causal", text=TextSpec(clean=True, loud=6.0), attention=AttentionSpec(heads=2))
    return replace(digits(), data=Dots(), net=net, text=Trained(width=8, max_length=4), encoding=Encoding(),
                   objective=Objective(times=Uniform()), train=Training(frames=frames or Frames(), **settings))
