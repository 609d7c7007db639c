"""Diffusers' AutoencoderDC to our deep compression autoencoder, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fromnoise.config import from_dict
from fromnoise.interop.convolutional import NoCounterpart, factor, statistics
from fromnoise.interop.rules import Rule, same
from fromnoise.latents.deep import DC, Levels

HALVES = ("encoder", "decoder")
KINDS = ("ResBlock", "EfficientViTBlock")
NORMS = {"rms_norm": "rms", "batch_norm": "batch"}
DOWN = {"pixel_unshuffle": "shuffle"}  # any other word is a strided convolution
UP = {"interpolate": "repeat"}  # any other word is a shuffle
DEPTHS = ((2, 2, 2, 3, 3, 3), (3, 3, 3, 3, 3, 3))
WIDTHS = (128, 256, 512, 512, 1024, 1024)
SCALES = ((), (), (), (5,), (5,), (5,))


def dc_spec(config: Mapping[str, Any]) -> DC:
    """The spec of an AutoencoderDC.  NoCounterpart naming what ours does not have."""
    widths = [tuple(config.get(f"{half}_block_out_channels", WIDTHS)) for half in HALVES]
    depths = [tuple(config.get(f"{half}_layers_per_block", d)) for half, d in zip(HALVES, DEPTHS, strict=True)]
    levels = len(widths[0])
    attended = {_attended(_each(config.get(f"{half}_block_types", KINDS[0]), levels)) for half in HALVES}
    if len(attended) != 1:
        raise NoCounterpart("A deep compression autoencoder with attention on other levels of its encoder than of its "
                            "decoder has no counterpart here.")
    inside = attended.pop()
    plain = levels - inside
    scales = {tuple(side) for half in HALVES for side in config.get(f"{half}_qkv_multiscales", SCALES)[plain:]}
    norms = _each(config.get("decoder_norm_types", "rms_norm"), levels)
    activations = set(_each(config.get("decoder_act_fns", "silu"), levels)[:plain])
    if len(scales) > 1 or len(set(norms[:plain])) > 1 or len(activations) > 1 or set(norms[plain:]) - {"rms_norm"}:
        raise NoCounterpart("A deep compression autoencoder whose levels of one kind differ in qkv_multiscales, "
                            "norm_types or act_fns has no counterpart here.")
    mean, std = statistics(config)
    fields = {
        "channels": config.get("latent_channels", 32), "widths": widths[0], "depths": depths[0],
        "decoder_widths": widths[1], "decoder_depths": depths[1], "attended": inside,
        "head": config.get("attention_head_dim", 32), "scales": next(iter(scales), ()),
        "down": DOWN.get(config.get("downsample_block_type", "pixel_unshuffle"), "stride"),
        "up": UP.get(config.get("upsample_block_type", "pixel_shuffle"), "shuffle"),
        "decoder_norm": NORMS.get(norms[0], norms[0]) if plain else "rms",
        "decoder_activation": next(iter(activations), "silu"),
        "last_activation": config.get("decoder_conv_act_fn", "relu"),
        "out_shortcut": config.get("encoder_out_shortcut", True),
        "in_shortcut": config.get("decoder_in_shortcut", True), "mean": mean, "std": std,
    }
    return from_dict(DC, fields, "The config of AutoencoderDC")


def dc_config(spec: DC, channels: int) -> dict[str, Any]:
    """The config of an AutoencoderDC of media with ``channels``.  NoCounterpart for statistics that it cannot hold."""
    levels = len(spec.widths)
    plain = levels - min(spec.attended, levels)
    kinds = [KINDS[i >= plain] for i in range(levels)]
    scales = [list(spec.scales) if i >= plain else [] for i in range(levels)]
    norm = {ours: theirs for theirs, ours in NORMS.items()}[spec.decoder_norm]
    config: dict[str, Any] = {"in_channels": channels, "latent_channels": spec.channels,
                              "attention_head_dim": spec.head, "scaling_factor": factor(spec)}
    for half, found in (("encoder", spec.encoder), ("decoder", spec.decoder)):
        config |= {f"{half}_block_types": kinds, f"{half}_block_out_channels": list(found.widths),
                   f"{half}_layers_per_block": list(found.depths), f"{half}_qkv_multiscales": scales}
    return config | {
        "downsample_block_type": "pixel_unshuffle" if spec.down == "shuffle" else "conv",
        "upsample_block_type": "pixel_shuffle" if spec.up == "shuffle" else "interpolate",
        "decoder_norm_types": [norm if i < plain else "rms_norm" for i in range(levels)],
        "decoder_act_fns": [spec.decoder_activation if i < plain else "silu" for i in range(levels)],
        "decoder_conv_act_fn": spec.last_activation, "encoder_out_shortcut": spec.out_shortcut,
        "decoder_in_shortcut": spec.in_shortcut,
    }


def dc_rules(spec: DC) -> list[Rule]:
    """Our tensors and theirs."""
    rules = _layer("decoder.norm", "decoder.norm_out")
    for half, far, blocks in (("encoder", spec.encoder, "down_blocks"), ("decoder", spec.decoder, "up_blocks")):
        present = far.present
        inside = present if half == "encoder" else present[::-1]
        picture, latents = ("enter", "leave") if half == "encoder" else ("leave", "enter")
        names = {"enter": "conv_in", "leave": "conv_out"}
        halved = ".conv" if present[0] else ""
        rules += _layer(f"{half}.{picture}{halved}", f"{half}.{names[picture]}{halved}")
        rules += _layer(f"{half}.{latents}", f"{half}.{names[latents]}")
        for n, i in enumerate(inside):
            start = f"{half}.{blocks}.{i}"
            before = half == "decoder" and i < present[-1]  # a decoder's level begins with doubling the picture
            for j in range(far.depths[i]):
                rules += _block(spec, far, i, f"{half}.levels.{n}.{j}", f"{start}.{j + before}", half)
            if half == "encoder" and i < present[-1]:
                rules += _layer(f"encoder.down.{n}.conv", f"{start}.{far.depths[i]}.conv")
            elif before:
                rules += _layer(f"decoder.up.{n - 1}.conv", f"{start}.0.conv")
    return rules


def _block(spec: DC, levels: Levels, i: int, ours: str, theirs: str, half: str) -> list[Rule]:
    """One block of level ``i``."""
    if i < len(levels.widths) - spec.attended:
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        batch = statistics if half == "decoder" and spec.decoder_norm == "batch" else ()
        return (_layer(f"{ours}.conv1", f"{theirs}.conv1") + same(f"{ours}.conv2", f"{theirs}.conv2", "weight")
                + same(f"{ours}.norm", f"{theirs}.norm", "weight", "bias", *batch))
    attn, mix = f"{theirs}.attn", f"{theirs}.conv_out"
    return [
        Rule((f"{ours}.0.qkv.weight",), tuple(f"{attn}.to_{letter}.weight" for letter in "qkv"),
             lambda x: [torch.cat(x)], lambda x: list(x[0].chunk(3))),
        *(rule for s in range(len(spec.scales)) for n, name in enumerate(("proj_in", "proj_out"))
          for rule in same(f"{ours}.0.scales.{s}.{n}", f"{attn}.to_qkv_multiscale.{s}.{name}", "weight")),
        *same(f"{ours}.0.out", f"{attn}.to_out", "weight"), *_layer(f"{ours}.0.norm", f"{attn}.norm_out"),
        *_layer(f"{ours}.1.inner", f"{mix}.conv_inverted"), *_layer(f"{ours}.1.depthwise", f"{mix}.conv_depth"),
        *same(f"{ours}.1.outer", f"{mix}.conv_point", "weight"), *_layer(f"{ours}.1.norm", f"{mix}.norm"),
    ]


def _layer(ours: str, theirs: str) -> list[Rule]:
    return same(ours, theirs, "weight", "bias")


def _each(value: str | Sequence[str], levels: int) -> list[str]:
    """One word a level."""
    return [value] * levels if isinstance(value, str) else list(value)


def _attended(kinds: Sequence[str]) -> int:
    """How many of the innermost levels have attention.  NoCounterpart for another order, or other blocks."""
    inside = sum(kind == KINDS[1] for kind in kinds)
    if list(kinds) != [KINDS[0]] * (len(kinds) - inside) + [KINDS[1]] * inside:
        raise NoCounterpart(f"A deep compression autoencoder with levels of {', '.join(kinds)} has no counterpart "
                            "here.")
    return inside
