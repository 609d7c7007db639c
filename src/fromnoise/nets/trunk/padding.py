"""Tokens that are neither words nor patches: noise levels as words, and what fills text and picture up."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fromnoise.blocks import Clock, Tokens


def add_words(features: Tensor, text: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The noise levels ``[B, T, D]`` as words before the text."""
    if text is None:
        return features, None
    mask = None if mask is None else F.pad(mask, (features.shape[1], 0), value=True)
    return torch.cat([features, text], dim=1), mask


def pad_text(text: Tensor, mask: Tensor | None, token: Tensor, multiple: int) -> tuple[Tensor, Tensor, Tensor]:
    """Texts filled with ``token`` to a multiple of tokens: ``[B, L', D]``, which of them are seen, and how many."""
    B, L, _ = text.shape
    real = text.new_full((B,), L, dtype=torch.long) if mask is None else mask.sum(1)
    full = -(-real // multiple) * multiple
    text = F.pad(text, (0, 0, 0, -L % multiple))
    at = torch.arange(text.shape[1], device=text.device)
    return torch.where((at >= real[:, None])[..., None], token.to(text.dtype), text), at < full[:, None], full


def pad_picture(tokens: Tokens, token: Tensor, multiple: int) -> Tokens:
    """The picture filled with ``token``, which stands at the origin, to a multiple of tokens."""
    extra = -len(tokens) % multiple
    x = torch.cat([tokens.x, token.to(tokens.x.dtype).expand(len(tokens.x), extra, -1)], dim=1)
    turns, clock = tokens.turns, tokens.clock
    if turns is not None:
        turns = torch.cat([turns, turns.new_ones(*turns.shape[:-2], extra, turns.shape[-1])], dim=-2)
    if clock is not None and clock.row is not None:
        clock = Clock(clock.signal, torch.cat([clock.row, clock.row[-1:].expand(extra)]))
    return Tokens(x, clock, turns)
