"""One transformer block, over one stream of tokens or several that share an attention.

    h = (1 + a1) norm(x) + b1                              every stream with its own weights
    y = attention(q(h), k(h), v(h))                        over the tokens of all streams
    x = x + g1 out(y)
    x = x + g2 feed_forward((1 + a2) norm(x) + b2)

One stream of all tokens is the single-stream block, text and picture apart is the double-stream block (SD3), one of
them alone is a refiner, and a text that gives keys but asks nothing stays as it is (PRX; SD3's last block).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.blocks.attention import attend_heads, attend_linear
from fromnoise.blocks.layers import RMSNorm, SquaredReLU
from fromnoise.blocks.masks import Cache
from fromnoise.blocks.rotary import turn
from fromnoise.blocks.settings import AttentionSpec, FeedForwardSpec, ModulationSpec


@dataclass(frozen=True)
class Clock:
    """What the noise level says to the tokens of a stream.

    signal: ``[B, R, S]``, one row for every clock;  row: ``[N]``, which clock each token follows, None where there
    is one for all.
    """

    signal: Tensor
    row: Tensor | None = None

    def map(self, f: Callable[[Tensor], Tensor]) -> Clock:
        """The clock with ``f`` applied to its signal."""
        return Clock(f(self.signal), self.row)

    def spread(self, values: Tensor) -> Tensor:
        """Values ``[B, R, S]`` of the clocks to those of the tokens, ``[B, 1 or N, S]``."""
        return values if self.row is None else values.index_select(1, self.row)

    def each(self) -> Clock:
        """The same with a clock for every token, so that what many blocks need is spread once."""
        return Clock(self.spread(self.signal))


@dataclass(frozen=True)
class Tokens:
    """A stream: features ``[B, N, D]``, its clock, and the turns ``[N, d/2]`` or ``[B, N, d/2]`` of its places."""

    x: Tensor
    clock: Clock | None = None
    turns: Tensor | None = None

    def __len__(self) -> int:
        return self.x.shape[1]

    @staticmethod
    def cat(first: Tokens, second: Tokens) -> Tokens:
        """Two streams as one sequence."""
        a, b, clock = first.clock, second.clock, second.clock
        if a is not None and b is not None and a is not b:
            rows = [torch.zeros(len(part), dtype=torch.long, device=part.x.device) if part.clock.row is None  # type: ignore
                    else part.clock.row for part in (first, second)]  # type: ignore[union-attr]
            clock = Clock(torch.cat([a.signal, b.signal], dim=1), torch.cat([rows[0], a.signal.shape[1] + rows[1]]))
        turns = second.turns
        if first.turns is not None and second.turns is not None:
            each = [part if part.ndim == 3 else part[None] for part in (first.turns, second.turns)]
            rows = max(len(part) for part in each)
            turns = torch.cat([part.expand(rows, -1, -1) for part in each], dim=1)
        return Tokens(torch.cat([first.x, second.x], dim=1), clock, turns)


@dataclass(frozen=True)
class Around:
    """What all streams of a block share: who sees whom, what is cached, and what the tokens stand on.

    mask: bool or bias that broadcasts against ``[B, heads, Nq, Nk]``, or a ``BlockMask``;  grid: frames, rows and
    columns of the picture;  text, text_mask: ``[B, L, D]`` and ``[B, L]`` for cross-attention;  mix: lets neighbours
    in the picture meet, ``[B, N, D]`` to the same, before every sub-layer; the stream "text" has none.
    """

    mask: Any = None
    cache: Cache | None = None
    grid: tuple[int, int, int] = (1, 1, 1)
    text: Tensor | None = None
    text_mask: Tensor | None = None
    mix: Callable[[Tensor], Tensor] | None = None


class Stack(nn.Module):
    """``count`` linear maps of the same input in one product; one matrix each to the optimiser."""

    def __init__(self, count: int, inside: int, outside: int, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, outside, inside).uniform_(-(inside**-0.5), inside**-0.5))
        self.bias = nn.Parameter(torch.zeros(count * outside)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D]`` to ``[..., count * outside]``."""
        return F.linear(x, self.weight.flatten(0, 1), self.bias)

    def apart(self, x: Tensor) -> tuple[Tensor, ...]:
        """Each map's ``[..., outside]``; the last is a product of its own, and its memory free before the others'."""
        n, outside, _ = self.weight.shape
        head, tail = (None, None) if self.bias is None else self.bias.split([(n - 1) * outside, outside])
        first = F.linear(x, self.weight[:-1].flatten(0, 1), head).unflatten(-1, (n - 1, outside)).unbind(-2)
        return *first, F.linear(x, self.weight[-1], tail)


