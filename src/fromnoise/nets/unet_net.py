"""The network that a U-Net's spec describes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fromnoise.blocks import UNDISTURBED, Frames, Perturbation, Ring, mean_text
from fromnoise.blocks.spatial import Words, picture, places
from fromnoise.nets.trunk.acting import check_actions
from fromnoise.nets.trunk.outcomes import Outcome, OutcomeHead, foretelling
from fromnoise.nets.unet_before import PICTURES, Before, preceding
from fromnoise.nets.unet_parts import MagnitudeParts, Parts
from fromnoise.types import Acts, Condition

if TYPE_CHECKING:
    from fromnoise.nets.unet import UNet


Meet = Callable[[str, Tensor], Tensor]


def unmet(name: str, y: Tensor) -> Tensor:
    """Pictures whose frames do not meet."""
    return y


class UNetNet(nn.Module):
    """``(x [B, T, C, H, W], t [B, T], condition) -> [B, T, C + extra_outputs, H, W]``.

    Frames ride along in the batch, each with its own clock, and meet in layers along time at the scales that have them
    (``spec.temporal``), as in the factorised U-Net of Video Diffusion Models (Ho et al. 2022), or are told those before
    them (``spec.told_frames``, ``unet_before``): those of x, or of the condition where it has some.  With a ``cache`` x
    is then the one frame after those held.  ``perturb`` disturbs some of the ``attention_layers``, which are numbered
    from the input: the way down, the middle, the way up.
    """

    def __init__(self, spec: UNet, channels: int, text_width: int | None, acts: Acts | None = None):
        super().__init__()
        self.spec, self.channels = spec, channels
        parts = (MagnitudeParts if spec.magnitude else Parts)(spec, text_width)
        widths, whole = list(spec.widths), spec.skips == "all"
        self.time, self.text = parts.time(), parts.pooled()
        self.conv_in = parts.stem(channels * (1 + spec.told_frames) + spec.image_channels, widths[0])
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
        coarsest = current
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
        told = spec.told_frames > 0 or spec.reads_actions
        self.before = Before(acts if spec.reads_actions else None, spec.told_frames, parts.features) if told else None
        self.outcomes = OutcomeHead(coarsest, spec.outcomes) if spec.outcomes else None
        # Channels innermost, in weights and in pictures: convolutions are faster so, and tokens are a view.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, t: Tensor, condition: Condition, perturb: Perturbation = UNDISTURBED,
                cache: Ring | None = None) -> Tensor:
        y, ascend = self.deepest(x, t, condition, perturb, cache)
        return self.conv_out(self.norm_out(ascend(y))).unflatten(0, x.shape[:2])

    def remember(self, x: Tensor, t: Tensor, condition: Condition, cache: Ring) -> None:
        """Let the ``cache`` hold a finished frame, and foretell what comes of it where that is done: half a forward."""
        if self.outcomes is not None:
            self.deepest(x, t, condition, UNDISTURBED, cache)
        else:
            self.features(t, condition, cache)
            self.pictures(x, condition, cache)

    def foretold(self, x: Tensor, t: Tensor, condition: Condition,
                 cache: Ring | None = None) -> tuple[Tensor, Outcome | None]:
        """``forward``, and what is foretold of each frame; None by a network that foretells nothing."""
        with foretelling(self.outcomes) as said:
            output = self(x, t, condition, cache=cache)
        return output, said[0] if said else None

    def deepest(self, x: Tensor, t: Tensor, condition: Condition, perturb: Perturbation,
                cache: Ring | None) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The coarsest pictures behind the middle ``[B T, D, h, w]``, and the way up from there."""
        B, T = x.shape[:2]
        if self.spec.reads_actions:
            check_actions(condition.actions, B, T)
        signal = self.features(t, condition, cache)
        features = signal.flatten(0, 1)
        along = partial(self.along, Frames.of(T, signal, self.spec.temporal.causal)) if self.temporal else unmet
        words = self.words(condition, T)
        y = self.conv_in(self.pictures(x, condition, cache).contiguous(memory_format=torch.channels_last))
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
        if self.outcomes is not None:
            self.outcomes(y.mean((-2, -1)).unflatten(0, (B, T)))  # to whoever listens (``foretelling``)
        return y, partial(self.ascend, skips=skips, features=features, words=words, perturb=perturb, along=along)

    def pictures(self, x: Tensor, condition: Condition, cache: Ring | None) -> Tensor:
        """``[B T, C', H, W]``: x, the frames told before each, and the condition's image."""
        parts = [x]
        if self.spec.told_frames:
            shown = x if condition.past is None else condition.past
            parts.append(preceding(shown, self.spec.told_frames, cache, PICTURES).flatten(2, 3))
        if self.spec.image_channels:
            parts.append(self.told(condition.image, "image"))
        return torch.cat(parts, dim=2).flatten(0, 1) if len(parts) > 1 else x.flatten(0, 1)

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

    def features(self, t: Tensor, condition: Condition, cache: Ring | None = None) -> Tensor:
        """What residual blocks are told, ``[B, T, F]``: time, the pooled condition, and what came before."""
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
        if self.before is not None:
            levels = t if condition.past_t is None else condition.past_t
            features = features + self.before(levels.expand(t.shape), condition.actions, cache)
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
