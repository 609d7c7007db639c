"""One transformer block, over one stream of tokens or several that share an attention.

    h = (1 + a1) norm(x) + b1                              every stream with its own weights
    y = attention(q(h), k(h), v(h))                        over the tokens of all streams
    x = x + g1 out(y)
    x = x + g2 feed_forward((1 + a2) norm(x) + b2)

One stream of all tokens is the single-stream block, text and picture apart is the double-stream block (SD3), one of
them alone is a refiner, and a text that gives keys but asks nothing stays as it is (PRX; SD3's last block).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from fromnoise.blocks.attention import attend_heads, attend_linear
from fromnoise.blocks.feed_forward import ConvFeedForward, FeedForward
from fromnoise.blocks.heads import CrossAttention, Heads
from fromnoise.blocks.layers import RMSNorm
from fromnoise.blocks.settings import AttentionSpec, FeedForwardSpec, ModulationSpec
from fromnoise.blocks.streams import Around, Clock, Tokens, join


class Modulation(nn.Module):
    """``parts`` vectors for each token, from the signal of its clock."""

    def __init__(self, spec: ModulationSpec, features: int, width: int, parts: int):
        super().__init__()
        self.spec, self.parts = spec, parts
        self.map = nn.Linear(features, parts * width, bias=spec.bias) if spec.source == "block" else None
        self.table = nn.Parameter(torch.zeros(parts, width)) if spec.source == "table" else None

    def forward(self, clock: Clock) -> tuple[Tensor, ...]:
        values = clock.signal if self.map is None else self.map(clock.signal)
        values = values if self.table is None else values + self.table.flatten()
        return clock.spread(values).chunk(self.parts, dim=-1)


@dataclass(frozen=True)
class BlockSpec:
    """What all blocks of a trunk have in common."""

    width: int
    features: int
    attention: AttentionSpec
    feed_forward: FeedForwardSpec
    modulation: ModulationSpec
    norm: str = "layer"
    norm_eps: float = 1e-6
    norm2_eps: float = 1e-6
    norm_gain: bool = False
    sandwich: bool = False


Vectors = tuple[Tensor | None, Tensor | None, Tensor | None]  # shift, scale and gate of a sub-layer


def norm_layer(spec: BlockSpec, eps: float) -> nn.Module:
    """The norm before a sub-layer; without gain where the modulation has its own."""
    kind = RMSNorm if spec.norm == "rms" else nn.LayerNorm
    return kind(spec.width, eps, elementwise_affine=spec.norm_gain)


class StreamLayer(nn.Module):
    """The weights that one stream has in a block.

    asks: whether its tokens have queries; else they only give keys and values, and stay as they are.
    parallel: attention and feed-forward side by side, from one norm and with one gate (Dehghani et al. 2023; Flux).
    alone: a second attention in which the stream sees itself only (SD3.5).  cross: attention to a text, which no
    clock modulates, before the feed-forward (PixArt).
    """

    def __init__(self, spec: BlockSpec, asks: bool = True, parallel: bool = False, alone: bool = False,
                 cross: bool = False, modulated: bool = True, normed: bool = True):
        super().__init__()
        width, m = spec.width, spec.modulation
        self.asks, self.parallel, self.shift, self.tanh = asks, parallel, m.shift, m.tanh_gate
        self.norm1 = norm_layer(spec, spec.norm_eps) if normed else nn.Identity()
        attention = replace(spec.attention, out_bias=False) if parallel else spec.attention  # the feed-forward has one
        self.heads = Heads(width, attention, asks)
        parts = m.parts((1 if parallel else 2) + alone) if asks else 2
        self.modulation = Modulation(m, spec.features, width, parts) if modulated and m.source != "none" else None
        if not asks:
            return
        self.alone = Heads(width, spec.attention) if alone else None
        self.cross = CrossAttention(width, spec.attention) if cross else None
        self.feed_forward = (ConvFeedForward if spec.feed_forward.conv else FeedForward)(width, spec.feed_forward)
        self.norm2 = nn.Identity() if parallel else norm_layer(spec, spec.norm2_eps)
        self.after1, self.after2 = (RMSNorm(width, spec.norm_eps) if spec.sandwich else None for _ in range(2))

    def vectors(self, clock: Clock | None) -> list[Vectors]:
        """(shift, scale, gate) of attention, feed-forward and second attention; None for what there is not."""
        if self.modulation is None or clock is None:
            return [(None, None, None)] * 3
        parts = self.modulation(clock)
        if not self.asks:
            return [(parts[0], parts[1], None)]
        size = 3 if self.shift else 2
        found: list[Vectors] = []
        for i in range(0, len(parts), size):
            *shift, scale, gate = parts[i : i + size]
            found.append((shift[0] if shift else None, scale, gate.tanh() if self.tanh else gate))
        return found

    def enter(self, tokens: Tokens, vectors: Vectors, around: Around) -> Tensor:
        """h, what the attention sees of the stream."""
        h = modulated(self.norm1(tokens.x), *vectors[:2])
        return h if around.mix is None else around.mix(h)

    def leave(self, tokens: Tokens, h: Tensor, y: Tensor, vectors: list[Vectors], around: Around) -> Tensor:
        """x after the attention has said ``y`` to ``h``, and all that follows it."""
        x, gate = tokens.x, vectors[0][2]
        y = self.heads.answer(y, h)
        if self.parallel:
            return gated(x, maybe(self.after1, y + self.feed_forward(h, around.grid)), gate)
        x = gated(x, maybe(self.after1, y), gate)
        if self.alone is not None:
            h = self.enter(tokens, vectors[2], around)
            q, k, v = self.alone.ask(h, tokens.turns)
            assert q is not None
            x = gated(x, self.alone.answer(attend_heads(q, k, v), h), vectors[2][2])
        if self.cross is not None:
            x = x + self.cross(x, around.text, around.text_mask)
        shift, scale, gate = vectors[1]
        h = modulated(self.norm2(x), shift, scale)
        h = h if around.mix is None else around.mix(h)
        return gated(x, maybe(self.after2, self.feed_forward(h, around.grid)), gate)


class JointBlock(nn.Module):
    """Streams by name, each with its own ``StreamLayer``, in one attention.

    index: which attention of the network this is, by which a cache tells them apart.
    """

    def __init__(self, index: int, spec: BlockSpec, layers: dict[str, StreamLayer]):
        super().__init__()
        self.index, self.attend = index, attend_linear if spec.attention.kind == "linear" else attend_heads
        self.layers = nn.ModuleDict(layers)

    def forward(self, streams: dict[str, Tokens], around: Around) -> dict[str, Tensor]:
        """Streams ``{name: Tokens}``, in the order of the mask's keys, to their features ``[B, N, D]``."""
        layers = cast(dict[str, StreamLayer], {name: self.layers[name] for name in streams})
        vectors = {name: layers[name].vectors(tokens.clock) for name, tokens in streams.items()}
        arounds = {name: around.of(name) for name in streams}
        entered = {name: layers[name].enter(tokens, vectors[name][0], arounds[name])
                   for name, tokens in streams.items()}
        asked = [layers[name].heads.ask(entered[name], tokens.turns) for name, tokens in streams.items()]
        asking = [name for name in streams if layers[name].asks]
        said = [*self.among(asked, around).split_with_sizes([len(streams[name]) for name in asking], dim=1)]
        asked.clear()  # memory that is let go of, and still in the cache, serves what comes next
        out = {name: tokens.x for name, tokens in streams.items()}
        for name in asking:
            out[name] = layers[name].leave(streams[name], entered.pop(name), said.pop(0), vectors[name], arounds[name])
        return out

    def among(self, asked: list[tuple[Tensor | None, Tensor, Tensor]], around: Around) -> Tensor:
        """The attention of all queries, keys and values, ``[B, N, D]`` for the N queries."""
        q, k, v = (join(parts) for parts in zip(*asked, strict=True))
        if around.join is not None:
            k, v = around.join(self.index, k, v)
        mask = around.mask
        if isinstance(mask, Tensor) and mask.shape[-2] > q.shape[1]:  # of streams that only give keys nobody asks
            mask = mask[..., -q.shape[1] :, :]
        return self.attend(q, k, v, mask)


def maybe(layer: nn.Module | None, x: Tensor) -> Tensor:
    """layer(x), where there is the layer."""
    return x if layer is None else layer(x)


def modulated(h: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
    """(1 + scale) h + shift, with what there is of them."""
    if scale is None:
        return h
    return torch.addcmul(h, h, scale) if shift is None else torch.addcmul(shift, h, 1 + scale)


def gated(x: Tensor, y: Tensor, gate: Tensor | None) -> Tensor:
    """x + gate y."""
    return x + y if gate is None else torch.addcmul(x, y, gate)
