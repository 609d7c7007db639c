"""Who sees whom in the trunk: words among themselves, frames among themselves, and all together.

Masks are data (``blocks.masks``); clips that are packed are told apart by documents.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fromnoise.blocks import Cache, Mask, Ring
from fromnoise.nets.trunk.clips import Pack
from fromnoise.nets.trunk.inputs import Places
from fromnoise.nets.trunk.settings import Relative, Trunk
from fromnoise.types import UserError

FRAMES = 1 << 20  # groups of a causal mask: words count from 0, frames from here


def words_mask(spec: Trunk, pack: Pack) -> Tensor | None:
    """Which words see which while the text is by itself."""
    device = pack.streams["text"].x.device
    order = pack.order(device) if spec.mask == "causal" else None
    whose = pack.documents(device, "text") if pack.several else None
    return Mask(pack.real, order, order, whose, whose).dense()


def frames_mask(spec: Trunk, pack: Pack) -> Tensor | None:
    """Which patches see which while the picture is by itself: under a causal mask those of their own frame."""
    device = pack.streams["picture"].x.device
    whose = pack.documents(device, "picture") if pack.several else None
    if spec.mask != "causal" or all(grid[0] == 1 for grid in pack.grids):
        return Mask(asking=whose, documents=whose).dense()
    frames = pack.frames(device)
    own = (frames[:, None] == frames[None])[None, None]
    among = Mask(asking=whose, documents=whose).dense()
    return own if among is None else own & among


def reads_mask(pack: Pack) -> Tensor | None:
    """Which patches see which words by cross-attention: ``[B, L]``, or ``[B, N, L]`` of several clips."""
    if not pack.several:
        return pack.real
    device = pack.streams["text"].x.device
    asking, documents = pack.documents(device, "picture"), pack.documents(device, "text")
    seen = Mask(pack.real, asking=asking, documents=documents).dense()
    assert seen is not None
    return seen[:, 0]


def joint_mask(spec: Trunk, positions: Places, pack: Pack, cache: Cache | Ring | None, routed: bool = False):
    """Who sees whom in the joint attention: a bool tensor, a bias, a BlockMask unless ``routed``, or None."""
    words, places, device = sum(pack.words), sum(pack.places), pack.streams["picture"].x.device
    mask = Mask(None if pack.real is None or not words else F.pad(pack.real, (0, places), value=True))
    if pack.several:
        whose = pack.documents(device, "text", "picture")
        mask = replace(mask, asking=whose, documents=whose)
    past, passed = ((cache.words, cache.frames), cache.passed) if isinstance(cache, Cache) else ((0, 0), 0)
    held = cache.words if isinstance(cache, Ring) else 0
    if spec.mask == "causal":
        groups = torch.cat([pack.order(device), FRAMES + passed + pack.frames(device)])
        mask = replace(mask, queries=groups, groups=groups)
        if cache is not None:
            mask = cache.extend(mask, pack.grids[0][0], words)
    if isinstance(cache, Ring) and isinstance(spec.positions, Relative):
        grid = pack.grids[0]
        bias = cache.arranged(lambda frames: positions.bias(grid, words, held, frames))
    else:
        bias = pack.bias(lambda grid, words: positions.bias(grid, words, *past), device)
    if bias is not None and mask.groups is not None and bias.shape[-1] != len(mask.groups):
        raise UserError("Relative positions need frames of one size: those held have another than those that come.")
    if not words and all(grid[0] == 1 for grid in pack.grids):  # a single frame sees all that came before
        mask = replace(mask, queries=None)
    if bias is None:
        blocks = device.type == "cuda" and not mask.plain and not routed
        return mask.blocks() if blocks else mask.dense()
    return bias if (dense := mask.dense()) is None else bias + additive(dense, bias)


def additive(seen: Tensor, like: Tensor) -> Tensor:
    """0 where a query sees a key, -inf elsewhere."""
    return torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill(~seen, float("-inf"))
