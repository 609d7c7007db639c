"""Diffusers' AutoencoderKL and AutoencoderKLFlux2 to our KL autoencoder, and back; others are wrapped as they are.

Only names differ, but for attention, whose three matrices are one here, and for the statistics of the latents:

    AutoencoderKL       z = (raw - shift_factor) scaling_factor,  or with latents_mean and latents_std
                        z = (raw - latents_mean) / latents_std scaling_factor
    AutoencoderKLFlux2  z = (pack(raw) - running_mean) / sqrt(running_var + batch_norm_eps)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fromnoise.config import from_dict
from fromnoise.folders import Component, Weights
from fromnoise.interop.assemble import assemble
from fromnoise.latents import KL, Foreign, ForeignLatents, KLLatents
from fromnoise.latents.foreign import MANNERS
from fromnoise.types import UserError

CLASSES = ("AutoencoderKL", "AutoencoderKLFlux2")
BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}

# Ours to theirs.  {i} and {j} are numbers.
NAMES = {
    "quant": "quant_conv", "post_quant": "post_quant_conv",
    "{half}.enter": "{half}.conv_in", "{half}.norm": "{half}.conv_norm_out", "{half}.leave": "{half}.conv_out",
    "{half}.middle.first": "{half}.mid_block.resnets.0", "{half}.middle.second": "{half}.mid_block.resnets.1",
    "{half}.middle.attention.norm": "{half}.mid_block.attentions.0.group_norm",
    "{half}.middle.attention.out": "{half}.mid_block.attentions.0.to_out.0",
    "encoder.levels.{i}.{j}": "encoder.down_blocks.{i}.resnets.{j}",
    "encoder.down.{i}": "encoder.down_blocks.{i}.downsamplers.0.conv",
    "decoder.levels.{i}.{j}": "decoder.up_blocks.{i}.resnets.{j}",
    "decoder.up.{i}": "decoder.up_blocks.{i}.upsamplers.0.conv",
}
OURS = {theirs: ours for ours, theirs in NAMES.items()}
QKV = [f"attentions.0.to_{letter}" for letter in "qkv"]
OLD = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}  # before 2023


def load_latents(part: Component, variant: str | None = None,
                 dtype: torch.dtype | None = None) -> KLLatents | ForeignLatents:
    """The autoencoder in a folder, frozen: ours where it can be, else that of diffusers.

    UserError where it is of neither, or its config or weights are not what they should be.
    """
    weights = part.weights(variant, dtype)
    if part.kind in MANNERS:
        found = assemble(lambda: foreign_spec(part.kind, part.config).build(3),
                         {f"model.{key}": value for key, value in weights.items()}, weights.where)
    else:
        spec = kl_spec(part.kind, part.config, weights)
        found = assemble(lambda: spec.build(int(part.config.get("in_channels", 3))), from_diffusers(weights),
                         weights.where)
    return found.requires_grad_(False).eval()


def foreign_spec(kind: str, config: Mapping[str, Any]) -> Foreign:
    """The spec of an autoencoder that is wrapped; Qwen-Image's has its own numbers a channel, the others a factor."""
    mean, std = statistics(config)
    return from_dict(Foreign, {"name": kind, "config": dict(config), "mean": mean, "std": std}, f"The config of {kind}")


