"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fromnoise.interop.rules import Rule, patch_rows, reordered, same
from fromnoise.interop.transformers.common import BOTH, Config, Family, double_block, embedder, patch_convolution
from fromnoise.nets.trunk import SinCos, Trunk
from fromnoise.nets.trunk.presets import sd3
from fromnoise.types import UserError


def spec_of(config: Config) -> Trunk:
    """The trunk of an ``SD3Transformer2DModel``."""
    width, p = config["num_attention_heads"] * config["attention_head_dim"], config["patch_size"]
    spec = sd3(width, config["num_attention_heads"], config["num_layers"])
    alone = tuple(config.get("dual_attention_layers") or ())
    if alone != tuple(range(len(alone))):
        raise UserError(f"dual_attention_layers {list(alone)} are not the first blocks; only those are known here.")
    return replace(spec, patch=p, alone=len(alone),
                   positions=SinCos(base=config["sample_size"] // p, table=config["pos_embed_max_size"] or 0),
                   attention=replace(spec.attention, qk_norm="rms" if config.get("qk_norm") else "none"))


def rules(spec: Trunk, config: Config) -> Iterator[Rule]:
    """Where the weights of an ``SD3Transformer2DModel`` go."""
    D, p, c = spec.width, spec.patch, config["in_channels"]
    yield from patch_convolution("pos_embed.proj", D, c, p)
    yield from embedder("time_in.time", "time_text_embed.timestep_embedder")
    yield from embedder("time_in.pooled", "time_text_embed.text_embedder")
    yield from same("text_in.map", "context_embedder", *BOTH)
    for i in range(spec.double):
        layer, block = f"stages.double_stream.blocks.{i}.layers", f"transformer_blocks.{i}"
        yield from double_block(layer, block, D, spec.attention, last=i == spec.double - 1, alone=i < spec.alone)
    yield from reordered("head.modulation", "norm_out.linear", (1, 0))
    yield from patch_rows("head.out", "proj_out", config["out_channels"], p)


SD3 = Family(spec_of, rules, ("pos_embed.pos_embed",))
