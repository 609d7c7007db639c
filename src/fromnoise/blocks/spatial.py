"""Attention over the places of a feature map, ``[B, C, h, w]`` to ``[B, C, h, w]``.

    JointAttention      places and words in one sequence, with normalised queries and keys
    PlainAttention      places alone (DDPM, Ho et al. 2020; ADM, Dhariwal and Nichol 2021)
    SpatialTransformer  blocks of self-attention, cross-attention to words and a gated feed-forward layer
                        (Stable Diffusion, Rombach et al. 2022)
    MiddleTransformer   a deep transformer at the coarsest scale (simple diffusion, Hoogeboom et al. 2023)

Each counts its attention layers as ``layers``; ``first`` is the number of the first in the whole network, by which a
perturbation names it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.blocks.attention import Attention, attend
from fromnoise.blocks.group_norm import GroupNorm
from fromnoise.blocks.layers import norm
from fromnoise.blocks.patches import place_waves
from fromnoise.blocks.perturb import Perturbation

PLACE_WAVES = 8  # half-periods of the finest wave that tells places apart


@dataclass(frozen=True)
class Words:
    """What attention reads besides places: features ``[B, L, D]`` and the bias ``[B, 1, 1, L]`` that hides padding."""

    text: Tensor
    bias: Tensor | None = None

    @staticmethod
    def of(text: Tensor, mask: Tensor | None) -> Words:
        if mask is None:
            return Words(text)
        return Words(text, torch.zeros_like(mask, dtype=text.dtype).masked_fill(~mask, float("-inf"))[:, None, None])


def places(x: Tensor) -> Tensor:
    """``[B, C, h, w]`` to ``[B, h w, C]``."""
    return x.flatten(2).transpose(1, 2)


def picture(tokens: Tensor, like: Tensor) -> Tensor:
    """The inverse of ``places``."""
    return tokens.transpose(1, 2).reshape(like.shape)


class JointAttention(nn.Module):
    """Every place looks at all places and at all words."""

    layers = 1

    def __init__(self, channels: int, heads: int, text_width: int | None, groups: int = 8, epsilon: float = 1e-5,
                 first: int = 0):
        super().__init__()
        self.first = first
        self.norm = GroupNorm(groups, channels, epsilon)
        self.attention = Attention(channels, heads)
        self.text_in = None if text_width is None else nn.Linear(text_width, channels)
        nn.init.zeros_(self.attention.out.weight)

    def forward(self, x: Tensor, words: Words | None, perturb: Perturbation) -> Tensor:
        if perturb.skips(self.first):
            return x
        tokens, bias, L = places(self.norm(x)), None, 0
        if self.text_in is not None and words is not None:
            L, places_ = words.text.shape[1], tokens.shape[1]
            tokens = torch.cat([self.text_in(words.text), tokens], dim=1)
            bias = None if words.bias is None else F.pad(words.bias, (0, places_))
        bias = perturb.bias(self.first, bias, L, tokens)
        return x + picture(self.attention(tokens, bias)[:, L:], x)


class SelfAttention(nn.Module):
    """Multi-head attention over ``[B, N, D]``, queries and keys as they are."""

    def __init__(self, width: int, heads: int, bias: bool):
        super().__init__()
        self.heads = heads
        bound = width**-0.5
        # Three matrices in one product; kept apart so that the optimiser may treat each as a matrix.
        self.qkv = nn.Parameter(torch.empty(3, width, width).uniform_(-bound, bound))
        self.qkv_bias = nn.Parameter(torch.zeros(3, width)) if bias else None
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        B, N, D = x.shape
        offsets = None if self.qkv_bias is None else self.qkv_bias.flatten()
        qkv = F.linear(x, self.qkv.flatten(0, 1), offsets).view(B, N, 3, self.heads, D // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return self.out(attend(q, k, v, bias).transpose(1, 2).reshape(B, N, D))


class CrossAttention(nn.Module):
    """Queries from ``[B, N, D]``, keys and values from words ``[B, L, text_width]``."""

    def __init__(self, width: int, heads: int, text_width: int):
        super().__init__()
        self.heads = heads
        bound = text_width**-0.5
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Parameter(torch.empty(2, width, text_width).uniform_(-bound, bound))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, words: Words) -> Tensor:
        B, N, D = x.shape
        q = self.q(x).view(B, N, self.heads, -1).transpose(1, 2)
        kv = F.linear(words.text, self.kv.flatten(0, 1)).view(B, -1, 2, self.heads, D // self.heads)
        k, v = kv.permute(2, 0, 3, 1, 4)
        return self.out(attend(q, k, v, words.bias).transpose(1, 2).reshape(B, N, D))


class PlainAttention(nn.Module):
    """Group norm, attention over all places, plus the input."""

    layers = 1

    def __init__(self, channels: int, heads: int, groups: int, epsilon: float, first: int = 0):
        super().__init__()
        self.first = first
        self.norm = GroupNorm(groups, channels, epsilon)
        self.attention = SelfAttention(channels, heads, bias=True)
        nn.init.zeros_(self.attention.out.weight)

    def forward(self, x: Tensor, words: Words | None, perturb: Perturbation) -> Tensor:
        if perturb.skips(self.first):
            return x
        tokens = places(self.norm(x))
        return x + picture(self.attention(tokens, perturb.bias(self.first, None, 0, tokens)), x)


class GatedFeedForward(nn.Module):
    """D -> 4 D -> D with a GELU gate (GEGLU, Shazeer 2020)."""

    def __init__(self, width: int):
        super().__init__()
        self.inner, self.outer = nn.Linear(width, 8 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.inner(x).chunk(2, dim=-1)
        return self.outer(value * F.gelu(gate))


class SpatialBlock(nn.Module):
    """Self-attention, cross-attention to the words where there are any, and a gated feed-forward layer."""

    def __init__(self, width: int, heads: int, text_width: int | None):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), SelfAttention(width, heads, bias=False)
        self.norm2 = None if text_width is None else nn.LayerNorm(width)
        self.cross = None if text_width is None else CrossAttention(width, heads, text_width)
        self.norm3, self.feed_forward = nn.LayerNorm(width), GatedFeedForward(width)

    def forward(self, x: Tensor, words: Words | None, bias: Tensor | None) -> Tensor:
        x = x + self.attention(self.norm1(x), bias)
        if self.cross is not None and self.norm2 is not None and words is not None:
            x = x + self.cross(self.norm2(x), words)
        return x + self.feed_forward(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Group norm, a linear map in, ``depth`` blocks, a linear map out (which starts at zero), plus the input.

    Some systems write the two maps as 1x1 convolutions: the same function of the same numbers.
    """

    def __init__(self, channels: int, heads: int, text_width: int | None, depth: int, groups: int, first: int = 0):
        super().__init__()
        self.first, self.layers = first, depth
        self.norm = GroupNorm(groups, channels, 1e-6)
        self.enter, self.leave = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.blocks = nn.ModuleList(SpatialBlock(channels, heads, text_width) for _ in range(depth))
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, words: Words | None, perturb: Perturbation) -> Tensor:
        tokens = self.enter(places(self.norm(x)))
        for i, block in enumerate(self.blocks, self.first):
            if not perturb.skips(i):
                tokens = block(tokens, words, perturb.bias(i, None, 0, tokens))
        return x + picture(self.leave(tokens), x)


