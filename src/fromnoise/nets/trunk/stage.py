"""Blocks of the trunk one after another, and what each of them is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from fromnoise.blocks import Around, BlockSpec, Clock, JointBlock, Perturbation, Tokens, UnitStreamLayer
from fromnoise.blocks.perturb import alone
from fromnoise.nets.trunk.clips import Along
from fromnoise.nets.trunk.detour import Trip
from fromnoise.nets.trunk.sight import additive


class Stage(nn.Module):
    """Blocks of one kind, one after another.

    streams: what the blocks work on;  maps: for each, the map of the noise level that its blocks share, if any;
    tables: whether each block adds a table to it;  skips: how many of the first blocks are joined to the last by long
    skips.
    """

    def __init__(self, blocks: list[JointBlock], streams: tuple[str, ...], maps: dict[str, nn.Linear], width: int,
                 tables: bool = False, skips: int = 0):
        super().__init__()
        self.tables = tables
        self.blocks, self.streams, self.maps = nn.ModuleList(blocks), streams, nn.ModuleDict(maps)
        self.skips = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(skips))

    def forward(self, tokens: dict[str, Tokens], around: Callable[[int], Around | None],
                trip: Trip | None = None, along: Along | None = None) -> dict[str, Tokens]:
        """Streams to the same after all blocks; ``around(i)`` is what block i is given, None to leave it out.

        trip: the way of tokens that go past some of the blocks;  along: how frames meet behind some of them.
        """
        now = {name: replace(part, clock=self.clock(name, part.clock))
               for name, part in tokens.items() if name in self.streams}
        passed: list[Tensor] = []
        before = now
        joined = len(self.blocks) - len(self.skips)
        for i, block in enumerate(cast(Iterable[JointBlock], self.blocks)):
            if i >= joined:
                both = torch.cat([now["all"].x, passed.pop()], dim=-1)
                now["all"] = now["all"].become(self.skips[i - joined](both))
            if trip is not None and trip.leaves(block.index):
                before, now = now, trip.off(now)
            seen = around(block.index)
            if seen is not None:
                now = {name: now[name].become(x) for name, x in block(now, seen).items()}
            if trip is not None and trip.returns(block.index):
                now = trip.back(before, now)
            if along is not None:
                now = along(block.index, now)
            if i < len(self.skips):
                passed.append(now["all"].x)
        return {name: part.become(now[name].x) if name in now else part for name, part in tokens.items()}

    def clock(self, name: str, clock: Clock | None) -> Clock | None:
        """What the blocks are told of the noise level: through the map they share, if any."""
        if name not in self.maps or clock is None:
            return clock
        clock = clock.map(self.maps[name])
        return clock if self.tables else clock.each()


def unit_layer(spec: BlockSpec, asks: bool = True, modulated: bool = True, **others) -> UnitStreamLayer:
    """The magnitude-preserving layer; ``others`` are choices among norms, which it has none of, and such as are refused
    (``refusals.magnitudes``)."""
    return UnitStreamLayer(spec, asks, modulated)


def disturbed(around: Around, perturb: Perturbation, streams: dict[str, Tokens], trip: Trip | None,
              block: int) -> Around | None:
    """What block number ``block`` is given; None where it is left out."""
    if perturb.skips(block) or (trip is not None and trip.skips(block)):
        return None
    if trip is not None and trip.routes(block):
        return trip.among(around)
    if block not in perturb.layers:
        return around
    like = streams["all"].x if "all" in streams else streams["picture"].x
    total = sum(len(part) for name, part in streams.items() if name != "text" or around.text is None)
    bias = alone(total - math.prod(around.grid), math.prod(around.grid), like)
    mask = around.mask
    if mask is not None:
        bias = bias + (additive(mask, bias) if mask.dtype == torch.bool else mask)
    return replace(around, mask=bias)
