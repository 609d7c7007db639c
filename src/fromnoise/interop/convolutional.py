"""The names of autoencoders of GroupNorm residual blocks in diffusers, and ours.

Only names differ, but for attention, whose three matrices are one here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from fromnoise.folders import Weights
from fromnoise.types import UserError

BLOCKS = ("DownEncoderBlock2D", "UpDecoderBlock2D")
ATTENDED = ("AttnDownEncoderBlock2D", "AttnUpDecoderBlock2D")

# Ours to theirs.  {i} and {j} are numbers.
NAMES = {
    "quant": "quant_conv", "post_quant": "post_quant_conv",
    "{half}.enter": "{half}.conv_in", "{half}.norm": "{half}.conv_norm_out", "{half}.leave": "{half}.conv_out",
    "{half}.middle.first": "{half}.mid_block.resnets.0", "{half}.middle.second": "{half}.mid_block.resnets.1",
    "encoder.levels.{i}.{j}": "encoder.down_blocks.{i}.resnets.{j}",
    "encoder.down.{i}": "encoder.down_blocks.{i}.downsamplers.0.conv",
    "decoder.levels.{i}.{j}": "decoder.up_blocks.{i}.resnets.{j}",
    "decoder.up.{i}": "decoder.up_blocks.{i}.upsamplers.0.conv",
}
for ours, theirs in (("{half}.middle", "{half}.mid_block.attentions.0"),
                     ("encoder.levels.{i}.{j}", "encoder.down_blocks.{i}.attentions.{j}"),
                     ("decoder.levels.{i}.{j}", "decoder.up_blocks.{i}.attentions.{j}")):
    NAMES |= {f"{ours}.attention.norm": f"{theirs}.group_norm", f"{ours}.attention.qkv": f"{theirs}.to_q",
              f"{ours}.attention.out": f"{theirs}.to_out.0"}
OURS = {theirs: ours for ours, theirs in NAMES.items()}
QKV = (".to_q", ".to_k", ".to_v")
SKIP = {".skip": ".conv_shortcut", ".conv_shortcut": ".skip"}
OLD = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}  # before 2023


class NoCounterpart(UserError):
    """A config of theirs that ours does not have, or one of ours that theirs does not."""


def attended_levels(config: Mapping[str, Any], levels: int, known: Collection[str] = (*BLOCKS, *ATTENDED)) -> list[int]:
    """The levels, from the picture inwards, whose blocks have attention.

    NoCounterpart for blocks that are not ``known``, or where encoder and decoder do not mirror each other.
    """
    found = []
    for name, plain, attended in zip(("down_block_types", "up_block_types"), BLOCKS, ATTENDED, strict=True):
        kinds = list(config.get(name, [plain] * levels))
        if other := set(kinds) - set(known):
            raise NoCounterpart(f"An autoencoder with {name} {', '.join(sorted(other))} has no counterpart here.")
        found.append([i for i, kind in enumerate(kinds if name.startswith("down") else kinds[::-1])
                      if kind == attended])
    if found[0] != found[1]:
        raise NoCounterpart("An autoencoder with attention on other levels of its encoder than of its decoder has no "
                            "counterpart here.")
    return found[0]


def check_plain(config: Mapping[str, Any]) -> None:
    """NoCounterpart for other activations, or other channels out than in."""
    if config.get("act_fn", "silu") != "silu" or config.get("out_channels", 3) != config.get("in_channels", 3):
        raise NoCounterpart("An autoencoder whose act_fn is not silu, or that gives other channels than it takes, has "
                            "no counterpart here.")


def block_config(levels: int, attended: Collection[int] = ()) -> dict[str, list[str]]:
    """The types of blocks as a config of theirs names them."""
    down, up = ([pair[i in attended] for i in range(levels)] for pair in zip(BLOCKS, ATTENDED, strict=True))
    return {"down_block_types": down, "up_block_types": up[::-1]}


def statistics(config: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """(mean, std) of the latents, from factors or numbers a channel."""
    scale = config.get("scaling_factor") or 1.0
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        return list(config["latents_mean"]), [std / scale for std in config["latents_std"]]
    return [config.get("shift_factor") or 0.0], [1 / scale]


def factor(spec: Any) -> float:
    """The one scaling factor that some classes have.  NoCounterpart for other statistics."""
    if spec.mean != (0.0,) or len(spec.std) != 1:
        raise NoCounterpart(f"A {spec.kind} autoencoder of diffusers has one scaling factor for its latents, and no "
                            "mean or numbers a channel.")
    return float(f"{1 / spec.std[0]:.12g}")


def to_ours(weights: Mapping[str, Tensor]) -> Weights:
    """Their tensors under our names; one that has none here keeps its own, for the reader to complain of."""
    found = Weights({}, getattr(weights, "where", "The autoencoder"))
    theirs = {_modern(key): value for key, value in weights.items()}
    for key, value in theirs.items():
        module, _, parameter = key.rpartition(".")
        if module.endswith(QKV[0]):
            names = [f"{module.removesuffix(QKV[0])}{part}.{parameter}" for part in QKV]
            value = torch.cat([theirs[name] for name in names if name in theirs])
        if not module.endswith(QKV[1:]):
            found[f"{_renamed(module, OURS)}.{parameter}".lstrip(".")] = value
    return found


def to_theirs(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names."""
    found = {}
    for key, value in state.items():
        module, _, parameter = key.rpartition(".")
        name = _renamed(module, NAMES)
        if name.endswith(QKV[0]):
            start = name.removesuffix(QKV[0])
            found |= {f"{start}{part}.{parameter}": piece for part, piece in zip(QKV, value.chunk(3), strict=True)}
        else:
            found[f"{name}.{parameter}"] = value
    return found


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
