"""What several layouts of diffusers share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fromnoise.blocks import AttentionSpec
from fromnoise.interop.rules import Rule, idle, reordered, same, shaped, stacked
from fromnoise.nets.trunk import Trunk
from fromnoise.types import UserError

Config = dict[str, Any]
BOTH = ("weight", "bias")


@dataclass(frozen=True)
class Family:
    """A transformer class of diffusers.

    spec: its configuration as a trunk;  rules: where its weights go;  tables: tensors in its files that are fixed;
    tolerance: to which the two agree in float64, 1e-10 unless the peer itself goes through float32;
    told: where the weights go that make the condition and not the network (a table of classes).
    """

    spec: Callable[[Config], Trunk]
    rules: Callable[[Trunk, Config], Iterable[Rule]]
    tables: tuple[str, ...] = ()
    tolerance: float = 1e-10
    told: Callable[[Config], Iterable[Rule]] = lambda config: ()


def embedder(ours: str, theirs: str, bias: bool = True, names: Sequence[str] = ("linear_1", "linear_2")) -> list[Rule]:
    """A small network of two linear maps."""
    kinds = BOTH[: 1 + bias]
    return [*same(f"{ours}.0", f"{theirs}.{names[0]}", *kinds), *same(f"{ours}.2", f"{theirs}.{names[1]}", *kinds)]


def patch_convolution(theirs: str, D: int, channels: int, p: int) -> list[Rule]:
    """The first map, which they hold as a convolution ``[D, C, p, p]``."""
    return [*shaped("patch_in.weight", f"{theirs}.weight", (D, channels * p * p), (D, channels, p, p)),
            *same("patch_in.bias", f"{theirs}.bias")]


def double_block(layer: str, block: str, D: int, attention: AttentionSpec, last: bool = False, alone: bool = False):
    """A double-stream block in the names of ``JointTransformerBlock`` and ``FluxTransformerBlock``."""
    norms = attention.qk_norm != "none"
    yield from same(f"{layer}.picture.modulation.map", f"{block}.norm1.linear", *BOTH)
    yield from projections(f"{layer}.picture.heads", f"{block}.attn", "to_{}", "to_out.0", norms, "norm_{}")
    if alone:
        yield from projections(f"{layer}.picture.alone", f"{block}.attn2", "to_{}", "to_out.0", norms, "norm_{}")
    yield from feed_forward(f"{layer}.picture.feed_forward", f"{block}.ff.net")
    if last:
        yield from reordered(f"{layer}.text.modulation.map", f"{block}.norm1_context.linear", (1, 0))
        yield from stacked(f"{layer}.text.heads.qkv", [f"{block}.attn.add_{n}_proj" for n in "kv"], True)
        yield from [*idle(f"{block}.attn.add_q_proj.weight", D, D), *idle(f"{block}.attn.add_q_proj.bias", D)]
        if norms:
            yield from same(f"{layer}.text.heads.k_norm.weight", f"{block}.attn.norm_added_k.weight")
            yield from idle(f"{block}.attn.norm_added_q.weight", D // attention.heads)
    else:
        yield from same(f"{layer}.text.modulation.map", f"{block}.norm1_context.linear", *BOTH)
        yield from projections(f"{layer}.text.heads", f"{block}.attn", "add_{}_proj", "to_add_out", norms,
                               "norm_added_{}")
        yield from feed_forward(f"{layer}.text.feed_forward", f"{block}.ff_context.net")


def projections(ours: str, theirs: str, into: str, out: str, norms: bool, norm: str, bias: bool = True):
    """Queries, keys, values and the way back."""
    yield from stacked(f"{ours}.qkv", [f"{theirs}.{into.format(n)}" for n in "qkv"], bias)
    yield from same(f"{ours}.out", f"{theirs}.{out}", *BOTH[: 1 + bias])
    if norms:
        for n in "qk":
            yield from same(f"{ours}.{n}_norm.weight", f"{theirs}.{norm.format(n)}.weight")


def self_attention(ours: str, theirs: str, bias: bool = True, norms: bool = False):
    """The picture's attention to itself; ``bias``: of queries, keys and values."""
    yield from stacked(f"{ours}.qkv", [f"{theirs}.to_{n}" for n in "qkv"], bias)
    yield from same(f"{ours}.out", f"{theirs}.to_out.0", *BOTH)
    yield from head_norms(ours, theirs) if norms else ()


def cross_attention(ours: str, theirs: str, norms: bool = False):
    """The picture's queries over the text's keys and values."""
    yield from same(f"{ours}.q", f"{theirs}.to_q", *BOTH)
    yield from stacked(f"{ours}.kv", [f"{theirs}.to_k", f"{theirs}.to_v"], True)
    yield from same(f"{ours}.out", f"{theirs}.to_out.0", *BOTH)
    yield from head_norms(ours, theirs) if norms else ()


def head_norms(ours: str, theirs: str) -> list[Rule]:
    """The norms of queries and keys."""
    return [rule for n in "qk" for rule in same(f"{ours}.{n}_norm.weight", f"{theirs}.norm_{n}.weight")]


def only(config: Config, **known: Any) -> None:
    """UserError where the configuration says other than the one thing that is ``known`` here."""
    for name, value in known.items():
        if config.get(name, value) != value:
            raise UserError(f"The configuration has {name} {config[name]!r}; only {value!r} is known here.")


def feed_forward(ours: str, theirs: str) -> list[Rule]:
    """Two linear maps with an activation between."""
    return [*same(f"{ours}.inner", f"{theirs}.0.proj", *BOTH), *same(f"{ours}.outer", f"{theirs}.2", *BOTH)]
