"""PRX, in latents and in pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fromnoise.interop.rules import Rule, same, shaped, stacked
from fromnoise.interop.transformers.common import BOTH, Config, Family, embedder, head_norms, only
from fromnoise.nets.trunk import Rotary, Trunk
from fromnoise.nets.trunk.presets import prx

NAMES = ("in_layer", "out_layer")


def spec_of(config: Config) -> Trunk:
    """The trunk of a ``PRXTransformer2DModel``."""
    only(config, time_max_period=10_000)
    spec = prx(config["hidden_size"], config["num_heads"], config["depth"], config["patch_size"],
               config["bottleneck_size"] or 0, config["resolution_embeds"])
    return replace(spec, feed_forward=replace(spec.feed_forward, ratio=config["mlp_ratio"]),
                   time=replace(spec.time, scale=config["time_factor"]),
                   positions=Rotary(axes=tuple(config["axes_dim"] or (32, 32)), theta=config["theta"], words="none"))


def rules(spec: Trunk, config: Config) -> Iterator[Rule]:
    """Where the weights of a ``PRXTransformer2DModel`` go."""
    D = spec.width
    for i in range(2) if spec.bottleneck else ():
        yield from same(f"patch_in.{i}", f"img_in.{i}", *BOTH)
    yield from () if spec.bottleneck else same("patch_in", "img_in", *BOTH)
    yield from embedder("time_in.time", "time_in", names=NAMES)
    if spec.time.numbers == "size":
        yield from embedder("time_in.numbers.embed", "resolution_embedder.mlp", names=NAMES)
    yield from same("text_in.map", "txt_in", *BOTH)
    for i in range(spec.read):
        layers, block = f"stages.read_stream.blocks.{i}.layers", f"blocks.{i}"
        picture, text = f"{layers}.picture", f"{layers}.text"
        yield from same(f"{picture}.modulation.map", f"{block}.modulation.lin", *BOTH)
        asked = f"{block}.attention"
        yield from shaped(f"{picture}.heads.qkv.weight", f"{asked}.img_qkv_proj.weight", (3, D, D), (3 * D, D))
        yield from shaped(f"{text}.heads.qkv.weight", f"{asked}.txt_kv_proj.weight", (2, D, D), (2 * D, D))
        yield from head_norms(f"{picture}.heads", asked)
        yield from same(f"{text}.heads.k_norm.weight", f"{asked}.norm_added_k.weight")
        yield from same(f"{picture}.heads.out.weight", f"{asked}.to_out.0.weight")
        yield from stacked(f"{picture}.feed_forward.inner", [f"{block}.gate_proj", f"{block}.up_proj"], False)
        yield from same(f"{picture}.feed_forward.outer.weight", f"{block}.down_proj.weight")
    yield from same("head.modulation", "final_layer.adaLN_modulation.1", *BOTH)
    yield from same("head.out", "final_layer.linear", *BOTH)


PRX = Family(spec_of, rules)
