"""Autoencoders of diffusers as ours, and back; those that have no counterpart are wrapped as they are.

    AutoencoderKL       z = (raw - shift_factor) scaling_factor,  or with latents_mean and latents_std
                        z = (raw - latents_mean) / latents_std scaling_factor
    AutoencoderKLFlux2  z = (pack(raw) - running_mean) / sqrt(running_var + batch_norm_eps)
    VQModel             z = raw scaling_factor, before the nearest entry of the codebook is taken
    AutoencoderDC       z = raw scaling_factor
    AutoencoderKLWan    z = (raw - latents_mean) / latents_std
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise.config import from_dict
from fromnoise.folders import Component, Weights
from fromnoise.interop.assemble import assemble
from fromnoise.interop.convolutional import (
    BLOCKS,
    NoCounterpart,
    attended_levels,
    block_config,
    check_plain,
    factor,
    statistics,
    to_ours,
    to_theirs,
)
from fromnoise.interop.deep import dc_config, dc_rules, dc_spec
from fromnoise.interop.rules import give, take
from fromnoise.interop.wan import CLASS as WAN
from fromnoise.interop.wan import wan_config, wan_rules, wan_spec
from fromnoise.latents import (
    DC,
    KL,
    VQ,
    CausalKL,
    CausalKLLatents,
    DCLatents,
    Foreign,
    ForeignLatents,
    KLLatents,
    VQLatents,
)
from fromnoise.latents.foreign import MANNERS
from fromnoise.types import UserError

CLASSES = ("AutoencoderKL", "AutoencoderKLFlux2")
EXPORTED = (KLLatents, CausalKLLatents, VQLatents, DCLatents)
CODEBOOK = "quantize.embedding.weight"
AutoencoderSpec = KL | CausalKL | VQ | DC | Foreign


def load_latents(part: Component, variant: str | None = None,
                 dtype: torch.dtype | None = None,
                 ) -> KLLatents | CausalKLLatents | VQLatents | DCLatents | ForeignLatents:
    """The autoencoder in a folder, frozen: ours where it can be, else that of diffusers.

    UserError where it is of neither, or its config or weights are not what they should be.
    """
    weights = part.weights(variant, dtype)
    spec = spec_of(part.kind, part.config, weights)
    channels = int(part.config.get("in_channels", 3))
    found = assemble(lambda: spec.build(channels), weights_of(spec, weights), weights.where)
    return found.requires_grad_(False).eval()


def spec_of(kind: str, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> AutoencoderSpec:
    """The spec of an autoencoder of class ``kind``, ours where it can be.  UserError where it is not known."""
    if kind == WAN:
        return wan_spec(config)
    try:
        if kind == "VQModel":
            return vq_spec(config)
        if kind == "AutoencoderDC":
            return dc_spec(config)
    except NoCounterpart:
        return foreign_spec(kind, config)
    return foreign_spec(kind, config) if kind in MANNERS else kl_spec(kind, config, weights)


def weights_of(spec: AutoencoderSpec, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Their tensors under our names."""
    if isinstance(spec, Foreign):
        return {f"model.{key}": value for key, value in weights.items()}
    if isinstance(spec, DC):
        return take(dict(weights), dc_rules(spec))
    if isinstance(spec, CausalKL):
        return take(dict(weights), wan_rules(spec))
    return from_diffusers(weights)


def from_diffusers(weights: Mapping[str, Tensor]) -> Weights:
    """The tensors of a KL or VQ autoencoder under our names; one that has none here keeps its own."""
    found = to_ours({key: value for key, value in weights.items() if not key.startswith("bn.")})
    found.where = getattr(weights, "where", found.where)
    if CODEBOOK in found:
        entries = found.pop(CODEBOOK)
        found |= {"quantiser.entries": entries, "quantiser.usage": torch.ones(len(entries))}
    return found


def to_diffusers(module: nn.Module) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """(class, config, tensors) with which diffusers opens our autoencoder.  UserError where it has none like it."""
    if not isinstance(module, EXPORTED):
        raise NoCounterpart(f"The autoencoder {type(module).__name__} has no counterpart in diffusers.")
    spec, tensors = module.settled()
    if isinstance(spec, KL):
        return kl_to_diffusers(spec, tensors)
    if isinstance(spec, VQ):
        entries = tensors.pop("quantiser.entries")
        del tensors["quantiser.usage"]
        config = vq_config(spec, tensors["encoder.enter.weight"].shape[1])
        return "VQModel", config, to_theirs(tensors) | {CODEBOOK: entries}
    channels = next(module.encoder.enter.parameters()).shape[1]
    if isinstance(spec, CausalKL):
        return WAN, wan_config(spec, channels), give(tensors, wan_rules(spec))
    return "AutoencoderDC", dc_config(spec, channels), give(tensors, dc_rules(spec))


# ---- wrapped ---------------------------------------------------------------------------------------------


def foreign_spec(kind: str, config: Mapping[str, Any]) -> Foreign:
    """The spec of an autoencoder that is wrapped; Qwen-Image's has its own numbers a channel, the others a factor."""
    mean, std = statistics(config)
    return from_dict(Foreign, {"name": kind, "config": dict(config), "mean": mean, "std": std}, f"The config of {kind}")


# ---- KL --------------------------------------------------------------------------------------------------


