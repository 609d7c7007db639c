"""The weights with which a trunk starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from fromnoise.blocks import StreamLayer
from fromnoise.nets.trunk.inputs import Head

if TYPE_CHECKING:
    from fromnoise.nets.trunk.net import TrunkNet


def reset_parameters(net: TrunkNet) -> None:
    """Every block starts as the identity and the output at zero.

    Where a modulation has a bias, blocks are opened by their last matrices, which start at zero, and gates start at
    one: with gates at zero (adaLN-zero, Peebles and Xie 2022) nothing inside a block learns until they have opened.
    Where it has none, the gates are what starts at zero.
    """
    head = cast(Head, net.head)  # a magnitude-preserving one starts as it is made
    layers = [layer for layer in net.modules() if isinstance(layer, StreamLayer)]
    modulations = [layer.modulation for layer in layers if layer.modulation is not None]
    maps: list[nn.Linear] = [modulation.map for modulation in modulations if modulation.map is not None]
    maps += [linear for stage in net.stages.values() for linear in stage.maps.values()]  # type: ignore[union-attr]
    for linear in (*maps, head.modulation, head.out):
        if linear is not None:
            zero(linear)
    m = net.spec.modulation
    for layer in layers:
        if layer.asks and (layer.modulation is None or m.bias):
            zero(layer.heads.out, layer.feed_forward.outer, *(() if layer.alone is None else (layer.alone.out,)))
        if layer.asks and layer.cross is not None:
            zero(layer.cross.out)
    if m.bias:
        for linear in maps:
            open_gates(linear.bias, net.spec.width, 3 if m.shift else 2)  # type: ignore[arg-type]
    if head.conv is not None and head.conv.bias is not None:
        nn.init.zeros_(head.conv.bias)
    with torch.no_grad():
        if net.place_in is not None:  # what a patch is told starts louder than the noise it sees
            net.place_in.weight.mul_(6)
        if net.text_in is not None and net.spec.text.loud != 1:
            words = net.text_in.map
            last = words if isinstance(words, nn.Linear) else words[-1]  # type: ignore[index]
            last.weight.mul_(net.spec.text.loud)  # type: ignore[operator,union-attr]


def zero(*linears: nn.Linear | None) -> None:
    """Weights and biases of zero."""
    for linear in linears:
        if linear is not None:
            for parameter in linear.parameters():
                nn.init.zeros_(parameter)


def open_gates(bias: Tensor, width: int, size: int) -> None:
    """Gates of one; the vectors ``[n size, D]`` come in groups whose last is the gate (two alone have none)."""
    vectors = bias.data.view(-1, width)
    if len(vectors) % size == 0:
        vectors[size - 1 :: size] = 1.0
