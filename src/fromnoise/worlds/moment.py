"""A moment of worlds: all that their future depends on, kept in memory or in a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fromnoise.files import disk_errors, replacing
from fromnoise.types import UserError

if TYPE_CHECKING:
    from fromnoise.worlds.dream import Dream, State

KEY, STATE = "fromnoise.moment", "state."  # in the file: the entry of its header, how names of the state begin


@dataclass(frozen=True)
class Moment:
    """What ``save`` keeps of N worlds.

    world: which it is of, ``Dream.identity``;  state: of the model, never stepped itself;  frames: uint8
    ``[N, H, W, C]``, seen there;  steps: ``[N]`` since the beginning;  over: ``[N]`` whether the episode had ended;
    random: of each, the state of its random numbers.
    """

    world: str
    state: State
    frames: np.ndarray
    steps: np.ndarray
    over: np.ndarray
    random: tuple[dict[str, Any], ...]

    def write(self, path: str | Path) -> None:
        """Keep it in a safetensors file."""
        arrays = {name: torch.from_numpy(getattr(self, name)) for name in ("frames", "steps", "over")}
        tensors = arrays | {STATE + name: tensor.cpu() for name, tensor in self.state.tensors().items()}
        header = json.dumps({"world": self.world, "random": self.random})
        with disk_errors(Path(path)), replacing(Path(path)) as temporary:
            save_file(tensors, temporary, metadata={KEY: header})

    @staticmethod
    def read(path: str | Path, device: torch.device | str) -> Moment:
        """From a file.  UserError where there is none, or it is no moment."""
        from fromnoise.worlds.dream import State

        if not Path(path).is_file():
            raise UserError(f"There is no file {path}: save(path) of a world writes one.")
        try:
            with safe_open(path, "pt") as file:
                header = json.loads((file.metadata() or {})[KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state = {name.removeprefix(STATE): t for name, t in tensors.items() if name.startswith(STATE)}
            frames, steps, over = (tensors[name].numpy() for name in ("frames", "steps", "over"))
            world, random = header["world"], tuple(header["random"])
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise UserError(f"{path} holds no moment of a world ({str(error).splitlines()[0]}).") from None
        return Moment(world, State.of(state, device), frames, steps, over, random)

    def check(self, rows: int, dream: Dream) -> None:
        """UserError for a moment of another number of worlds, or of others than these."""
        if self.frames.shape != (rows, *dream.size, dream.channels):
            raise UserError(f"This moment is of {len(self.frames)} worlds of {self.frames.shape[2]}x"
                            f"{self.frames.shape[1]} pixels, and here are {rows} of {dream.size[1]}x{dream.size[0]}.")
        if self.world != dream.identity:
            raise UserError("This is a moment of another world than this: open the run that it was saved from, with "
                            "the same context and sink.")


def moment_of(moment: Moment | str | Path, rows: int, dream: Dream) -> Moment:
    """A moment, or that in a file, if it is one of so many worlds as these.  UserError where it is not."""
    if not isinstance(moment, Moment):
        moment = Moment.read(moment, dream.model.system.device)
    moment.check(rows, dream)
    return moment
