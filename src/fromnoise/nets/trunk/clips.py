"""Clips on their way through the trunk: embedded one by one, and then in one sequence, alone or packed with others.

A packed sequence holds the words of all clips and then the patches of all clips.  Each clip is a *document*: its tokens
see those of their own document alone, so that it comes out as if it had been by itself (Dehghani et al. 2023, NaViT).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor, nn

from fromnoise.blocks import Frames, Tokens, token_shift
from fromnoise.types import UserError

Grid = tuple[int, int, int]  # frames, rows and columns of patches


@dataclass(frozen=True)
class Clip:
    """A batch of clips of one size, embedded.

    streams: its tokens, "text" and "picture";  real: ``[B, L]``, which words are real, None where all are;  features:
    ``[B, R, F]``, what it is told of its noise levels, before any SiLU;  told: whether there is a text;  leaders: how
    many tokens there are before the patches of each frame.
    """

    streams: dict[str, Tokens]
    real: Tensor | None
    features: Tensor
    told: bool
    grid: Grid
    leaders: int = 0


@dataclass(frozen=True)
class Pack:
    """Clips one after another in the same streams.

    grids, words, places: the patches of each, how many words it has, and how many tokens its picture is with padding;
    leaders: how many there are before the patches of each frame.
    """

    streams: dict[str, Tokens]
    real: Tensor | None
    grids: tuple[Grid, ...]
    words: tuple[int, ...]
    places: tuple[int, ...]
    leaders: int = 0

    @staticmethod
    def of(clips: Sequence[Clip]) -> Pack:
        """UserError where some have a text and others have none."""
        if len({"text" in clip.streams for clip in clips}) > 1:
            raise UserError("Some of the packed clips have a text and others have none: give those an empty one.")
        streams = {name: reduce(Tokens.cat, (clip.streams[name] for clip in clips)) for name in clips[0].streams}
        words = tuple(len(clip.streams["text"]) if "text" in clip.streams else 0 for clip in clips)
        real = clips[0].real
        if any(clip.real is not None for clip in clips[1:]) or (real is not None and len(clips) > 1):
            real = torch.cat([clip.streams["text"].x.new_ones(clip.streams["text"].x.shape[:2], dtype=torch.bool)
                              if clip.real is None else clip.real for clip in clips], dim=1)
        return Pack(streams, real, tuple(clip.grid for clip in clips), words,
                    tuple(len(clip.streams["picture"]) for clip in clips), clips[0].leaders)

    @property
    def several(self) -> bool:
        return len(self.grids) > 1

    def without_words(self) -> Pack:
        """The pictures alone, for an attention that words have no part in."""
        return replace(self, streams={"picture": self.streams["picture"]}, real=None, words=(0,) * len(self.grids))

    def documents(self, device: torch.device, *streams: str) -> Tensor:
        """``[N]``: which clip every token of the streams, one after another, is of."""
        counts = [self.words if name == "text" else self.places for name in streams]
        each = torch.arange(len(self.grids), device=device)
        return torch.cat([each.repeat_interleave(torch.tensor(count, device=device)) for count in counts])

    def order(self, device: torch.device) -> Tensor:
        """``[sum of words]``: the place of every word in its text."""
        return torch.cat([torch.arange(count, device=device) for count in self.words])

    def frames(self, device: torch.device) -> Tensor:
        """``[sum of T h w]``: the frame of every patch in its clip, and of every token that leads a frame."""
        return torch.cat([frames_of(grid, device, self.leaders) for grid in self.grids])

    def bias(self, of: Callable[[Grid, int], Tensor | None], device: torch.device) -> Tensor | None:
        """The bias of all tokens ``[1, heads, N, N]`` from that ``of`` each clip alone, or None; 0 between clips.

        What leads a frame is to it as a word; there is no bias where several frames are led.
        """
        parts = [of(grid, words + self.leaders) for grid, words in zip(self.grids, self.words, strict=True)]
        if parts[0] is None or not self.several:
            return parts[0]
        whose = self.documents(device, "text", "picture")
        whole = parts[0].new_zeros(1, parts[0].shape[1], len(whose), len(whose))
        for i, part in enumerate(parts):
            own = (whose == i).nonzero()[:, 0]
            assert part is not None
            whole[:, :, own[:, None], own] = part
        return whole

    def shifted(self, y: Tensor) -> Tensor:
        """``token_shift`` of every picture in ``[B, N, D]``; what comes before them stays as it is."""
        counts = [math.prod(grid) for grid in self.grids]
        if not self.several:
            return token_shift(y, self.grids[0], y.shape[1] - counts[0])
        words, *parts = y.split_with_sizes([y.shape[1] - sum(counts), *counts], dim=1)
        return torch.cat([words, *(token_shift(part, grid) for part, grid in zip(parts, self.grids, strict=True))], 1)


@dataclass(frozen=True)
class Along:
    """How frames that go through the blocks by themselves meet behind some of them.

    layers: those along time, by the number of the block before;  patches, places: tokens of a picture, without and with
    padding, which end every sequence that has them.
    """

    layers: nn.ModuleDict
    frames: Frames
    patches: int
    places: int

    def __call__(self, block: int, streams: dict[str, Tokens]) -> dict[str, Tokens]:
        """The streams ``[B T, N, D]`` behind a block."""
        name = "all" if "all" in streams else "picture"
        if str(block) not in self.layers or name not in streams:
            return streams
        tokens = streams[name]
        before = len(tokens) - self.places
        words, picture, padding = tokens.x.split_with_sizes(
            [before, self.patches, self.places - self.patches], dim=1)
        met = self.layers[str(block)](picture, self.frames)
        alone = met if len(tokens) == self.patches else torch.cat([words, met, padding], dim=1)
        return {**streams, name: tokens.become(alone)}


def frames_of(grid: Grid, device: torch.device, leaders: int = 0) -> Tensor:
    """``[T h w]``, the frame of every patch, with so many more tokens before each frame."""
    return torch.arange(grid[0], device=device).repeat_interleave(leaders + grid[1] * grid[2])


def same_batch(clips: Iterable[Tensor]) -> None:
    """UserError where media to be packed are none, or batches of different sizes."""
    sizes = {len(x) for x in clips}
    if len(sizes) != 1:
        raise UserError("Packed clips are rows of the same sequences, [B, T, C, H, W] with one B for all" + (
            f"; these have {', '.join(map(str, sorted(sizes)))}." if sizes else ", and at least one."))
