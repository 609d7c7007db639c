"""How long frames of a dreamt world take, early and late, and how much memory they gather."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from fromnoise.data.episodes.actions import Discrete
from fromnoise.generate import Model
from fromnoise.system import System
from fromnoise.types import UserError
from fromnoise.worlds.dream import Dream

EARLY = range(100, 200)  # frames that late ones are compared with


@dataclass(frozen=True)
class Pace:
    """What frames of one world took.  seconds: median of early and of late frames;  slow: the 95th percentile of late
    ones;  grown: bytes that the process gained between them."""

    parameters: int
    frames: int
    early: float
    late: float
    slow: float
    grown: int

    @property
    def ratio(self) -> float:
        """Late over early."""
        return self.late / self.early


def pace(dream: Dream, frames: int, told: Callable[[int], None] = lambda frame: None) -> Pace:
    """Step one world so many frames, with drawn actions, and measure its last hundred beside the second hundred.

    told: called with each frame's number.  UserError for fewer than 300 frames.
    """
    if frames < 300:
        raise UserError(f"Early frames (the second hundred) and late ones (the last) take 300 frames (got {frames}).")
    random, known = np.random.default_rng(0), dream.actions
    state = dream.begin(torch.zeros(1, 1, dream.channels, *dream.size), None, [0])
    taken, held = [], 0
    for frame in range(frames):
        action = None if known is None else torch.as_tensor(np.asarray(known.draw(random))[None])
        start = time.perf_counter()
        dream.step(state, action)
        taken.append(time.perf_counter() - start)
        if frame == EARLY.stop:
            held = resident()
        told(frame)
    late = sorted(taken[-len(EARLY) :])
    return Pace(dream.model.parameters, frames, statistics.median(taken[EARLY.start : EARLY.stop]),
                statistics.median(late), late[int(0.95 * len(late))], resident() - held)


def resident() -> int:
    """Bytes of memory that this process has; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def untrained() -> Model:
    """The recipe world as it is before training, for an environment of six actions: as slow as a trained one."""
    from fromnoise.recipes import world

    recipe = world()
    return Model(System.of(replace(recipe, data=replace(recipe.data, fps=20.0, actions=Discrete(n=6))), [""]))
