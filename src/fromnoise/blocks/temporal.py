"""Layers along time: every place of a picture meets itself in the other frames.

    x = x + conv(norm(x))                                      over neighbouring frames, where asked for
    x = x + out(attention((1 + scale) norm(x) + shift))        over all frames, or those up to its own
    x = x + feed_forward(norm(x))                              where asked for

Scale and shift are of the noise level of each frame.  All that is added starts at zero, so that a network of pictures
with such layers between its own says of every frame what it says of a picture (Make-A-Video, Singer et al. 2022;
Align Your Latents, Blattmann et al. 2023; AnimateDiff, Guo et al. 2023); trained from the start they are the temporal
half of factorised attention (Video Diffusion Models, Ho et al. 2022; Latte, Ma et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.blocks.attention import RelativeBias, attend_heads
from fromnoise.blocks.feed_forward import FeedForward
from fromnoise.blocks.heads import Heads
from fromnoise.blocks.joint import modulated
from fromnoise.blocks.layers import norm
from fromnoise.blocks.masks import Cache, Mask
from fromnoise.blocks.ring import Ring
from fromnoise.blocks.rotary import turns
from fromnoise.blocks.settings import AttentionSpec, FeedForwardSpec, TemporalSpec
from fromnoise.types import UserError


@dataclass(frozen=True)
class Frames:
    """What all layers along time share in one forward.

    count: T, frames of each clip;  signal: ``[B, T, F]``, what each is told of its noise level;  causal: whether none
    sees one to come, and mask, bool ``[1 or B, 1, T, held + T]``, which then see which;  first: how many came before,
    in each row where they differ, of which the cache holds the last;  made: turns that a layer before has made.
    """

    count: int
    signal: Tensor
    causal: bool = False
    mask: Tensor | None = None
    first: int | tuple[int, ...] = 0
    cache: Cache | Ring | None = None
    made: dict[tuple, Tensor] = field(default_factory=dict)

    def turns(self, make: Callable[[Tensor, torch.dtype], Tensor], *key: float) -> Tensor:
        """The turns ``[T, d/2]``, or ``[B, T, d/2]`` where rows differ, that ``make`` gives for the numbers of the
        frames; made once for a key."""
        if key not in self.made:
            device = self.signal.device
            order = torch.tensor(self.first, device=device)[..., None] + torch.arange(self.count, device=device)
            self.made[key] = make(order, self.signal.dtype)
        return self.made[key]

    @staticmethod
    def of(count: int, signal: Tensor, causal: bool, cache: Cache | Ring | None = None) -> Frames:
        """The frames that follow those in the cache, which takes them up."""
        if not causal:
            return Frames(count, signal)
        first = 0 if cache is None else cache.passed
        order = torch.arange(count, device=signal.device) + (first if isinstance(first, int) else 0)
        mask = Mask(None, order, order)
        mask = mask if cache is None else cache.extend(mask, count, 0)
        alone = count == 1 and not isinstance(cache, Ring)  # it sees all that came before
        return Frames(count, signal, True, None if alone else mask.dense(), first, cache)


class TemporalLayer(nn.Module):
    """``x [B T, N, D]``, N places in each of the frames, to the same; ``index`` tells layers apart in a cache."""

    def __init__(self, width: int, features: int, attention: AttentionSpec, spec: TemporalSpec, index: int = 0):
        super().__init__()
        self.spec, self.index = spec, index
        self.conv = nn.Conv2d(width, width, (spec.kernel, 1)) if spec.kernel else None
        self.modulation = nn.Linear(features, 2 * width)
        self.heads = Heads(width, attention)
        self.bias = RelativeBias(attention.heads, (spec.reach,)) if spec.reach else None
        self.feed_forward = FeedForward(width, FeedForwardSpec(ratio=spec.ratio)) if spec.ratio else None
        outer = None if self.feed_forward is None else self.feed_forward.outer
        for last in (self.conv, self.modulation, self.heads.out, outer):
            for parameter in () if last is None else last.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        x = x.unflatten(0, (-1, frames.count))
        if self.conv is not None:
            x = x + self.convolved(norm(x), self.conv, frames)
        scale, shift = self.modulation(frames.signal)[:, :, None].chunk(2, dim=-1)
        x = x + self.attended(modulated(norm(x), shift, scale), frames)
        if self.feed_forward is not None:
            x = x + self.feed_forward(norm(x))
        return x.flatten(0, 1)

    def attended(self, h: Tensor, frames: Frames) -> Tensor:
        """What each place of ``[B, T, N, D]`` hears of itself in other frames."""
        B, _, N, _ = h.shape
        h = h.transpose(1, 2).flatten(0, 1)
        q, k, v = self.heads.ask(h, self.turns(frames, N))
        assert q is not None
        if isinstance(frames.cache, Ring):
            k, v = frames.cache.join(2 * self.index, k, v, None if self.bias is not None else self.turned)
        elif frames.cache is not None:
            k, v = joined(frames.cache, 2 * self.index, k, v)
        y = self.heads.answer(attend_heads(q, k, v, self.mask(frames, k.shape[1], N)), h)
        return y.unflatten(0, (B, N)).transpose(1, 2)

    def turns(self, frames: Frames, places: int) -> Tensor | None:
        """The turns ``[T, d/2]`` of the frames, or of those of each of the ``places`` of every row ``[B N, T, d/2]``;
        None where a bias tells their distance."""
        if self.bias is not None:
            return None
        found = frames.turns(self.turned, self.heads.dim, self.spec.theta)
        return found if found.ndim == 2 else found.repeat_interleave(places, dim=0)

    def turned(self, order: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """The turns ``[..., d/2]`` of frames of these numbers."""
        return turns(order[..., None], (self.heads.dim,), self.spec.theta, dtype)

    def mask(self, frames: Frames, seen: int, places: int) -> Tensor | None:
        """Which frames see which of those ``seen``, or the bias of their distance, for each of the places where rows
        differ."""
        found = frames.mask
        if self.bias is not None:
            bias = partial(self.distances, frames.count)
            found = frames.cache.arranged(bias) if isinstance(frames.cache, Ring) else bias(seen - frames.count)
            found = found if frames.mask is None else found.masked_fill(~frames.mask, float("-inf"))
        return found if found is None or len(found) == 1 else found.repeat_interleave(places, dim=0)

    def distances(self, count: int, held: int) -> Tensor:
        """The bias ``[1, heads, T, held + T]`` of ``count`` frames after those held."""
        assert self.bias is not None
        order = torch.arange(held + count, device=self.bias.table.device)[:, None]
        return self.bias(order)[None, :, -count:]

    def convolved(self, h: Tensor, conv: nn.Conv2d, frames: Frames) -> Tensor:
        """A convolution over the frames of ``[B, T, N, D]``: around each, or where it is causal up to each."""
        before = self.spec.kernel - 1 if frames.causal else self.spec.kernel // 2
        after = self.spec.kernel - 1 - before
        if frames.cache is not None:
            B, T, N, _ = h.shape
            h = h.transpose(1, 2).flatten(0, 1)[:, :, None]
            if isinstance(frames.cache, Ring):
                h = frames.cache.latest(2 * self.index + 1, h, T + before)
            else:
                h, _ = joined(frames.cache, 2 * self.index + 1, h, h[..., :0])
            h = h[:, -(T + before) :, 0].unflatten(0, (B, N)).transpose(1, 2)
            before -= h.shape[1] - T
        h = F.pad(h.permute(0, 3, 1, 2), (0, 0, before, after))  # time is the height and places are the width
        return conv(h).permute(0, 2, 3, 1)


def joined(cache: Cache, index: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """``cache.join`` of places, of which there must be as many as before."""
    if index in cache.pairs and len(cache.pairs[index][0]) != len(k):
        raise UserError("A network goes on along time with frames of one size: those held have another than those "
                        "that come.")
    return cache.join(index, k, v)