def kl_spec(kind: str, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> KL:
    """The spec of an autoencoder of class ``kind``; UserError naming what ours does not have."""
    if kind not in CLASSES:
        raise UserError(f"The autoencoder {kind} has no counterpart here: it must be one of "
                        f"{', '.join((*CLASSES, WAN, *MANNERS))}.")
    flux2 = kind == "AutoencoderKLFlux2"
    widths = config.get("block_out_channels", (128, 256, 512, 512) if flux2 else (64,))
    attended_levels(config, len(widths), BLOCKS)
    check_plain(config)
    patch = tuple(config.get("patch_size", (2, 2))) if flux2 else (1, 1)
    if len(set(patch)) != 1:
        raise UserError(f"An autoencoder with patch_size {list(patch)}, which is not square, has no counterpart here.")
    mean, std = batch_statistics(config, weights) if flux2 else statistics(config)
    fields = {
        "channels": config.get("latent_channels", 32 if flux2 else 4), "widths": widths,
        "decoder_widths": config.get("decoder_block_out_channels"),
        "depth": config.get("layers_per_block", 2 if flux2 else 1), "groups": config.get("norm_num_groups", 32),
        "attention": config.get("mid_block_add_attention", True), "quant": config.get("use_quant_conv", True),
        "post_quant": config.get("use_post_quant_conv", True), "patch": patch[0], "mean": mean, "std": std,
    }
    return from_dict(KL, fields, f"The config of {kind}")


def batch_statistics(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[list[float], list[float]]:
    """(mean, std) of BatchNorm's running statistics."""
    variance = weights["bn.running_var"].double() + config.get("batch_norm_eps", 1e-4)
    return weights["bn.running_mean"].double().tolist(), variance.sqrt().tolist()


def kl_to_diffusers(spec: KL, weights: dict[str, Tensor]) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """``to_diffusers`` of a KL autoencoder: AutoencoderKL where that can hold it, else AutoencoderKLFlux2."""
    tensors, channels = to_theirs(weights), weights["encoder.enter.weight"].shape[1]
    config: dict[str, Any] = {
        "in_channels": channels, "out_channels": channels, "latent_channels": spec.channels,
        **block_config(len(spec.widths)), "block_out_channels": list(spec.widths),
        "layers_per_block": spec.depth, "norm_num_groups": spec.groups, "use_quant_conv": spec.quant,
        "use_post_quant_conv": spec.post_quant, "mid_block_add_attention": spec.attention,
    }
    if spec.patch == 1 and spec.decoder_widths is None:
        return CLASSES[0], config | _factors(spec), tensors
    eps = 1e-4
    count = spec.channels * spec.patch**2
    mean, std = (torch.tensor(v, dtype=torch.float64).expand(count) for v in (spec.mean, spec.std))
    tensors |= {"bn.running_mean": mean.float(), "bn.running_var": (std.square() - eps).float(),
                "bn.num_batches_tracked": torch.tensor(0)}
    config |= {"patch_size": [spec.patch] * 2, "batch_norm_eps": eps,
               "decoder_block_out_channels": spec.decoder_widths and list(spec.decoder_widths)}
    return CLASSES[1], config, tensors


def _factors(spec: KL) -> dict[str, Any]:
    """The statistics as AutoencoderKL's config has them."""
    if len(spec.mean) == len(spec.std) == 1:
        return {"scaling_factor": float(f"{1 / spec.std[0]:.12g}"), "shift_factor": spec.mean[0] or None}
    mean, std = (list(v) * (spec.channels if len(v) == 1 else 1) for v in (spec.mean, spec.std))
    return {"latents_mean": mean, "latents_std": std, "scaling_factor": 1.0}


# ---- VQ --------------------------------------------------------------------------------------------------


def vq_spec(config: Mapping[str, Any]) -> VQ:
    """The spec of a VQModel.  NoCounterpart naming what ours does not have."""
    if config.get("norm_type", "group") != "group":
        raise NoCounterpart(f"A VQModel with norm_type {config['norm_type']} has no counterpart here.")
    check_plain(config)
    widths, inner = config.get("block_out_channels", (64,)), config.get("latent_channels", 3)
    mean, std = statistics({"scaling_factor": 0.18215} | dict(config))
    fields = {
        "codebook": config.get("num_vq_embeddings", 256), "channels": config.get("vq_embed_dim") or inner,
        "inner": inner, "widths": widths, "depth": config.get("layers_per_block", 1),
        "groups": config.get("norm_num_groups", 32), "attention": config.get("mid_block_add_attention", True),
        "attended": attended_levels(config, len(widths)), "mean": mean, "std": std,
    }
    return from_dict(VQ, fields, "The config of VQModel")


def vq_config(spec: VQ, channels: int) -> dict[str, Any]:
    """The config of a VQModel of media with ``channels``.  NoCounterpart for what it does not have."""
    if spec.unit or spec.decoder_widths not in (None, spec.widths):
        raise NoCounterpart("A VQModel of diffusers has no codes of unit length and no widths of its own for the "
                            "decoder: this autoencoder cannot be written as one.")
    return {
        "in_channels": channels, "out_channels": channels, "latent_channels": spec.inner or spec.channels,
        "vq_embed_dim": spec.channels, "num_vq_embeddings": spec.codebook, "block_out_channels": list(spec.widths),
        **block_config(len(spec.widths), spec.attended), "layers_per_block": spec.depth,
        "norm_num_groups": spec.groups, "mid_block_add_attention": spec.attention, "scaling_factor": factor(spec),
    }
