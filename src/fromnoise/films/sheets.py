"""Films as one picture: strips and contact sheets."""

from __future__ import annotations

from PIL import Image
from torch import Tensor

from fromnoise.media import enlargement, grid
from fromnoise.types import UserError


def strip(media: Tensor, every: int = 1, enlarge: int | None = None) -> Image.Image:
    """A contact strip of a film ``[T, C, H, W]`` in [-1, 1]: each ``every``-th frame, from left to right."""
    return contact_sheet(media[None, ::every], enlarge)


def contact_sheet(media: Tensor, enlarge: int | None = None) -> Image.Image:
    """Films ``[B, T, C, H, W]`` in [-1, 1] as strips, one row each.  UserError where there is no frame."""
    if not media.numel():
        raise UserError(f"A film needs frames, and here are none ({list(media.shape)}).")
    factor = sheet_enlargement(media.shape[1], *media.shape[-2:]) if enlarge is None else enlarge
    return grid(media.flatten(0, 1)[:, None], columns=media.shape[1], enlarge=factor)


def sheet_enlargement(frames: int, height: int, width: int, wide: int = 2048) -> int:
    """The whole factor for the pictures of a contact sheet: as for one picture, while a row is ``wide`` at most."""
    return max(1, min(enlargement(height), wide // (frames * (width + 2))))
