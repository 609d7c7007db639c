"""A real environment for tests, and worlds of it that are perfect, deaf or wear out: a dot that moves as it is told."""

from dataclasses import dataclass

import gymnasium
import numpy as np
import torch

from fromnoise.data.episodes.actions import Continuous, Discrete
from fromnoise.random import fold, uniforms
from fromnoise.worlds import Stepped

SIDE, DOT, ROOM = 16, 4, 12  # the edge of the dot is at 0 to ROOM
MOVES = np.array([(0, 0), (2, 0), (-2, 0), (0, 2), (0, -2)])  # (x, y)
CHOICES, NUMBERS = Discrete(n=5), Continuous(low=(-3.0, -3.0), high=(3.0, 3.0))


def moved(place, action):
    """Where a dot is after an action, a choice or how far to go, none of them out of sight."""
    by = MOVES[int(action)] if np.shape(action) == () else np.round(action)
    return np.clip(place + by, 0, ROOM).astype(int)


def drawn(place):
    frame = np.zeros((SIDE, SIDE, 3), np.uint8)
    x, y = place
    frame[y : y + DOT, x : x + DOT] = 255
    return frame


class DotEnv(gymnasium.Env):
    """The dot begins anywhere; episodes are 60 steps long."""

    def __init__(self, numbers=False, render_mode=None):
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
        self.observation_space = gymnasium.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
        self.action_space = gymnasium.spaces.Box(-3, 3, (2,), np.float32) if numbers else gymnasium.spaces.Discrete(5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.integers(ROOM // 2, size=2) * 2
        return drawn(self.place), {}

    def step(self, action):
        self.place = moved(self.place, action)
        return drawn(self.place), 0.0, False, False, {}


gymnasium.register("Dot-v0", DotEnv, max_episode_steps=60)


@dataclass
class State:
    place: np.ndarray  # [rows, 2]
    seeds: list[int]
    passed: int = 0

    def rows(self, which):
        return State(self.place[which].copy(), [self.seeds[i] for i in which], self.passed)


@dataclass
class Perfect:
    """The environment itself, in the interface of ``Dream``."""

    actions: Discrete | Continuous = CHOICES
    context: int = 4

    def begin(self, frames, actions, seeds):
        bright = frames[:, -1].mean(1) > 0
        return State(np.stack([bright.any(1).int().argmax(1), bright.any(2).int().argmax(1)], 1), list(seeds))

    def step(self, state, actions=None):
        state.place = np.stack([moved(p, a) for p, a in zip(state.place, self.heard(state, actions), strict=True)])
        state.passed += 1
        frames = np.stack([drawn(place) for place in state.place])
        return Stepped(self.seen(torch.from_numpy(frames).movedim(-1, 1) / 127.5 - 1, state.passed))

    def heard(self, state, actions):
        return actions.numpy()

    def seen(self, frames, passed):
        return frames


class Deaf(Perfect):
    """It moves as it likes, whatever is done."""

    def heard(self, state, actions):
        return [int(5 * u) for u in uniforms(fold(state.seeds, state.passed), 1)[:, 0]]


class Stuck(Perfect):
    """After half a hundred frames nothing moves any more."""

    def heard(self, state, actions):
        return actions.numpy() * (state.passed < 50)


class Fading(Perfect):
    """What it shows grows pale."""

    def seen(self, frames, passed):
        return frames * 0.98**passed
