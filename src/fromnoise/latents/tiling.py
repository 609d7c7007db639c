"""Large pictures through an autoencoder in parts: tiles of one picture, or few pictures at a time.

Neighbouring tiles share ``overlap`` latents.  Of these the ``margin`` next to a tile's own edge count nothing, since
there it does not see what is beyond, and over what is left one fades into the other.  An autoencoder that sees no
further than ``margin`` latents gives what it would of the whole picture; one with norms or attention over all places
gives nearly that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import Tensor, nn

from fromnoise.latents.coding import Autoencoder, Coded


class Parts(nn.Module):
    """An autoencoder that does as another one does, in parts."""

    def __init__(self, inner: Autoencoder):
        super().__init__()
        self.inner, self.factor, self.channels, self.codebook = inner, inner.factor, inner.channels, inner.codebook
        self.time_factor, self.latent_frames, self.spans = inner.time_factor, inner.latent_frames, inner.spans

    def code(self, media: Tensor, noise: Tensor) -> Coded:
        """As the other one, whole: training has pictures that fit."""
        return self.inner.code(media, noise)


class Sliced(Parts):
    """``batch`` frames at a time, with the same result; where frames are coded together, ``batch`` films."""

    def __init__(self, inner: Autoencoder, batch: int = 1):
        super().__init__(inner)
        self.batch = batch

    def encode(self, media: Tensor, noise: Tensor | None = None) -> Tensor:
        parts = None if noise is None else self._slices(noise)
        found = [self.inner.encode(part, None if parts is None else parts[i])
                 for i, part in enumerate(self._slices(media))]
        return self._joined(found, media)

    def decode(self, latents: Tensor) -> Tensor:
        return self._joined([self.inner.decode(part) for part in self._slices(latents)], latents)

    def _slices(self, x: Tensor) -> tuple[Tensor, ...]:
        """``[batch, 1, ...]`` of single frames, or ``[batch, T, ...]`` of films."""
        return (x.flatten(0, 1)[:, None] if self.time_factor == 1 else x).split(self.batch)

    def _joined(self, parts: list[Tensor], like: Tensor) -> Tensor:
        """What was made of the slices of ``like``, as films again."""
        whole = torch.cat(parts)
        return whole[:, 0].unflatten(0, like.shape[:2]) if self.time_factor == 1 else whole


class Tiled(Parts):
    """Tiles of ``tile`` x ``tile`` latents; a picture that is no larger is done whole."""

    def __init__(self, inner: Autoencoder, tile: int, overlap: int, margin: int):
        super().__init__(inner)
        self.tile, self.overlap, self.margin = tile, overlap, margin

    def encode(self, media: Tensor, noise: Tensor | None = None) -> Tensor:
        f, h, w = self.factor, media.shape[-2] // self.factor, media.shape[-1] // self.factor
        if max(h, w) <= self.tile or media.shape[-2] % f or media.shape[-1] % f:  # the other refuses what is odd
            return self.inner.encode(media, noise)

        def one(rows: slice, columns: slice) -> Tensor:
            drawn = None if noise is None else cut(noise, rows, columns, noise.shape[-1] // w)
            return self.inner.encode(cut(media, rows, columns, f), drawn)

        return self._joined(one, (h, w), 1)

    def decode(self, latents: Tensor) -> Tensor:
        h, w = latents.shape[-2:]
        if max(h, w) <= self.tile:
            return self.inner.decode(latents)
        return self._joined(lambda rows, columns: self.inner.decode(cut(latents, rows, columns)), (h, w), self.factor)

    def _joined(self, one: Callable[[slice, slice], Tensor], size: tuple[int, int], factor: int) -> Tensor:
        """All tiles of latents of ``size``, each weighted, in one; ``factor``: places of the result a latent."""
        whole, total = None, None
        for rows, columns in product(self._tiles(size[0]), self._tiles(size[1])):
            part = one(rows, columns)
            weight = (self._weight(rows, size[0], factor, part)[:, None] * self._weight(columns, size[1], factor, part))
            if whole is None or total is None:
                shape = (size[0] * factor, size[1] * factor)
                whole, total = part.new_zeros(*part.shape[:3], *shape), part.new_zeros(shape)
            cut(whole, rows, columns, factor).add_(part * weight)
            cut(total, rows, columns, factor).add_(weight)
        assert whole is not None
        assert total is not None
        return whole / total

    def _tiles(self, length: int) -> Iterator[slice]:
        """Where tiles lie along a side of ``length`` latents; the last is moved back to end where the side does."""
        tile, stride = min(self.tile, length), self.tile - self.overlap
        for start in range(0, max(length - self.overlap, 1), stride):
            start = min(start, length - tile)
            yield slice(start, start + tile)

    def _weight(self, tile: slice, length: int, factor: int, like: Tensor) -> Tensor:
        """How much each place of a tile counts along one side: from 0 to 1 within the overlap, off the margin."""
        size = tile.stop - tile.start
        place = (torch.arange(size * factor, device=like.device, dtype=like.dtype) + 0.5) / factor
        fade = max(self.overlap - 2 * self.margin, 1e-3)
        weight = torch.ones_like(place)
        for inside, distance in ((tile.start > 0, place), (tile.stop < length, size - place)):
            weight = weight * ((distance - self.margin) / fade).clamp(0, 1) if inside else weight
        return weight


def cut(x: Tensor, rows: slice, columns: slice, factor: int = 1) -> Tensor:
    """The part of ``[..., H, W]`` that lies at rows and columns of latents."""
    return x[..., rows.start * factor : rows.stop * factor, columns.start * factor : columns.stop * factor]


def sliced(autoencoder: Autoencoder, batch: int = 1) -> Sliced:
    """The same autoencoder, ``batch`` frames at a time.  ValueError for less than one."""
    if batch < 1:
        raise ValueError(f"batch {batch} must be at least 1")
    return Sliced(autoencoder, batch)


def tiled(autoencoder: Autoencoder, tile: int = 64, overlap: int = 16, margin: int | None = None) -> Tiled:
    """The same autoencoder by tiles: sides in latents, of which ``overlap`` are shared by neighbours.

    margin: latents at a tile's edge that do not count; by default a quarter of the overlap.  ValueError where two
    overlaps do not fit into a tile, or two margins into an overlap.
    """
    margin = overlap // 4 if margin is None else margin
    if not 0 <= 2 * margin <= overlap or not 0 < 2 * overlap <= tile:
        raise ValueError(f"a tile of {tile} must have room for two overlaps of {overlap}, and an overlap for two "
                         f"margins of {margin}")
    return Tiled(autoencoder, tile, overlap, margin)
