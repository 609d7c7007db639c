"""Real beginnings: a few moments of held-out episodes, kept with a run, so that its world starts without its data."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fromnoise.data.episodes import Episodes
from fromnoise.files import disk_errors, replacing
from fromnoise.types import UserError

NAME = "beginnings.safetensors"
COUNT = 16  # moments that are kept
LENGTH = 4  # frames of each: enough to see what moves, 0.8 MB in all at 64x64


@dataclass(frozen=True)
class Beginnings:
    """N moments of T frames each.

    frames: uint8 ``[N, T, H, W, 3]``;  actions: what led to each frame, ``[N, T]`` integers or ``[N, T, A]`` numbers,
    -1 or NaN where an episode begins.
    """

    frames: np.ndarray
    actions: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)

    def save(self, run: Path) -> None:
        """Keep them in a run folder."""
        with disk_errors(run / NAME), replacing(run / NAME) as temporary:
            save_file({"frames": self.frames, "actions": self.actions}, temporary)


def of_data(data: Episodes, count: int = COUNT, length: int = LENGTH) -> Beginnings:
    """Moments spread evenly over the held-out episodes, none of which goes over an end.

    UserError where the data are not there.
    """
    source = data.open("test")
    length = min(length, data.frames)
    rows = source.starts(range(len(source)))[:, None] + np.arange(length)
    rows = rows[(source.recorded.ends[rows] == 0).all(1)]
    if not len(rows):
        raise UserError(f"The held-out episodes of {data.root} end before {length} frames are over: hold more out.")
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int))]
    return Beginnings(np.ascontiguousarray(source.recorded.frames[chosen]), source.recorded.actions[chosen])


def of_run(run: Path, data: Episodes) -> Beginnings:
    """Those kept with a run; where there are none, of its data, and kept from then on.

    UserError where neither is there, and for a file that is damaged or of other pictures.
    """
    if (run / NAME).is_file():
        return _load(run / NAME, data)
    try:
        found = of_data(data)
    except UserError as error:
        raise UserError(f"{run} has no real beginnings ({NAME}), and its data are not there to take some from: "
                        f"{error}") from None
    with contextlib.suppress(UserError):  # a folder that cannot be written is played all the same
        found.save(run)
    return found


def _load(path: Path, data: Episodes) -> Beginnings:
    try:
        tensors = load_file(path)
        found = Beginnings(tensors["frames"], tensors["actions"])
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"{path} is damaged ({str(error).splitlines()[0]}): delete it, and it is made again of the "
                        "data.") from None
    shape, actions = found.frames.shape, data.actions
    fits = (shape[2:] == (data.height, data.width, 3) and found.frames.dtype == np.uint8 and 0 not in shape
            and found.actions.shape == (*shape[:2], *actions.shape))  # type: ignore[union-attr]
    if not fits:
        raise UserError(f"{path} holds frames {list(shape)} and actions {list(found.actions.shape)}, which are not of "
                        f"this world of {data.width}x{data.height}: delete it, and it is made again of the data.")
    return found
