"""PixArt alpha and sigma."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fromnoise.interop.rules import Rule, patch_rows, same
from fromnoise.interop.transformers.common import (
    BOTH,
    Config,
    Family,
    cross_attention,
    embedder,
    feed_forward,
    only,
    patch_convolution,
    self_attention,
)
from fromnoise.nets.trunk import SinCos, Trunk
from fromnoise.nets.trunk.presets import pixart
from fromnoise.types import UserError


def spec_of(config: Config) -> Trunk:
    """The trunk of a ``PixArtTransformer2DModel``."""
    heads, p, c, sample = (config[k] for k in ("num_attention_heads", "patch_size", "in_channels", "sample_size"))
    width = heads * config["attention_head_dim"]
    only(config, norm_type="ada_norm_single", norm_elementwise_affine=False, activation_fn="gelu-approximate",
         attention_bias=True, attention_type="default", cross_attention_dim=width)
    if not config["caption_channels"]:
        raise UserError("The configuration has no caption_channels; a text that is not mapped is not known here.")
    sized = config["use_additional_conditions"]
    spec = pixart(width, heads, config["num_layers"], sample // p, sample == 128 if sized is None else sized)
    return replace(spec, patch=p, norm_eps=config["norm_eps"], learned_sigma=(config["out_channels"] or c) == 2 * c,
                   positions=SinCos(base=sample // p, scale=config["interpolation_scale"] or max(sample // 64, 1)))


def rules(spec: Trunk, config: Config) -> Iterator[Rule]:
    """Where the weights of a ``PixArtTransformer2DModel`` go."""
    D, p, c = spec.width, spec.patch, config["in_channels"]
    yield from patch_convolution("pos_embed.proj", D, c, p)
    yield from embedder("time_in.time", "adaln_single.emb.timestep_embedder")
    if spec.time.numbers == "size_aspect":
        yield from embedder("time_in.numbers.size", "adaln_single.emb.resolution_embedder")
        yield from embedder("time_in.numbers.aspect", "adaln_single.emb.aspect_ratio_embedder")
    yield from embedder("text_in.map", "caption_projection")
    yield from same("stages.cross_stream.maps.picture", "adaln_single.linear", *BOTH)
    for i in range(spec.cross):
        layer, block = f"stages.cross_stream.blocks.{i}.layers.picture", f"transformer_blocks.{i}"
        yield from same(f"{layer}.modulation.table", f"{block}.scale_shift_table")
        yield from self_attention(f"{layer}.heads", f"{block}.attn1")
        yield from cross_attention(f"{layer}.cross", f"{block}.attn2")
        yield from feed_forward(f"{layer}.feed_forward", f"{block}.ff.net")
    yield from same("head.table", "scale_shift_table")
    yield from patch_rows("head.out", "proj_out", config["out_channels"] or c, p)


PIXART = Family(spec_of, rules)
