"""Lumina 2 and Z-Image, which descends from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fromnoise.interop.rules import Rule, patch_columns, patch_rows, same, shaped, stacked
from fromnoise.interop.transformers.common import BOTH, Config, Family, embedder
from fromnoise.nets.trunk import Trunk
from fromnoise.nets.trunk.presets import lumina2, z_image
from fromnoise.types import UserError


def spec_of(config: Config) -> Trunk:
    """The trunk of a ``Lumina2Transformer2DModel``."""
    spec = lumina2(config["hidden_size"], config["num_attention_heads"], config["num_kv_heads"], config["num_layers"],
                   config["num_refiner_layers"])
    return replace(spec, patch=config["patch_size"], norm_eps=config["norm_eps"],
                   text=replace(spec.text, eps=config["norm_eps"]),
                   feed_forward=replace(spec.feed_forward, multiple_of=config["multiple_of"],
                                        ratio=4 * (config["ffn_dim_multiplier"] or 1)),
                   positions=replace(spec.positions, axes=tuple(config["axes_dim_rope"])))


def rules(spec: Trunk, config: Config) -> Iterator[Rule]:
    """Where the weights of a ``Lumina2Transformer2DModel`` go."""
    c, p = config["in_channels"], spec.patch
    yield from patch_columns("patch_in.weight", "x_embedder.weight", c, p)
    yield from same("patch_in.bias", "x_embedder.bias")
    yield from embedder("time_in.time", "time_caption_embed.timestep_embedder")
    yield from same("text_in.before.weight", "time_caption_embed.caption_embedder.0.weight")
    yield from same("text_in.map", "time_caption_embed.caption_embedder.1", *BOTH)
    grouped = spec.attention.kv_heads not in (0, spec.attention.heads)
    for layer, block in blocks(spec):
        text = ".text" in layer
        yield from attention(f"{layer}.heads", f"{block}.attn", grouped)
        yield from gated_feed_forward(f"{layer}.feed_forward", f"{block}.feed_forward", "linear_{}")
        yield from same(f"{layer}.norm1.weight", f"{block}.norm1{'' if text else '.norm'}.weight")
        if not text:
            yield from same(f"{layer}.modulation.map", f"{block}.norm1.linear", *BOTH)
        for ours, theirs in (("norm2", "ffn_norm1"), ("after1", "norm2"), ("after2", "ffn_norm2")):
            yield from same(f"{layer}.{ours}.weight", f"{block}.{theirs}.weight")
    yield from same("head.modulation", "norm_out.linear_1", *BOTH)
    yield from patch_rows("head.out", "norm_out.linear_2", config["out_channels"] or c, p, sign=-1)


def z_spec_of(config: Config) -> Trunk:
    """The trunk of a ``ZImageTransformer2DModel``."""
    if config.get("siglip_feat_dim") or len(config["all_patch_size"]) > 1 or tuple(config["all_f_patch_size"]) != (1,):
        raise UserError("This Z-Image has picture features or several patch sizes, which are not known here.")
    spec = z_image(config["dim"], config["n_heads"], config["n_layers"], config["n_refiner_layers"])
    return replace(spec, patch=config["all_patch_size"][0], norm_eps=config["norm_eps"],
                   time=replace(spec.time, scale=config["t_scale"]), text=replace(spec.text, eps=config["norm_eps"]),
                   attention=replace(spec.attention, qk_norm="rms" if config["qk_norm"] else "none"),
                   positions=replace(spec.positions, axes=tuple(config["axes_dims"]), theta=config["rope_theta"]))


def z_rules(spec: Trunk, config: Config) -> Iterator[Rule]:
    """Where the weights of a ``ZImageTransformer2DModel`` go."""
    c, p, D = config["in_channels"], spec.patch, spec.width
    yield from patch_columns("patch_in.weight", f"all_x_embedder.{p}-1.weight", c, p)
    yield from same("patch_in.bias", f"all_x_embedder.{p}-1.bias")
    yield from embedder("time_in.time", "t_embedder.mlp", names=("0", "2"))
    yield from same("text_in.before.weight", "cap_embedder.0.weight")
    yield from same("text_in.map", "cap_embedder.1", *BOTH)
    yield from shaped("pad.picture", "x_pad_token", (D,), (1, D))
    yield from shaped("pad.text", "cap_pad_token", (D,), (1, D))
    for layer, block in blocks(spec):
        if ".text" not in layer:
            yield from same(f"{layer}.modulation.map", f"{block}.adaLN_modulation.0", *BOTH)
        yield from attention(f"{layer}.heads", f"{block}.attention", False, spec.attention.qk_norm != "none")
        yield from gated_feed_forward(f"{layer}.feed_forward", f"{block}.feed_forward", "w{}")
        for ours, theirs in (("norm1", "attention_norm1"), ("norm2", "ffn_norm1"), ("after1", "attention_norm2"),
                             ("after2", "ffn_norm2")):
            yield from same(f"{layer}.{ours}.weight", f"{block}.{theirs}.weight")
    yield from same("head.modulation", f"all_final_layer.{p}-1.adaLN_modulation.1", *BOTH)
    yield from patch_rows("head.out", f"all_final_layer.{p}-1.linear", c, p, sign=-1)


def blocks(spec: Trunk) -> Iterator[tuple[str, str]]:
    """Names of our layers and of their blocks."""
    for i in range(spec.refine):
        yield f"stages.refine_text.blocks.{i}.layers.text", f"context_refiner.{i}"
        yield f"stages.refine_picture.blocks.{i}.layers.picture", f"noise_refiner.{i}"
    for i in range(spec.single):
        yield f"stages.single_stream.blocks.{i}.layers.all", f"layers.{i}"


def attention(ours: str, theirs: str, grouped: bool, norms: bool = True) -> Iterator[Rule]:
    """Queries, keys, values and the way back; where queries are grouped they have a map of their own."""
    if grouped:
        yield from stacked(f"{ours}.q", [f"{theirs}.to_q"], False)
    yield from stacked(f"{ours}.qkv", [f"{theirs}.to_{n}" for n in ("kv" if grouped else "qkv")], False)
    yield from same(f"{ours}.out", f"{theirs}.to_out.0", "weight")
    for n in "qk" if norms else "":
        yield from same(f"{ours}.{n}_norm.weight", f"{theirs}.norm_{n}.weight")


def gated_feed_forward(ours: str, theirs: str, name: str) -> Iterator[Rule]:
    """SwiGLU, whose maps are numbered 1 (gate), 3 and 2 (back)."""
    yield from stacked(f"{ours}.inner", [f"{theirs}.{name.format(n)}" for n in "13"], False)
    yield from same(f"{ours}.outer", f"{theirs}.{name.format(2)}", "weight")


LUMINA2 = Family(spec_of, rules)
Z_IMAGE = Family(z_spec_of, z_rules)
