"""Flux.1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fromnoise.interop.rules import Rule, reordered, same, split, stacked
from fromnoise.interop.transformers.common import BOTH, Config, Family, double_block, embedder
from fromnoise.nets.trunk import Trunk
from fromnoise.nets.trunk.presets import flux1


def spec_of(config: Config) -> Trunk:
    """The trunk of a ``FluxTransformer2DModel``, whose channels are those of 2 x 2 patches."""
    heads = config["num_attention_heads"]
    spec = flux1(heads * config["attention_head_dim"], heads, config["num_layers"], config["num_single_layers"],
                 config["guidance_embeds"])
    return replace(spec, positions=replace(spec.positions, axes=tuple(config["axes_dims_rope"])))


def rules(spec: Trunk, config: Config) -> Iterator[Rule]:
    """Where the weights of a ``FluxTransformer2DModel`` go."""
    D, hidden = spec.width, spec.feed_forward.hidden(spec.width)
    yield from same("patch_in", "x_embedder", *BOTH)
    yield from same("text_in.map", "context_embedder", *BOTH)
    yield from embedder("time_in.time", "time_text_embed.timestep_embedder")
    yield from embedder("time_in.pooled", "time_text_embed.text_embedder")
    if config["guidance_embeds"]:
        yield from embedder("time_in.numbers.embed", "time_text_embed.guidance_embedder")
    for i in range(spec.double):
        yield from double_block(f"stages.double_stream.blocks.{i}.layers", f"transformer_blocks.{i}", D, spec.attention)
    for i in range(spec.single):
        layer, block = f"stages.single_stream.blocks.{i}.layers.all", f"single_transformer_blocks.{i}"
        yield from same(f"{layer}.modulation.map", f"{block}.norm.linear", *BOTH)
        yield from stacked(f"{layer}.heads.qkv", [f"{block}.attn.to_{n}" for n in "qkv"], True)
        for n in "qk":
            yield from same(f"{layer}.heads.{n}_norm.weight", f"{block}.attn.norm_{n}.weight")
        yield from same(f"{layer}.feed_forward.inner", f"{block}.proj_mlp", *BOTH)
        yield from split([(f"{layer}.heads.out.weight", D), (f"{layer}.feed_forward.outer.weight", hidden)],
                         f"{block}.proj_out.weight", dim=1)
        yield from same(f"{layer}.feed_forward.outer.bias", f"{block}.proj_out.bias")
    yield from reordered("head.modulation", "norm_out.linear", (1, 0))
    yield from same("head.out", "proj_out", *BOTH)


FLUX1 = Family(spec_of, rules)
