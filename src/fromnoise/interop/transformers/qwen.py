"""Qwen-Image and Qwen-Image 2.1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fromnoise.interop.rules import Rule, changed, reordered, same, stacked
from fromnoise.interop.transformers.common import BOTH, Config, Family, embedder, feed_forward, projections
from fromnoise.nets.trunk import Trunk
from fromnoise.nets.trunk.presets import qwen_image, qwen_image21
from fromnoise.types import UserError


def spec_of(config: Config) -> Trunk:
    """The trunk of a ``QwenImageTransformer2DModel``, whose channels are those of 2 x 2 patches."""
    for name in ("zero_cond_t", "use_additional_t_cond", "use_layer3d_rope"):
        if config.get(name):
            raise UserError(f"{name} belongs to a Qwen-Image that edits or works in layers, which is not known here.")
    heads = config["num_attention_heads"]
    spec = qwen_image(heads * config["attention_head_dim"], heads, config["num_layers"])
    return replace(spec, positions=replace(spec.positions, axes=tuple(config["axes_dims_rope"])))


def rules(spec: Trunk, config: Config) -> Iterator[Rule]:
    """Where the weights of a ``QwenImageTransformer2DModel`` go."""
    yield from same("patch_in", "img_in", *BOTH)
    yield from same("text_in.before.weight", "txt_norm.weight")
    yield from same("text_in.map", "txt_in", *BOTH)
    yield from embedder("time_in.time", "time_text_embed.timestep_embedder")
    for i in range(spec.double):
        layers, block = f"stages.double_stream.blocks.{i}.layers", f"transformer_blocks.{i}"
        for stream, short, into, out, norm in (("picture", "img", "to_{}", "to_out.0", "norm_{}"),
                                               ("text", "txt", "add_{}_proj", "to_add_out", "norm_added_{}")):
            layer = f"{layers}.{stream}"
            yield from same(f"{layer}.modulation.map", f"{block}.{short}_mod.1", *BOTH)
            yield from projections(f"{layer}.heads", f"{block}.attn", into, out, True, norm)
            yield from feed_forward(f"{layer}.feed_forward", f"{block}.{short}_mlp.net")
    yield from reordered("head.modulation", "norm_out.linear", (1, 0))
    yield from same("head.out", "proj_out", *BOTH)


def spec21_of(config: Config) -> Trunk:
    """The trunk of a ``QwenImage21Transformer2DModel``."""
    if not config["causal_condition"]:
        raise UserError("causal_condition is off; a Qwen-Image 2.1 whose text is told the noise level is unknown here.")
    heads = config["num_attention_heads"]
    spec = qwen_image21(heads * config["attention_head_dim"], heads, config["num_layers"])
    eps = config["eps"]
    return replace(spec, patch=config["patch_size"], norm_eps=eps, text=replace(spec.text, eps=eps),
                   attention=replace(spec.attention, eps=eps),
                   feed_forward=replace(spec.feed_forward, ratio=config["mlp_ratio"]),
                   positions=replace(spec.positions, axes=tuple(config["axes_dims_rope"])))


def rules21(spec: Trunk, config: Config) -> Iterator[Rule]:
    """Where the weights of a ``QwenImage21Transformer2DModel`` go; it has no biases."""
    yield from same("patch_in", "img_in", "weight")
    yield from changed("text_in.before.weight", "txt_in.text_norm.weight", lambda x: x + 1, lambda x: x - 1)
    yield from embedder("text_in.map", "txt_in", bias=False, names=("in_layer", "out_layer"))
    yield from embedder("time_in.time", "time_text_embed.timestep_embedder", bias=False)
    yield from same("stages.single_stream.maps.all", "modulation.1", "weight")
    for i in range(spec.single):
        layer, block = f"stages.single_stream.blocks.{i}.layers.all", f"transformer_blocks.{i}"
        yield from projections(f"{layer}.heads", f"{block}.attn", "to_{}", "to_out.0", True, "norm_{}", bias=False)
        yield from stacked(f"{layer}.feed_forward.inner",
                           [f"{block}.img_mlp.gate_layer", f"{block}.img_mlp.proj"], False)
        yield from same(f"{layer}.feed_forward.outer", f"{block}.img_mlp.out", "weight")
    yield from same("head.modulation", "norm_out.linear", "weight")
    yield from same("head.out", "proj_out", "weight")


QWEN_IMAGE = Family(spec_of, rules)
QWEN_IMAGE21 = Family(spec21_of, rules21)
