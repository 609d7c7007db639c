"""The film autoencoder of Wan 2.1 (AutoencoderKLWan) as ours, and back.

Gains of norms and 1x1 convolutions have axes of length 1 there that they do not have here; else only names differ.

    z = (raw - latents_mean) / latents_std
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fromnoise.config import from_dict
from fromnoise.interop.convolutional import NoCounterpart, statistics
from fromnoise.interop.rules import Rule, same
from fromnoise.latents import CausalKL

CLASS = "AutoencoderKLWan"
PLAIN = {"attn_scales": [], "is_residual": False, "patch_size": None, "dropout": 0.0}  # what ours has no choice in


def wan_spec(config: Mapping[str, Any]) -> CausalKL:
    """The spec of an AutoencoderKLWan.  NoCounterpart naming what ours does not have."""
    other = [name for name, value in PLAIN.items() if (config.get(name) or value) != value]
    if other or config.get("out_channels", 3) != config.get("in_channels", 3):
        raise NoCounterpart(f"An {CLASS} with {other[0] if other else 'other channels out than in'} has no counterpart "
                            "here.")
    base, times = config.get("base_dim", 96), config.get("dim_mult", [1, 2, 4, 4])
    if times[0] != 1:
        raise NoCounterpart(f"An {CLASS} whose dim_mult does not begin with 1 has no counterpart here.")
    if config.get("latents_mean") is None or config.get("latents_std") is None:
        raise NoCounterpart(f"The config of {CLASS} must hold latents_mean and latents_std.")
    mean, std = statistics(config)
    inner = config.get("decoder_base_dim")
    fields = {
        "channels": config.get("z_dim", 16), "widths": [base * n for n in times],
        "halved": config.get("temperal_downsample", [False, True, True]),
        "decoder_widths": None if inner is None else [inner * n for n in times],
        "depth": config.get("num_res_blocks", 2), "norm": "rms", "groups": 1, "narrowing": True, "mean": mean,
        "std": std,
    }
    return from_dict(CausalKL, fields, f"The config of {CLASS}")


def wan_config(spec: CausalKL, channels: int) -> dict[str, Any]:
    """The config of an AutoencoderKLWan of films with ``channels``.  NoCounterpart for what it does not have."""
    inner = spec.decoder_widths or spec.widths
    times = [width // spec.widths[0] for width in spec.widths]
    plain = spec.norm == "rms" and spec.narrowing and spec.attention and spec.unshuffle == 1
    if not plain or any([first * n for n in times] != list(widths)
                        for first, widths in ((spec.widths[0], spec.widths), (inner[0], inner))):
        raise NoCounterpart(f"An {CLASS} of diffusers has norms of kind rms, attention, narrowing, no unshuffle and "
                            "widths that are multiples of the first: this autoencoder cannot be written as one.")
    mean, std = (list(v) * (spec.channels if len(v) == 1 else 1) for v in (spec.mean, spec.std))
    return {
        "base_dim": spec.widths[0], "decoder_base_dim": inner[0], "z_dim": spec.channels, "dim_mult": times,
        "num_res_blocks": spec.depth, "temperal_downsample": list(spec.halved), "in_channels": channels,
        "out_channels": channels, "latents_mean": mean, "latents_std": std, **PLAIN,
        "scale_factor_temporal": 2 ** sum(spec.halved), "scale_factor_spatial": 2 ** len(spec.halved),
    }


def wan_rules(spec: CausalKL) -> list[Rule]:
    """Which tensors of ours are which of theirs."""
    rules = [*_unit("quant", "quant_conv", 1), *_unit("post_quant", "post_quant_conv", 1)]
    for half, widths in (("encoder", spec.widths), ("decoder", (spec.decoder_widths or spec.widths)[::-1])):
        rules += [*same(f"{half}.enter", f"{half}.conv_in", "weight", "bias"),
                  *same(f"{half}.leave", f"{half}.conv_out", "weight", "bias"),
                  *_longer(f"{half}.norm.weight", f"{half}.norm_out.gamma", 3),
                  *_middle(f"{half}.middle", f"{half}.mid_block")]
        for ours, theirs, before, width in _blocks(spec, half, widths):
            rules += _residual(ours, theirs, before != width)
    for i, halved in enumerate(spec.halved):  # there, blocks and what halves are one list
        at = (i + 1) * (spec.depth + 1) - 1
        rules += _resample(f"encoder.down.{i}", f"encoder.down_blocks.{at}", halved)
    for i, doubled in enumerate(spec.halved[::-1]):
        rules += _resample(f"decoder.up.{i}", f"decoder.up_blocks.{i}.upsamplers.0", doubled)
    return rules


def _blocks(spec: CausalKL, half: str, widths: tuple[int, ...]) -> Iterator[tuple[str, str, int, int]]:
    """(our name, theirs, width before, width) of the residual blocks of the levels of one half."""
    up, before = half == "decoder", widths[0]
    for i, width in enumerate(widths):
        for j in range(spec.depth + up):
            at = f"up_blocks.{i}.resnets.{j}" if up else f"down_blocks.{i * (spec.depth + 1) + j}"
            yield f"{half}.levels.{i}.{j}", f"{half}.{at}", before, width
            before = width
        before = width // 2 if up else width


def _residual(ours: str, theirs: str, wider: bool) -> list[Rule]:
    rules = []
    for i in (1, 2):
        rules += [*_longer(f"{ours}.norm{i}.weight", f"{theirs}.norm{i}.gamma", 3),
                  *same(f"{ours}.conv{i}", f"{theirs}.conv{i}", "weight", "bias")]
    return [*rules, *(_unit(f"{ours}.skip", f"{theirs}.conv_shortcut", 1) if wider else [])]


def _middle(ours: str, theirs: str) -> list[Rule]:
    return [*_residual(f"{ours}.first", f"{theirs}.resnets.0", False),
            *_longer(f"{ours}.attention.norm.weight", f"{theirs}.attentions.0.norm.gamma", 2),
            *_unit(f"{ours}.attention.qkv", f"{theirs}.attentions.0.to_qkv", 2),
            *_unit(f"{ours}.attention.out", f"{theirs}.attentions.0.proj", 2),
            *_residual(f"{ours}.second", f"{theirs}.resnets.1", False)]


def _resample(ours: str, theirs: str, frames: bool) -> list[Rule]:
    return [*same(f"{ours}.space", f"{theirs}.resample.1", "weight", "bias"),
            *(same(f"{ours}.frames", f"{theirs}.time_conv", "weight", "bias") if frames else [])]


def _unit(ours: str, theirs: str, more: int) -> list[Rule]:
    """A map of each place whose weight has ``more`` axes of length 1 there."""
    return [*_longer(f"{ours}.weight", f"{theirs}.weight", more), *same(f"{ours}.bias", f"{theirs}.bias")]


def _longer(ours: str, theirs: str, more: int) -> list[Rule]:
    """A tensor that has ``more`` axes of length 1 at its end there."""
    return [Rule((ours,), (theirs,), lambda x: [x[0].reshape(x[0].shape[: x[0].ndim - more])],
                 lambda x: [x[0].reshape(*x[0].shape, *[1] * more)])]
