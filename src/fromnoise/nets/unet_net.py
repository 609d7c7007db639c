"""The network that a U-Net's spec describes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fromnoise.blocks import UNDISTURBED, Frames, Perturbation, mean_text
from fromnoise.blocks.spatial import Words, picture, places
from fromnoise.nets.unet_parts import MagnitudeParts, Parts
from fromnoise.types import Condition

if TYPE_CHECKING:
    from fromnoise.nets.unet import UNet


Meet = Callable[[str, Tensor], Tensor]


def unmet(name: str, y: Tensor) -> Tensor:
    """Pictures whose frames do not meet."""
    return y


class UNetNet(nn.Module):
    """``(x [B, T, C, H, W], t [B, T], condition) -> [B, T, C + extra_outputs, H, W]``.

    Frames ride along in the batch, each with its own clock, and meet in layers along time at the scales that have them
    (``spec.temporal``), as in the factorised U-Net of Video Diffusion Models (Ho et al. 2022).  ``perturb`` disturbs
    some of the ``attention_layers``, which are numbered from the input: the way down, the middle, the way up.
    """

    def __init__(self, spec: UNet, channels: int, text_width: int | None):
        super().__init__()
        self.spec, self.channels = spec, channels
        parts = (MagnitudeParts if spec.magnitude else Parts)(spec, text_width)
        widths, whole = list(spec.widths), spec.skips == "all"
        self.time, self.text = parts.time(), parts.pooled()
        self.conv_in = parts.stem(channels + spec.image_channels, widths[0])
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.down_attention, self.downsample = nn.ModuleList(), nn.ModuleList()
        skips, current = [] if spec.skips == "add" else [widths[0]], widths[0]
        counts = [spec.blocks] * len(widths)
        if spec.middle == "transformer":
            counts[-1] = 0
        for level, (width, count) in enumerate(zip(widths, counts, strict=True)):
            sides = [current] + [width] * (count - 1)
            self.down.append(nn.ModuleList(parts.residual(inside, width, encoder=True) for inside in sides[:count]))
            self.down_attention.append(parts.attentions(width, spec.all_depths[level], count))
            current = width
            skips += [width] * count
            if level < len(widths) - 1:
                self.downsample.append(parts.down(width, widths[level + 1]))
                current = widths[level + 1] if spec.resample == "project" else width
                skips += [width] if whole else []
        self.middle, self.attention, self.middle_out = parts.middle(current)
        self.up_attention, self.upsample = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths))):
            width, blocks = widths[level], nn.ModuleList()
            for _ in range(counts[level] + whole):
                beside = skips.pop()
                blocks.append(parts.residual(current + (0 if spec.skips == "add" else beside), width, encoder=False,
                                             joins=spec.skips == "add"))
                current = width
            self.up.append(blocks)
            self.up_attention.append(parts.attentions(width, spec.all_depths[level], len(blocks)))
            if level:
                self.upsample.append(parts.up(width, widths[level - 1]))
                current = widths[level - 1] if spec.resample == "project" else width
        self.norm_out, self.conv_out = parts.head(current + sum(skips), channels + spec.extra_outputs)
        self.rate = parts.rate()
        self.attention_layers = parts.layers
        self.combine, self.join, self.activate = parts.combine, parts.join, parts.activate
        # Last, so that the weights of pictures begin as they do without.
        self.temporal = nn.ModuleDict(parts.temporal(counts, [len(blocks) for blocks in self.up]))  # type: ignore[arg-type]
        # Channels innermost, in weights and in pictures: convolutions are faster so, and tokens are a view.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, t: Tensor, condition: Condition, perturb: Perturbation = UNDISTURBED) -> Tensor:
        B, T, _, H, W = x.shape
        signal = self.features(t, condition)
        features = signal.flatten(0, 1)
        along = partial(self.along, Frames.of(T, signal, self.spec.temporal.causal)) if self.temporal else unmet
        words = self.words(condition, T)
        if self.spec.image_channels:
            x = torch.cat([x, self.told(condition.image, "image")], dim=2)
        x = x.flatten(0, 1)
        y = self.conv_in(x.contiguous(memory_format=torch.channels_last))
        y, skips = self.descend(y, features, words, perturb, along)
        if self.middle is not None:
            y = self.middle(y, features)
        if self.spec.middle == "transformer":
            y = self.attention(y, features, words, perturb)  # type: ignore[misc]
        elif self.attention is not None:
            y = self.attention(y, words, perturb)
        y = along("middle", y)
        if self.middle_out is not None:
            y = self.middle_out(y, features)
        y = self.ascend(y, skips, features, words, perturb, along)
        return self.conv_out(self.norm_out(y)).view(B, T, -1, H, W)

    @property
    def taps(self) -> list[nn.Module]:
        """The residual blocks, each with the attention behind it, and the middle, in order, for ``Tap``."""
        def pairs(levels, attentions) -> list[nn.Module]:
            return [attending[i] if len(attending) else block for blocks, attending
                    in zip(levels, attentions, strict=True) for i, block in enumerate(blocks)]

        middle = [part for part in (self.middle, self.attention, self.middle_out) if part is not None][-1:]
        return pairs(self.down, self.down_attention) + middle + pairs(self.up, self.up_attention)

    def picture(self, said: Tensor, x: Tensor) -> Tensor:
        """The features ``[B, T, D, h, w]`` in what a block said, at its own scale."""
        return said.unflatten(0, x.shape[:2])

    def along(self, frames: Frames, name: str, y: Tensor) -> Tensor:
        """Pictures ``[B T, C, h, w]`` after their frames have met in the layer of this name, where there is one."""
        return picture(self.temporal[name](places(y), frames), y) if name in self.temporal else y

    def descend(self, y: Tensor, features: Tensor, words: Words | None, perturb: Perturbation, along: Meet):
        """The coarsest picture, and the pictures that the way up will read, the last one first to be read."""
        skips = [] if self.spec.skips == "add" else [y]
        for level, (blocks, attentions) in enumerate(zip(self.down, self.down_attention, strict=True)):
            for i, block in enumerate(blocks):  # type: ignore[arg-type]
                y = block(y, features)
                if len(attentions):  # type: ignore[arg-type]
                    y = attentions[i](y, words, perturb)  # type: ignore[index]
                y = along(f"down_{level}_{i}", y)
                skips.append(y)
            if level < len(self.downsample):
                y = self.downsample[level](y, features)
                if self.spec.skips == "all":
                    skips.append(y)
        return y, skips

    def ascend(self, y: Tensor, skips: list[Tensor], features: Tensor, words: Words | None,
               perturb: Perturbation, along: Meet) -> Tensor:
        for level, (blocks, attentions) in enumerate(zip(self.up, self.up_attention, strict=True)):
            for i, block in enumerate(blocks):  # type: ignore[arg-type]
                skip = skips.pop()
                if self.spec.skips == "add":
                    y = block(y, features, skip=skip)
                else:
                    y = block(self.join(y, skip), features)
                if len(attentions):  # type: ignore[arg-type]
                    y = attentions[i](y, words, perturb)  # type: ignore[index]
                y = along(f"up_{len(self.up) - 1 - level}_{i}", y)
            if level < len(self.upsample):
                y = self.upsample[level](y, features, skips[-1].shape[-2:])
        return self.join(y, skips.pop()) if skips else y

    def features(self, t: Tensor, condition: Condition) -> Tensor:
        """What residual blocks are told, ``[B, T, F]``: time, and the pooled condition."""
        features, pooled = self.time(t), None
        if self.text is not None and self.spec.pooled == "mean":
            pooled = None if condition.text is None else mean_text(condition.text, condition.mask)
        elif self.text is not None:
            pooled = self.told(condition.pooled, "pooled")
            if self.spec.numbers:
                waves = self.text.waves(self.told(condition.numbers, "numbers"))  # type: ignore[operator,union-attr]
                pooled = torch.cat([pooled, waves.flatten(1).to(pooled.dtype)], dim=-1)
        if pooled is not None:
            features = self.combine(features, self.text(pooled)[:, None])  # type: ignore[misc]
        if self.rate is not None and condition.fps is not None:
            features = features + self.rate(condition.fps)[:, None]
        return self.activate(features)

    def words(self, condition: Condition, T: int) -> Words | None:
        """The text for every frame."""
        if condition.text is None:
            return None
        text, mask = condition.text, condition.mask
        if T > 1:
            text, mask = text.repeat_interleave(T, 0), None if mask is None else mask.repeat_interleave(T, 0)
        return Words.of(text, mask)

    @staticmethod
    def told(part: Tensor | None, name: str) -> Tensor:
        """A part of the condition that this network cannot do without; ValueError where it is missing."""
        if part is None:
            raise ValueError(f"this network reads {name} of the condition, which has none")
        return part