def kl_spec(kind: str, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> KL:
    """The spec of an autoencoder of class ``kind``; UserError naming what ours does not have."""
    if kind not in CLASSES:
        raise UserError(f"The autoencoder {kind} has no counterpart here: it must be one of "
                        f"{', '.join((*CLASSES, *MANNERS))}.")
    flux2 = kind == "AutoencoderKLFlux2"
    for name, known in BLOCKS.items():
        if other := set(config.get(name, ())) - {known}:
            raise UserError(f"An autoencoder with {name} {', '.join(sorted(other))} has no counterpart here.")
    if config.get("act_fn", "silu") != "silu" or config.get("out_channels", 3) != config.get("in_channels", 3):
        raise UserError("An autoencoder whose act_fn is not silu, or that gives other channels than it takes, has no "
                        "counterpart here.")
    patch = tuple(config.get("patch_size", (2, 2))) if flux2 else (1, 1)
    if len(set(patch)) != 1:
        raise UserError(f"An autoencoder with patch_size {list(patch)}, which is not square, has no counterpart here.")
    mean, std = batch_statistics(config, weights) if flux2 else statistics(config)
    fields = {
        "channels": config.get("latent_channels", 32 if flux2 else 4),
        "widths": config.get("block_out_channels", (128, 256, 512, 512) if flux2 else (64,)),
        "decoder_widths": config.get("decoder_block_out_channels"),
        "depth": config.get("layers_per_block", 2 if flux2 else 1), "groups": config.get("norm_num_groups", 32),
        "attention": config.get("mid_block_add_attention", True), "quant": config.get("use_quant_conv", True),
        "post_quant": config.get("use_post_quant_conv", True), "patch": patch[0], "mean": mean, "std": std,
    }
    return from_dict(KL, fields, f"The config of {kind}")


def statistics(config: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """(mean, std) of the latents, from factors or numbers a channel."""
    scale = config.get("scaling_factor") or 1.0
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        return list(config["latents_mean"]), [std / scale for std in config["latents_std"]]
    return [config.get("shift_factor") or 0.0], [1 / scale]


def batch_statistics(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[list[float], list[float]]:
    """(mean, std) of BatchNorm's running statistics."""
    variance = weights["bn.running_var"].double() + config.get("batch_norm_eps", 1e-4)
    return weights["bn.running_mean"].double().tolist(), variance.sqrt().tolist()


def from_diffusers(weights: Mapping[str, Tensor]) -> Weights:
    """Their tensors under our names; one that has none here keeps its own, for the reader to complain of."""
    found = Weights({}, getattr(weights, "where", "The autoencoder"))
    theirs = {_modern(key): value for key, value in weights.items() if not key.startswith("bn.")}
    for key, value in theirs.items():
        module, _, parameter = key.rpartition(".")
        if module.endswith(QKV[0]):
            parts = [theirs[key.replace("to_q", f"to_{letter}")] for letter in "qkv" if
                     key.replace("to_q", f"to_{letter}") in theirs]
            half = key.partition(".")[0]
            found[f"{half}.middle.attention.qkv.{parameter}"] = torch.cat(parts)
        elif not module.endswith((QKV[1], QKV[2])):
            found[f"{_renamed(module, OURS)}.{parameter}".lstrip(".")] = value
    return found


def to_diffusers(module: KLLatents) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """(class, config, tensors) with which diffusers opens our autoencoder."""
    spec, tensors = module.spec, {}
    for key, value in module.state_dict().items():
        name, _, parameter = key.rpartition(".")
        if name.endswith("attention.qkv"):
            start = name.partition(".")[0] + ".mid_block."
            tensors |= {f"{start}{part}.{parameter}": piece
                        for part, piece in zip(QKV, value.chunk(3), strict=True)}
        else:
            tensors[f"{_renamed(name, NAMES)}.{parameter}"] = value
    levels, channels = len(spec.widths), module.encoder.enter.in_channels
    config: dict[str, Any] = {
        "in_channels": channels, "out_channels": channels, "latent_channels": spec.channels,
        "down_block_types": [BLOCKS["down_block_types"]] * levels,
        "up_block_types": [BLOCKS["up_block_types"]] * levels, "block_out_channels": list(spec.widths),
        "layers_per_block": spec.depth, "norm_num_groups": spec.groups, "use_quant_conv": spec.quant,
        "use_post_quant_conv": spec.post_quant, "mid_block_add_attention": spec.attention,
    }
    if spec.patch == 1 and spec.decoder_widths is None:
        return CLASSES[0], config | _factors(spec), tensors
    eps = 1e-4
    count = module.channels
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


def _modern(key: str) -> str:
    for old, new in OLD.items():
        if "attentions" in key:
            key = key.replace(old, new)
    return key


def _renamed(module: str, names: Mapping[str, str]) -> str:
    """The name of a module by the first pattern it matches, with what stands below it kept or mapped."""
    for source, target in names.items():
        pattern = re.escape(source).replace(r"\{half\}", "(?P<half>encoder|decoder)")
        pattern = pattern.replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{j\}", r"(?P<j>\d+)")
        if found := re.fullmatch(rf"{pattern}(?P<rest>\.\w+)?", module):
            rest = found["rest"] or ""
            return target.format(**found.groupdict()) + SKIP.get(rest, rest)
    return module


SKIP = {".skip": ".conv_shortcut", ".conv_shortcut": ".skip"}
