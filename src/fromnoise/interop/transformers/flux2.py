"""Flux.2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fromnoise.interop.rules import Rule, fused, reordered, same, shaped, split
from fromnoise.interop.transformers.common import Config, Family, embedder, projections
from fromnoise.nets.trunk import Trunk
from fromnoise.nets.trunk.presets import flux2


def spec_of(config: Config) -> Trunk:
    """The trunk of a ``Flux2Transformer2DModel``, whose channels are those of 2 x 2 patches."""
    heads = config["num_attention_heads"]
    spec = flux2(heads * config["attention_head_dim"], heads, config["num_layers"], config["num_single_layers"],
                 config["guidance_embeds"])
    return replace(spec, feed_forward=replace(spec.feed_forward, ratio=config["mlp_ratio"]),
                   norm_eps=config["eps"], attention=replace(spec.attention, eps=config["eps"]),
                   time=replace(spec.time, waves=config["timestep_guidance_channels"]),
                   positions=replace(spec.positions, axes=tuple(config["axes_dims_rope"]),
                                     theta=config["rope_theta"]))


def rules(spec: Trunk, config: Config) -> Iterator[Rule]:
    """Where the weights of a ``Flux2Transformer2DModel`` go; it has no biases."""
    D, hidden = spec.width, spec.feed_forward.hidden(spec.width)
    yield from same("patch_in", "x_embedder", "weight")
    yield from same("text_in.map", "context_embedder", "weight")
    yield from embedder("time_in.time", "time_guidance_embed.timestep_embedder", bias=False)
    if config["guidance_embeds"]:
        yield from embedder("time_in.numbers.embed", "time_guidance_embed.guidance_embedder", bias=False)
    if spec.double:
        yield from same("stages.double_stream.maps.picture", "double_stream_modulation_img.linear", "weight")
        yield from same("stages.double_stream.maps.text", "double_stream_modulation_txt.linear", "weight")
    if spec.single:
        yield from same("stages.single_stream.maps.all", "single_stream_modulation.linear", "weight")
    for i in range(spec.double):
        layers, block = f"stages.double_stream.blocks.{i}.layers", f"transformer_blocks.{i}"
        for stream, into, out, norm, feed_forward in (
                ("picture", "to_{}", "to_out.0", "norm_{}", "ff"),
                ("text", "add_{}_proj", "to_add_out", "norm_added_{}", "ff_context")):
            layer = f"{layers}.{stream}"
            yield from projections(f"{layer}.heads", f"{block}.attn", into, out, True, norm, bias=False)
            yield from shaped(f"{layer}.feed_forward.inner.weight", f"{block}.{feed_forward}.linear_in.weight",
                              (2, hidden, D), (2 * hidden, D))
            yield from same(f"{layer}.feed_forward.outer", f"{block}.{feed_forward}.linear_out", "weight")
    for i in range(spec.single):
        layer, block = f"stages.single_stream.blocks.{i}.layers.all", f"single_transformer_blocks.{i}.attn"
        yield from fused([(f"{layer}.heads.qkv.weight", (3, D, D)),
                          (f"{layer}.feed_forward.inner.weight", (2, hidden, D))], f"{block}.to_qkv_mlp_proj.weight")
        for n in "qk":
            yield from same(f"{layer}.heads.{n}_norm.weight", f"{block}.norm_{n}.weight")
        yield from split([(f"{layer}.heads.out.weight", D), (f"{layer}.feed_forward.outer.weight", hidden)],
                         f"{block}.to_out.weight", dim=1)
    yield from reordered("head.modulation", "norm_out.linear", (1, 0), bias=False)
    yield from same("head.out", "proj_out", "weight")


FLUX2 = Family(spec_of, rules)
