"""What callers hand to a world, checked: an action, and real frames to begin from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fromnoise.data.episodes.actions import Actions
from fromnoise.media import from_uint8
from fromnoise.types import UserError

if TYPE_CHECKING:
    from fromnoise.worlds.dream import Dream


def checked_action(actions: Actions, action: Any) -> np.ndarray:
    """An action as the data have it.  UserError where it is none."""
    try:
        value = np.asarray(action)
        held = value.dtype.kind in "iufb" and actions.holds(value)
    except (TypeError, ValueError):
        held = False
    if not held:
        raise UserError(f"{action!r:.60} is no action of this world: it takes {ranges(actions)}.")
    return value.astype(actions.dtype)


def ranges(actions: Actions) -> str:
    """What can be done, in words with its bounds."""
    if actions.kind == "discrete":
        return f"an integer from 0 to {actions.n - 1}"
    if actions.kind == "multi_binary":
        return f"{actions.n} numbers that are 0 or 1"
    bounds = ", ".join(f"{a:g} to {b:g}" for a, b in zip(actions.low, actions.high, strict=True))
    return f"{len(actions.low)} numbers, of {bounds}"


def start(dream: Dream, rows: int, frames: Any, led: Any = None) -> tuple[Tensor, Tensor]:
    """(frames ``[rows, T, C, H, W]`` in [-1, 1], actions ``[rows, T]`` or ``[rows, T, A]``) to begin from.

    frames: uint8 ``[rows, T, H, W, C]``;  led: what led to each, None where that is not known.  UserError for frames of
    another size or type, and for actions that are none.
    """
    pixels, (height, width) = np.asarray(frames), dream.size
    shape = (rows, None, height, width, dream.channels)
    if pixels.ndim != 5 or any(want not in (None, got) for want, got in zip(shape, pixels.shape, strict=True)):
        raise UserError(f"Frames to begin from are {_shape(rows, height, width, dream.channels)} (got "
                        f"{list(pixels.shape[1:] if rows == 1 and pixels.ndim == 5 else pixels.shape)}).")
    if not pixels.shape[1]:
        raise UserError("A world begins from at least one frame, and there are none.")
    if pixels.dtype != np.uint8:
        raise UserError(f"Frames to begin from are whole numbers from 0 to 255, uint8 (got {pixels.dtype}).")
    return from_uint8(pixels), torch.from_numpy(_led(dream.actions, led, pixels.shape[:2]))


def _led(actions: Actions, led: Any, shape: tuple[int, ...]) -> np.ndarray:
    """What led to each frame, none (-1 or NaN) where nobody says."""
    full = (*shape, *actions.shape)
    if led is None:
        return np.full(full, actions.none, actions.dtype)
    values = np.asarray(led)
    if values.shape != full:
        raise UserError(f"The frames to begin from need an action each, {list(full)} (got {list(values.shape)}).")
    for value in values.reshape(-1, *actions.shape):
        none = np.isnan(value) if actions.none != actions.none else value == actions.none
        if not np.all(none):
            checked_action(actions, value)
    return values.astype(actions.dtype)


def _shape(rows: int, height: int, width: int, channels: int) -> str:
    """The shape of frames in words: of one world [T, H, W, C], of several a row each."""
    return f"[{'' if rows == 1 else f'{rows}, '}T, {height}, {width}, {channels}]"
