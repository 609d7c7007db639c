"""DiT, as diffusers has it: with one copy of the time and class embedder in every block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fromnoise.interop.rules import Rule, copies, patch_rows, same
from fromnoise.interop.transformers.common import (
    BOTH,
    Config,
    Family,
    feed_forward,
    only,
    patch_convolution,
    self_attention,
)
from fromnoise.nets.trunk import SinCos, Trunk
from fromnoise.nets.trunk.presets import dit


def spec_of(config: Config) -> Trunk:
    """The trunk of a ``DiTTransformer2DModel``."""
    only(config, norm_type="ada_norm_zero", norm_elementwise_affine=False, activation_fn="gelu-approximate")
    heads, p, c = config["num_attention_heads"], config["patch_size"], config["in_channels"]
    spec = dit(heads * config["attention_head_dim"], heads, config["num_layers"], p)
    return replace(spec, positions=SinCos(base=config["sample_size"] // p), norm2_eps=config["norm_eps"],
                   attention=replace(spec.attention, bias=config["attention_bias"]),
                   time=replace(spec.time, shift=1.0), learned_sigma=(config["out_channels"] or c) == 2 * c)


def rules(spec: Trunk, config: Config) -> Iterator[Rule]:
    """Where the weights of a ``DiTTransformer2DModel`` go."""
    D, p, c = spec.width, spec.patch, config["in_channels"]
    blocks = [f"transformer_blocks.{i}" for i in range(spec.single)]
    yield from patch_convolution("pos_embed.proj", D, c, p)
    for ours, theirs in ((0, "linear_1"), (2, "linear_2")):
        for kind in BOTH:
            yield from copies(f"time_in.time.{ours}.{kind}",
                              [f"{block}.norm1.emb.timestep_embedder.{theirs}.{kind}" for block in blocks])
    for i, block in enumerate(blocks):
        layer = f"stages.single_stream.blocks.{i}.layers.all"
        yield from same(f"{layer}.modulation.map", f"{block}.norm1.linear", *BOTH)
        yield from self_attention(f"{layer}.heads", f"{block}.attn1", spec.attention.bias)
        yield from feed_forward(f"{layer}.feed_forward", f"{block}.ff.net")
    yield from same("head.modulation", "proj_out_1", *BOTH)
    yield from patch_rows("head.out", "proj_out_2", config["out_channels"] or c, p)


def told(config: Config) -> Iterator[Rule]:
    """The table of classes, whose last row is that of no class."""
    yield from copies("table", [f"transformer_blocks.{i}.norm1.emb.class_embedder.embedding_table.weight"
                                for i in range(config["num_layers"])])


DIT = Family(spec_of, rules, told=told)
