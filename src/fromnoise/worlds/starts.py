"""Where worlds begin: from real frames that a caller gives, or from the real beginnings kept with a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fromnoise.data.episodes.actions import Actions
from fromnoise.media import from_uint8
from fromnoise.types import UserError
from fromnoise.worlds.checks import actions_of, checked_action

if TYPE_CHECKING:
    from fromnoise.worlds.beginnings import Beginnings
    from fromnoise.worlds.dream import Dream

Kept = Callable[[], "Beginnings"]  # where real beginnings are had from when one is needed


def beginning(dream: Dream, kept: Kept, random: np.random.Generator,
              options: dict[str, Any] | None) -> tuple[Tensor, Tensor, int]:
    """(frames, actions, key of the noise) of one world: those of the options, else drawn of the real beginnings."""
    key, options = int(random.integers(2**62)), options or {}
    if not isinstance(options, dict):
        raise UserError(f'The options of reset are {{"frames": ..., "actions": ...}} (got {options!r:.60}).')
    if unknown := options.keys() - {"frames", "actions"}:
        raise UserError(f'reset takes the options "frames" and "actions" (got "{sorted(map(str, unknown))[0]}").')
    if "frames" not in options and "actions" in options:
        raise UserError("reset was given actions without the frames that they led to: give both.")
    if "frames" in options:
        frames, led = options["frames"], options.get("actions")
    else:
        real = kept()
        which = int(random.integers(len(real)))
        frames, led = real.frames[which], real.actions[which]
    return *start(dream, frames, led), key


def start(dream: Dream, frames: Any, led: Any = None) -> tuple[Tensor, Tensor]:
    """(frames ``[1, T, C, H, W]`` in [-1, 1], actions ``[1, T]`` or ``[1, T, A]``) of one world to begin from.

    frames: uint8 ``[T, H, W, C]``;  led: what led to each, None where that is not known.  UserError for frames of
    another size or type, and for actions that are none.
    """
    pixels, size = _array(frames), (*dream.size, dream.channels)
    if pixels.ndim != 4 or pixels.shape[1:] != size:
        raise UserError(f"Frames to begin from are [T, {', '.join(map(str, size))}] (got {list(pixels.shape)}).")
    if not len(pixels):
        raise UserError("A world begins from at least one frame, and there are none.")
    if pixels.dtype != np.uint8:
        raise UserError(f"Frames to begin from are whole numbers from 0 to 255, uint8 (got {pixels.dtype}).")
    return from_uint8(pixels[None]), torch.from_numpy(_led(actions_of(dream), led, len(pixels))[None])


def _array(values: Any) -> np.ndarray:
    """Values as an array; one of no numbers where rows are not all as long."""
    try:
        return np.asarray(values)
    except ValueError:
        return np.array(None)


def _led(actions: Actions, led: Any, count: int) -> np.ndarray:
    """What led to each frame, none (-1 or NaN) where nobody says."""
    full = (count, *actions.shape)
    if led is None:
        return np.full(full, actions.none, actions.dtype)
    values = _array(led)
    if values.shape != full or values.dtype.kind not in "iuf":
        raise UserError(f"The frames to begin from need an action each, numbers {list(full)} (got "
                        f"{values.dtype} {list(values.shape)}).")
    for value in values:
        if not np.all(np.isnan(value) if np.isnan(actions.none) else value == actions.none):
            checked_action(actions, value)
    return values.astype(actions.dtype)
