"""The config.json with which diffusers builds a trunk of ours: the way back of ``Family.spec``."""

from __future__ import annotations

from typing import Any

from fromnoise.interop import unet
from fromnoise.interop.transformers import FAMILIES
from fromnoise.nets import Trunk, UNet
from fromnoise.nets.trunk import Rotary, SinCos
from fromnoise.recipe import Recipe
from fromnoise.system import System
from fromnoise.types import UserError


def config_of(spec: Trunk, channels: int, text_width: int | None, pooled_width: int | None,
              side: int) -> tuple[str, dict[str, Any]]:
    """(class, config) of the transformer of diffusers that is this trunk, for latents of ``side`` x ``side``.

    UserError where none is: every setting has to agree.
    """
    for kind, write in WRITERS.items():
        try:
            config = write(spec, channels, text_width, pooled_width, side)
            if FAMILIES[kind].spec(config) == spec:
                return kind, config
        except UserError:
            continue  # another family's network
    raise UserError("This network cannot be exported: diffusers has no transformer with all of its settings (a preset "
                    f"of one of {', '.join(WRITERS)} can be, trained with --net.patch 2 --net.time.scale 1000).")


def counterpart(recipe: Recipe, system: System) -> tuple[str, dict[str, Any]]:
    """(class, config) of the network of diffusers that is the network of a run of ours.  UserError where none is."""
    net, channels = system.denoiser.net, system.latents.channels
    text, side = system.text.width, recipe.data.height // system.latents.factor
    if isinstance(net.spec, Trunk):
        return config_of(net.spec, channels, text, system.text.pooled_width, side)
    assert isinstance(net.spec, UNet)
    config = {**unet.write_config(unet.Peer(net.spec, channels, text)), "sample_size": side}
    return config.pop("_class_name"), config


def shape(spec: Trunk) -> dict[str, Any]:
    """Heads and their size."""
    heads = spec.attention.heads
    return {"num_attention_heads": heads, "attention_head_dim": spec.width // heads}


def rotary(spec: Trunk) -> Rotary:
    """Its positions.  UserError where they are of another kind."""
    if not isinstance(spec.positions, Rotary):
        raise UserError("positions are not rotary")
    return spec.positions


def fixed(spec: Trunk) -> SinCos:
    """Its positions.  UserError where they are of another kind."""
    if not isinstance(spec.positions, SinCos):
        raise UserError("positions are not fixed sines")
    return spec.positions


def axes(spec: Trunk) -> list[int]:
    return list(rotary(spec).dealt(spec.width // spec.attention.heads))


def base(spec: Trunk) -> int:
    """Side, in latents, for which fixed places were made."""
    return fixed(spec).base * spec.patch


def sd3(spec: Trunk, channels, text, pooled, side) -> dict[str, Any]:
    return {**shape(spec), "sample_size": base(spec), "patch_size": spec.patch, "in_channels": channels,
            "out_channels": channels, "num_layers": spec.double, "joint_attention_dim": text,
            "caption_projection_dim": spec.width, "pooled_projection_dim": pooled,
            "pos_embed_max_size": fixed(spec).table or None, "dual_attention_layers": list(range(spec.alone)),
            "qk_norm": "rms_norm" if spec.attention.qk_norm == "rms" else None}


def flux1(spec: Trunk, channels, text, pooled, side) -> dict[str, Any]:
    return {**shape(spec), "in_channels": channels * 4, "out_channels": None, "patch_size": 1,
            "num_layers": spec.double, "num_single_layers": spec.single, "joint_attention_dim": text,
            "pooled_projection_dim": pooled, "guidance_embeds": spec.time.numbers == "guidance",
            "axes_dims_rope": axes(spec)}


def flux2(spec: Trunk, channels, text, pooled, side) -> dict[str, Any]:
    return {**shape(spec), "in_channels": channels * 4, "out_channels": None, "patch_size": 1,
            "num_layers": spec.double, "num_single_layers": spec.single, "joint_attention_dim": text,
            "timestep_guidance_channels": spec.time.waves, "mlp_ratio": spec.feed_forward.ratio, "eps": spec.norm_eps,
            "guidance_embeds": spec.time.numbers == "guidance", "axes_dims_rope": axes(spec),
            "rope_theta": int(rotary(spec).theta)}


def dit(spec: Trunk, channels, text, pooled, side) -> dict[str, Any]:
    return {**shape(spec), "in_channels": channels, "out_channels": channels * (1 + spec.learned_sigma),
            "num_layers": spec.single, "attention_bias": spec.attention.bias, "sample_size": base(spec),
            "patch_size": spec.patch, "activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000,
            "norm_type": "ada_norm_zero", "norm_elementwise_affine": False, "norm_eps": spec.norm2_eps,
            "norm_num_groups": 1}


def pixart(spec: Trunk, channels, text, pooled, side) -> dict[str, Any]:
    return {**shape(spec), "in_channels": channels, "out_channels": channels * (1 + spec.learned_sigma),
            "num_layers": spec.cross, "cross_attention_dim": spec.width, "attention_bias": True,
            "attention_type": "default", "sample_size": base(spec), "patch_size": spec.patch,
            "activation_fn": "gelu-approximate", "norm_type": "ada_norm_single", "norm_elementwise_affine": False,
            "norm_eps": spec.norm_eps, "interpolation_scale": fixed(spec).scale, "caption_channels": text,
            "use_additional_conditions": spec.time.numbers == "size_aspect", "norm_num_groups": 1}


def qwen_image(spec: Trunk, channels, text, pooled, side) -> dict[str, Any]:
    return {**shape(spec), "in_channels": channels * 4, "out_channels": channels, "patch_size": 2,
            "num_layers": spec.double, "joint_attention_dim": text, "axes_dims_rope": axes(spec),
            "guidance_embeds": False, "zero_cond_t": False, "use_additional_t_cond": False, "use_layer3d_rope": False}


def z_image(spec: Trunk, channels, text, pooled, side) -> dict[str, Any]:
    heads = spec.attention.heads
    return {"all_patch_size": [spec.patch], "all_f_patch_size": [1], "in_channels": channels, "dim": spec.width,
            "n_layers": spec.single, "n_refiner_layers": spec.refine, "n_heads": heads, "n_kv_heads": heads,
            "norm_eps": spec.norm_eps, "qk_norm": spec.attention.qk_norm == "rms", "cap_feat_dim": text,
            "siglip_feat_dim": None, "rope_theta": rotary(spec).theta, "t_scale": spec.time.scale,
            "axes_dims": axes(spec), "axes_lens": [1024, 512, 512]}


WRITERS = {
    "DiTTransformer2DModel": dit, "Flux2Transformer2DModel": flux2, "FluxTransformer2DModel": flux1,
    "PixArtTransformer2DModel": pixart, "QwenImageTransformer2DModel": qwen_image, "SD3Transformer2DModel": sd3,
    "ZImageTransformer2DModel": z_image,
}