class Heads(nn.Module):
    """The maps around an attention: tokens to queries, keys and values by head, and back.

    asks: whether there are queries, and hence a way back.
    """

    def __init__(self, width: int, spec: AttentionSpec, asks: bool = True):
        super().__init__()
        self.spec, self.asks = spec, asks
        self.dim = d = width // spec.heads
        kv = spec.kv_heads or spec.heads
        self.grouped = asks and kv != spec.heads
        self.q = Stack(1, width, width, spec.bias) if self.grouped else None
        self.qkv = Stack(3 if asks and not self.grouped else 2, width, kv * d, spec.bias)
        self.q_norm = head_norm(width, d, spec) if asks else None
        self.k_norm = head_norm(kv * d, d, spec)
        self.gate = nn.Linear(width, width, bias=False) if asks and spec.gate else None
        self.out = nn.Linear(width, width, bias=spec.out_bias) if asks else None

    def ask(self, h: Tensor, turns: Tensor | None) -> tuple[Tensor | None, Tensor, Tensor]:
        """Queries, keys and values ``[B, N, heads, d]``."""
        *parts, v = self.qkv.apart(h)
        q, k = parts if len(parts) == 2 else (None, *parts)
        q = q if self.q is None else self.q(h)
        q = None if q is None else self.turned(q, self.q_norm, turns)
        return q, self.turned(k, self.k_norm, turns), v.unflatten(-1, (-1, self.dim))

    def turned(self, x: Tensor, norm: nn.Module | None, turns: Tensor | None) -> Tensor:
        """``[B, N, heads d]`` to heads, normalised and turned to their places."""
        across = self.spec.qk_norm == "rms_across"
        x = norm(x) if across and norm is not None else x
        x = x.unflatten(-1, (-1, self.dim))
        x = x if across or norm is None else norm(x)
        return x if turns is None else turn(x, turns)

    def answer(self, y: Tensor, h: Tensor) -> Tensor:
        """What the heads say, ``[B, N, D]``, to the stream that asked with ``h``."""
        assert self.out is not None
        return self.out(y if self.gate is None else y * self.gate(h).sigmoid())


def head_norm(width: int, dim: int, spec: AttentionSpec) -> nn.Module | None:
    """The norm of queries or keys of heads of ``dim`` features, ``width`` all together."""
    size = width if spec.qk_norm == "rms_across" else dim
    if spec.qk_norm == "none":
        return None
    return nn.LayerNorm(size, eps=spec.eps) if spec.qk_norm == "layer" else RMSNorm(size, eps=spec.eps)


ACTIVATIONS = {"gelu": nn.GELU, "gelu_tanh": lambda: nn.GELU(approximate="tanh"), "silu": nn.SiLU, "relu2": SquaredReLU}


class FeedForward(nn.Module):
    """D -> hidden -> D; gated: the activation of one map times another."""

    def __init__(self, width: int, spec: FeedForwardSpec):
        super().__init__()
        hidden = spec.hidden(width)
        self.gated = spec.gated
        self.inner = Stack(2, width, hidden, spec.bias) if spec.gated else nn.Linear(width, hidden, bias=spec.bias)
        self.activation = ACTIVATIONS[spec.activation]()
        self.outer = nn.Linear(hidden, width, bias=spec.bias)

    def forward(self, h: Tensor, grid: tuple[int, int, int] | None = None) -> Tensor:
        y = self.inner(h)
        if self.gated:
            gate, y = y.chunk(2, dim=-1)
            return self.outer(self.activation(gate) * y)
        return self.outer(self.activation(y))


