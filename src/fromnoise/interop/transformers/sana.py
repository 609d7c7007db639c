"""Sana and Sana-Sprint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fromnoise.interop.rules import Rule, patch_rows, same, shaped
from fromnoise.interop.transformers.common import (
    BOTH,
    Config,
    Family,
    cross_attention,
    embedder,
    only,
    patch_convolution,
    self_attention,
)
from fromnoise.nets.trunk import NoPositions, SinCos, Trunk
from fromnoise.nets.trunk.presets import sana
from fromnoise.types import UserError


def spec_of(config: Config) -> Trunk:
    """The trunk of a ``SanaTransformer2DModel``."""
    heads, p, scale = (config[k] for k in ("num_attention_heads", "patch_size", "interpolation_scale"))
    width, cross = heads * config["attention_head_dim"], config["num_cross_attention_heads"]
    only(config, norm_elementwise_affine=False, cross_attention_dim=width, cross_attention_head_dim=width // cross,
         out_channels=config["in_channels"])
    if config["qk_norm"] not in (None, "rms_norm_across_heads"):
        raise UserError(f"qk_norm {config['qk_norm']!r} is not known here; Sana has none or \"rms_norm_across_heads\".")
    spec = sana(width, heads, config["num_layers"], cross, config["guidance_embeds"])
    return replace(
        spec, patch=p, norm_eps=config["norm_eps"],
        feed_forward=replace(spec.feed_forward, ratio=config["mlp_ratio"]),
        time=replace(spec.time, guidance_scale=config["guidance_embeds_scale"]),
        attention=replace(spec.attention, bias=config["attention_bias"],
                          qk_norm="rms_across" if config["qk_norm"] else "none"),
        positions=SinCos(base=config["sample_size"] // p, scale=scale) if scale else NoPositions())


def rules(spec: Trunk, config: Config) -> Iterator[Rule]:
    """Where the weights of a ``SanaTransformer2DModel`` go."""
    D, p, c, hidden = spec.width, spec.patch, config["in_channels"], spec.feed_forward.hidden(spec.width)
    norms, guided = spec.attention.qk_norm != "none", spec.time.numbers == "guidance"
    yield from patch_convolution("patch_embed.proj", D, c, p)
    yield from embedder("time_in.time", f"time_embed.{'' if guided else 'emb.'}timestep_embedder")
    if guided:
        yield from embedder("time_in.numbers.embed", "time_embed.guidance_embedder")
    yield from embedder("text_in.map", "caption_projection")
    yield from same("text_in.after.weight", "caption_norm.weight")
    yield from same("stages.cross_stream.maps.picture", "time_embed.linear", *BOTH)
    for i in range(spec.cross):
        layer, block = f"stages.cross_stream.blocks.{i}.layers.picture", f"transformer_blocks.{i}"
        yield from same(f"{layer}.modulation.table", f"{block}.scale_shift_table")
        yield from self_attention(f"{layer}.heads", f"{block}.attn1", spec.attention.bias, norms)
        yield from cross_attention(f"{layer}.cross", f"{block}.attn2", norms)
        ours, theirs = f"{layer}.feed_forward", f"{block}.ff"
        yield from shaped(f"{ours}.inner.weight", f"{theirs}.conv_inverted.weight",
                          (2 * hidden, D), (2 * hidden, D, 1, 1))
        yield from same(f"{ours}.inner.bias", f"{theirs}.conv_inverted.bias")
        yield from same(f"{ours}.depthwise", f"{theirs}.conv_depth", *BOTH)
        yield from shaped(f"{ours}.outer.weight", f"{theirs}.conv_point.weight", (D, hidden), (D, hidden, 1, 1))
    yield from same("head.table", "scale_shift_table")
    yield from patch_rows("head.out", "proj_out", c, p)


SANA = Family(spec_of, rules)