class ParallelBlock(nn.Module):
    """Attention and feed-forward side by side on one normalised, modulated input, plus the input.

    After ViT-22B (Dehghani et al. 2023), as simple diffusion has it; both outputs start at zero.
    """

    def __init__(self, width: int, heads: int, features: int):
        super().__init__()
        self.modulation = nn.Linear(features, 2 * width)
        self.attention = Attention(width, heads)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for p in (self.attention.out.weight, self.outer.weight, self.outer.bias):
            nn.init.zeros_(p)

    def forward(self, x: Tensor, features: Tensor, bias: Tensor | None) -> Tensor:
        scale, shift = self.modulation(features)[:, None].chunk(2, dim=-1)
        y = torch.addcmul(shift, norm(x), 1 + scale)
        return x + self.attention(y, bias) + self.outer(F.gelu(self.inner(y)))


class MiddleTransformer(nn.Module):
    """A transformer over the places of the coarsest picture, words in front of them where there are any.

    The U-ViT of simple diffusion (Hoogeboom et al. 2023): convolutions where pictures are large, and nearly all of
    the parameters here.  Places are told apart by waves along both sides, so that the size is free.
    """

    def __init__(self, channels: int, heads: int, text_width: int | None, depth: int, features: int, first: int = 0):
        super().__init__()
        self.first, self.layers = first, depth
        self.place_in = nn.Linear(2 * PLACE_WAVES, channels, bias=False)
        self.text_in = None if text_width is None else nn.Linear(text_width, channels)
        self.blocks = nn.ModuleList(ParallelBlock(channels, heads, features) for _ in range(depth))

    def forward(self, x: Tensor, features: Tensor, words: Words | None, perturb: Perturbation) -> Tensor:
        tokens, bias, L = places(x), None, 0
        tokens = tokens + self.place_in(place_waves(x.shape[-2], x.shape[-1], PLACE_WAVES, x.device).to(tokens.dtype))
        if self.text_in is not None and words is not None:
            L = words.text.shape[1]
            bias = None if words.bias is None else F.pad(words.bias, (0, tokens.shape[1]))
            tokens = torch.cat([self.text_in(words.text), tokens], dim=1)
        for i, block in enumerate(self.blocks, self.first):
            if not perturb.skips(i):
                tokens = block(tokens, features, perturb.bias(i, bias, L, tokens))
        return picture(tokens[:, L:], x)
