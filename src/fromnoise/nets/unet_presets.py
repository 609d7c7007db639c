"""Published U-Nets as presets of one spec, at their published sizes.

    PRESETS["sd1"]().build(4, 768)
    PRESETS["edm2"](size="XL").build(4, None)

Each function returns the spec; what stands in ``build`` (channels, width of the text) is said in its docstring.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from fromnoise.blocks.waves import Fourier, Sinusoid
from fromnoise.nets.trunk.acting import ByModulation
from fromnoise.nets.unet import TemporalLevels, UNet


def integer_time(width: int, shift: float = 0.0) -> Sinusoid:
    """The sinusoid of networks that were trained on timesteps 0 to 999, with ``width`` features."""
    return Sinusoid(waves=width // 2, scale=1000.0, max_period=10_000.0, shift=shift)


def ddpm(width: int = 128, multipliers: tuple[int, ...] = (1, 2, 2, 2), depths: tuple[int, ...] = (0, 1, 0, 0),
         blocks: int = 2) -> UNet:
    """DDPM for CIFAR-10 (Ho et al. 2020): attention of one head at 16x16; channels 3, no text."""
    return UNet(width=width, multipliers=multipliers, blocks=blocks, heads=1, attention="plain", depths=depths,
                middle="residual", resample="conv", pad="end", skips="all", modulation="add", groups=32, epsilon=1e-6,
                time=integer_time(width, 1.0), pooled="none")


def adm(width: int = 256, multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4),
        depths: tuple[int, ...] = (0, 0, 0, 1, 1, 1), blocks: int = 2, classes: int = 1000) -> UNet:
    """ADM for ImageNet 256 (Dhariwal and Nichol 2021): learned variance, classes one-hot; channels 3, no text."""
    return UNet(width=width, multipliers=multipliers, blocks=blocks, head_width=64, attention="plain", depths=depths,
                middle="residual", resample="residual", skips="all", groups=32, time=integer_time(width),
                pooled="linear" if classes else "none", pooled_width=classes, extra_outputs=3)


def sd1(width: int = 320, multipliers: tuple[int, ...] = (1, 2, 4, 4), depths: tuple[int, ...] = (1, 1, 1, 0),
        groups: int = 32) -> UNet:
    """Stable Diffusion 1.x (Rombach et al. 2022): 8 heads everywhere; channels 4, text of 768."""
    return UNet(width=width, multipliers=multipliers, blocks=2, heads=8, attention="spatial", depths=depths,
                middle="residual", resample="conv", skips="all", modulation="add", groups=groups,
                time=integer_time(width), pooled="none")


def sd2(width: int = 320, multipliers: tuple[int, ...] = (1, 2, 4, 4), depths: tuple[int, ...] = (1, 1, 1, 0),
        groups: int = 32, head_width: int = 64) -> UNet:
    """Stable Diffusion 2.x: the same with heads of 64; channels 4, text of 1024."""
    return replace(sd1(width, multipliers, depths, groups), head_width=head_width)


def sdxl(width: int = 320, multipliers: tuple[int, ...] = (1, 2, 4), depths: tuple[int, ...] = (0, 2, 10),
         groups: int = 32, head_width: int = 64, pooled_width: int = 1280, number_waves: int = 128) -> UNet:
    """SDXL (Podell et al. 2023): deep attention at the coarse scales, pooled text and six numbers of size and crop
    beside time; channels 4, text of 2048."""
    return replace(sd2(width, multipliers, depths, groups, head_width), middle_depth=depths[-1], pooled="mlp",
                   pooled_width=pooled_width, numbers=6, number_waves=number_waves)


EDM2_WIDTHS = {"XS": 128, "S": 192, "M": 256, "L": 320, "XL": 384, "XXL": 448}


def edm2(size: Literal["XS", "S", "M", "L", "XL", "XXL"] = "S", classes: int = 1000, width: int = 0,
         multipliers: tuple[int, ...] = (1, 2, 3, 4), depths: tuple[int, ...] = (0, 0, 1, 1), blocks: int = 3,
         head_width: int = 64) -> UNet:
    """EDM2 for ImageNet 512 in latents (Karras et al. 2024), magnitude-preserving; channels 4, no text."""
    width = width or EDM2_WIDTHS[size]
    return UNet(width=width, multipliers=multipliers, blocks=blocks, head_width=head_width, attention="plain",
                depths=depths, middle="residual", resample="residual", skips="all", magnitude=True,
                time=Fourier(waves=width), time_ratio=max(multipliers), pooled="linear" if classes else "none",
                pooled_width=classes)


def simple_diffusion(width: int = 128, multipliers: tuple[int, ...] = (1, 2, 4, 16), depth: int = 36, blocks: int = 2,
                     head_width: int = 128, classes: int = 1000, groups: int = 32) -> UNet:
    """The U-ViT of simple diffusion (Hoogeboom et al. 2023): convolutions outside, a transformer at the coarsest scale;
    channels 3, no text."""
    return UNet(width=width, multipliers=multipliers, blocks=blocks, head_width=head_width, middle="transformer",
                middle_depth=depth, resample="project", skips="add", groups=groups, time=integer_time(width),
                time_ratio=8, pooled="linear" if classes else "none", pooled_width=classes)


def vdm(width: int = 64, multipliers: tuple[int, ...] = (1, 2, 4, 8), depths: tuple[int, ...] = (0, 1, 1, 1),
        blocks: int = 2, head_width: int = 64, groups: int = 32, reach: int = 16) -> UNet:
    """The factorised 3D U-Net of Video Diffusion Models (Ho et al. 2022): convolutions and attention see a frame each,
    and behind every attention over places stands one along time, with learned offsets; the sizes are ours; channels 3.
    """
    return UNet(width=width, multipliers=multipliers, blocks=blocks, head_width=head_width, attention="plain",
                depths=depths, middle="residual", resample="conv", skips="all", groups=groups,
                time=integer_time(width), temporal=TemporalLevels(
                    levels=tuple(level for level, depth in enumerate(depths) if depth), reach=reach))


def diamond(width: int = 64, multipliers: tuple[int, ...] = (1, 1, 1, 1), depths: tuple[int, ...] = (0, 0, 0, 0),
            blocks: int = 2, told_frames: int = 4, head_width: int = 8, groups: int = 2) -> UNet:
    """DIAMOND's world model of Atari (Alonso et al. 2024): the next frame, told the last four and the actions.

    Theirs modulates both norms of a residual block, ours the second; channels 3, no text.
    """
    return UNet(width=width, multipliers=multipliers, blocks=blocks, head_width=head_width, attention="plain",
                depths=depths, middle="residual", resample="conv", skips="all", groups=groups,
                time=Fourier(waves=4 * width), pooled="none", told_frames=told_frames, actions=ByModulation())


PRESETS: dict[str, Callable[..., UNet]] = {
    "ddpm": ddpm, "adm": adm, "sd1": sd1, "sd2": sd2, "sdxl": sdxl, "edm2": edm2, "simple_diffusion": simple_diffusion,
    "vdm": vdm, "diamond": diamond,
}