class ConvFeedForward(nn.Module):
    """Sana's mix-FFN (Xie et al. 2024): D -> 2 hidden, SiLU, depthwise 3x3 over the picture, gate, -> D."""

    def __init__(self, width: int, spec: FeedForwardSpec):
        super().__init__()
        hidden = spec.hidden(width)
        self.inner = nn.Linear(width, 2 * hidden)
        self.depthwise = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.outer = nn.Linear(hidden, width, bias=False)

    def forward(self, h: Tensor, grid: tuple[int, int, int]) -> Tensor:
        T, rows, columns = grid
        picture = F.silu(self.inner(h)).view(-1, rows, columns, self.depthwise.in_channels).permute(0, 3, 1, 2)
        y, gate = self.depthwise(picture).chunk(2, dim=1)
        return self.outer((y * F.silu(gate)).permute(0, 2, 3, 1).reshape(len(h), T * rows * columns, -1))


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
        self.cross = CrossAttention(spec) if cross else None
        self.feed_forward = (ConvFeedForward if spec.feed_forward.conv else FeedForward)(width, spec.feed_forward)
        self.norm2 = nn.Identity() if parallel else norm_layer(spec, spec.norm2_eps)
        self.after1, self.after2 = (RMSNorm(width, spec.norm_eps) if spec.sandwich else nn.Identity()
                                    for _ in range(2))

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
        said = self.heads.answer(y, h)
        if self.parallel:
            return gated(x, self.after1(said + self.feed_forward(h, around.grid)), gate)
        x = gated(x, self.after1(said), gate)
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
        return gated(x, self.after2(self.feed_forward(h, around.grid)), gate)


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
        arounds = {name: replace(around, mix=None) if name == "text" else around for name in streams}
        entered = {name: layers[name].enter(tokens, vectors[name][0], arounds[name])
                   for name, tokens in streams.items()}
        asked = [layers[name].heads.ask(entered[name], tokens.turns) for name, tokens in streams.items()]
        q, k, v = (join([part for part in parts if part is not None]) for parts in zip(*asked, strict=True))
        if around.cache is not None:
            k, v = around.cache.join(self.index, k, v)
        asking = [name for name in streams if layers[name].asks]
        mask = around.mask
        if isinstance(mask, Tensor) and mask.shape[-2] > q.shape[1]:  # of streams that only give keys nobody asks
            mask = mask[..., -q.shape[1] :, :]
        said = self.attend(q, k, v, mask).split([len(streams[name]) for name in asking], dim=1)
        out = {name: tokens.x for name, tokens in streams.items()}
        for name, y in zip(asking, said, strict=True):
            out[name] = layers[name].leave(streams[name], entered[name], y, vectors[name], arounds[name])
        return out


class CrossAttention(nn.Module):
    """The picture's queries over the text's keys and values; the text itself stays as it is."""

    def __init__(self, spec: BlockSpec):
        super().__init__()
        heads = spec.attention.cross_heads or spec.attention.heads
        self.dim = spec.width // heads
        self.q = nn.Linear(spec.width, spec.width)
        self.kv = Stack(2, spec.width, spec.width, True)
        self.out = nn.Linear(spec.width, spec.width)
        self.q_norm, self.k_norm = (head_norm(spec.width, self.dim, spec.attention) for _ in range(2))
        self.across = spec.attention.qk_norm == "rms_across"

    def forward(self, x: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        """x ``[B, N, D]``, text ``[B, L, D]``, mask ``[B, L]`` True for real tokens."""
        k, v = self.kv(text).chunk(2, dim=-1)
        q, k = self.normed(self.q(x), self.q_norm), self.normed(k, self.k_norm)
        y = attend_heads(q, k, v.unflatten(-1, (-1, self.dim)), None if mask is None else mask[:, None, None, :])
        return self.out(y)

    def normed(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        x = norm(x) if self.across and norm is not None else x
        x = x.unflatten(-1, (-1, self.dim))
        return x if self.across or norm is None else norm(x)


def join(parts: list) -> Tensor:
    """Tokens of several streams, one after the other."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def modulated(h: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
    """(1 + scale) h + shift, with what there is of them."""
    if scale is None:
        return h
    return torch.addcmul(h, h, scale) if shift is None else torch.addcmul(shift, h, 1 + scale)


def gated(x: Tensor, y: Tensor, gate: Tensor | None) -> Tensor:
    """x + gate y."""
    return x + y if gate is None else torch.addcmul(x, y, gate)
