"""A world that is exact: a dot that moves as it is told, in the interface of ``fromnoise.worlds.dream.Dream``."""

from dataclasses import dataclass

import numpy as np
import torch

from fromnoise.data.episodes.actions import Actions, Discrete
from fromnoise.random import normal
from fromnoise.worlds.beginnings import Beginnings

SIDE = 16
MOVES = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))  # (x, y)
ARROWS = Discrete(n=5, meanings=("NOOP", "UP", "DOWN", "LEFT", "RIGHT"))


@dataclass
class Stepped:
    frame: torch.Tensor
    reward: torch.Tensor | None
    ended: torch.Tensor | None


class State:
    """Where the dots are ``[rows, 2]``, the seeds of their noise, and how many frames have passed ``[rows]``."""

    def __init__(self, place, seeds, passed):
        self.place, self.seeds, self.passed = place, seeds, passed

    def copy(self):
        return State(self.place.clone(), self.seeds.clone(), self.passed.clone())

    def put(self, row, other):
        self.place[row], self.seeds[row], self.passed[row] = other.place[0], other.seeds[0], other.passed[0]

    def tensors(self):
        return {"place": self.place, "seeds": self.seeds, "passed": self.passed}


class Dot:
    """A dot on noise of one level's height; it is worth 1 at the top and the world ends at the left edge.

    heads: whether rewards and ends are foretold.
    """

    def __init__(self, heads=True, actions: Actions = ARROWS):
        self.heads, self.actions, self.identity = heads, actions, f"dot {heads}"
        self.fps, self.size, self.channels = 20.0, (SIDE, SIDE), 3

    def begin(self, frames, actions, seeds):
        flat = frames[:, -1].mean(1).flatten(1).argmax(1)
        place = torch.stack([flat % SIDE, flat // SIDE], 1)
        return State(place, torch.tensor(seeds), torch.full((len(frames),), frames.shape[1]))

    def step(self, state, actions):
        state.place = (state.place + torch.tensor(MOVES)[actions.long().reshape(-1)]).clamp(0, SIDE - 1)
        state.passed = state.passed + 1
        keys = (state.seeds * 1009 + state.passed).tolist()
        frame = -1 + normal(keys, (3, SIDE, SIDE)).abs() / 50
        for row, (x, y) in enumerate(state.place.tolist()):
            frame[row, :, y, x] = 1
        if not self.heads:
            return Stepped(frame, None, None)
        return Stepped(frame, (state.place[:, 1] == 0).float(), state.place[:, 0] == 0)


class Kept:
    """Three beginnings of two frames, the dot in three places."""

    def __init__(self, actions: Actions = ARROWS):
        frames = np.zeros((3, 2, SIDE, SIDE, 3), np.uint8)
        for i in range(3):
            frames[i, :, 4 + i, 3 + i] = 255
        self.real = Beginnings(frames, np.full((3, 2, *actions.shape), actions.none, actions.dtype))

    def __call__(self):
        return self.real
