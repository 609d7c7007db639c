"""A world as a ``gymnasium.Env`` (Towers et al., 2024).  Imported where Gymnasium is known to be there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from fromnoise.data.episodes.actions import Actions
from fromnoise.media import to_uint8
from fromnoise.types import UserError
from fromnoise.worlds.checks import actions_of, checked_action
from fromnoise.worlds.moment import Moment, moment_of
from fromnoise.worlds.starts import Kept, beginning

if TYPE_CHECKING:
    from fromnoise.worlds.dream import Dream


class WorldEnv(gymnasium.Env):
    """One world: ``reset`` and ``step`` return uint8 ``[H, W, 3]``.

    Which real beginning it starts from and all noise are a function of the seed.  ``reset(options={"frames": ...,
    "actions": ...})`` starts from any real frames, uint8 ``[T, H, W, 3]``, and what led to each of them (may be left
    out).  Rewards and ends are those that the model foretells; without such heads they are 0 and False.
    limit: steps after which an episode is cut off, 0 for never.
    """

    def __init__(self, dream: Dream, kept: Kept, limit: int = 0, render_mode: str | None = "rgb_array"):
        if render_mode not in (None, "rgb_array"):
            raise UserError(f'render_mode is "rgb_array" or None (got {render_mode!r:.40}).')
        if limit < 0:
            raise UserError(f"limit is a number of steps, 0 for no limit (got {limit}).")
        self.dream, self.kept, self.limit, self.render_mode = dream, kept, limit, render_mode
        self.actions = actions_of(dream)
        self.observation_space = spaces.Box(0, 255, (*dream.size, dream.channels), np.uint8)
        self.action_space = space_of(self.actions)
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": dream.fps}
        self.state = self.frame = None
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        frames, led, key = beginning(self.dream, self.kept, self.np_random, options)
        self.state = self.dream.begin(frames, led, [key])
        self.frame, self.steps = to_uint8(frames[0, -1]), 0
        return self.frame.copy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.state is None:
            raise gymnasium.error.ResetNeeded("Call reset() first: a world begins from real frames.")
        taken = checked_action(self.actions, action)
        stepped = self.dream.step(self.state, torch.from_numpy(taken[None]))
        self.frame, self.steps = to_uint8(stepped.frame[0]), self.steps + 1
        reward = 0.0 if stepped.reward is None else float(stepped.reward[0])
        ended = stepped.ended is not None and bool(stepped.ended[0])
        cut = not ended and 0 < self.limit <= self.steps
        return self.frame.copy(), reward, ended, cut, {}

    def render(self) -> np.ndarray | None:
        """The last frame."""
        return None if self.render_mode is None or self.frame is None else self.frame.copy()

    def save(self, path: str | Path | None = None) -> Moment:
        """This moment, to which ``restore`` goes back any number of times, randomness and all; also as a file."""
        if self.state is None or self.frame is None:
            raise gymnasium.error.ResetNeeded("Call reset() first: there is no moment to keep yet.")
        moment = Moment(self.dream.identity, self.state.copy(), self.frame[None].copy(), np.array([self.steps]),
                        np.array([False]), (dict(self.np_random.bit_generator.state),))
        if path is not None:
            moment.write(path)
        return moment

    def restore(self, moment: Moment | str | Path) -> np.ndarray:
        """Go back to a moment of ``save`` or to its file, and return the frame that is seen there."""
        moment = moment_of(moment, 1, self.dream)
        self.state, self.steps, self.frame = moment.state.copy(), int(moment.steps[0]), moment.frames[0].copy()
        self.np_random.bit_generator.state = moment.random[0]
        return self.frame.copy()


def space_of(actions: Actions) -> spaces.Space:
    """The space of Gymnasium that holds these actions."""
    if actions.kind == "discrete":
        return spaces.Discrete(actions.n)
    if actions.kind == "multi_binary":
        return spaces.MultiBinary(actions.n)
    return spaces.Box(np.array(actions.low, np.float32), np.array(actions.high, np.float32), dtype=np.float32)
