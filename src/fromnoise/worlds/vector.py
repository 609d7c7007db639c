"""Several worlds as a ``gymnasium.vector.VectorEnv``, stepped in one pass of the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from fromnoise.media import to_uint8
from fromnoise.types import UserError
from fromnoise.worlds.checks import checked_action
from fromnoise.worlds.env import WorldEnv
from fromnoise.worlds.moment import Moment, moment_of
from fromnoise.worlds.starts import Kept, beginning

if TYPE_CHECKING:
    from fromnoise.worlds.dream import Dream


class WorldVectorEnv(VectorEnv):
    """Worlds side by side: row i is the ``WorldEnv`` of its seed.

    A row that has ended or was cut off begins anew in the next step, in which its action counts for nothing and its
    reward is 0.
    """

    def __init__(self, dream: Dream, rows: int, kept: Kept, limit: int = 0):
        if rows < 1:
            raise UserError(f"rows must be at least 1, the worlds that are stepped together (got {rows}).")
        one = WorldEnv(dream, kept, limit)
        self.dream, self.kept, self.limit, self.num_envs, self.actions = dream, kept, one.limit, rows, one.actions
        self.single_observation_space, self.single_action_space = one.observation_space, one.action_space
        self.observation_space = batch_space(one.observation_space, self.num_envs)
        self.action_space = batch_space(one.action_space, self.num_envs)
        self.metadata = {**one.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.render_mode = "rgb_array"
        self.random: list[np.random.Generator] = []
        self.state = None
        self.frames = np.zeros(self.observation_space.shape, np.uint8)  # type: ignore[arg-type]
        self.steps, self.over = np.zeros(self.num_envs, np.int64), np.zeros(self.num_envs, bool)

    def reset(self, *, seed: int | Sequence[int | None] | None = None,
              options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """All rows begin.

        seed: row i has seed + i, or the i-th of several;  options: as of ``WorldEnv``, a row each.
        """
        self._seed(seed)
        begun = [beginning(self.dream, self.kept, self.random[i], self._of_row(options, i))
                 for i in range(self.num_envs)]
        if len({frames.shape for frames, _, _ in begun}) > 1:
            raise UserError("Worlds that begin together need as many frames each: give them in one array.")
        frames, led = torch.cat([b[0] for b in begun]), torch.cat([b[1] for b in begun])
        self.state = self.dream.begin(frames, led, [b[2] for b in begun])
        self.frames = to_uint8(frames[:, -1])
        self.steps[:], self.over[:] = 0, False
        return self.frames.copy(), {}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        if self.state is None:
            raise gymnasium.error.ResetNeeded("Call reset() first: a world begins from real frames.")
        if not hasattr(actions, "__len__") or len(actions) != self.num_envs:
            raise UserError(f"{self.num_envs} worlds take an action each, in a list or an array (got {actions!r:.60}).")
        taken = np.stack([checked_action(self.actions, action) for action in actions])
        again, count = self.over, self.num_envs
        stepped = self.dream.step(self.state, torch.from_numpy(taken))
        self.frames, self.steps = to_uint8(stepped.frame), self.steps + 1
        rewards = np.zeros(count) if stepped.reward is None else stepped.reward.double().numpy().copy()
        ended = np.zeros(count, bool) if stepped.ended is None else stepped.ended.numpy().copy()
        for row in np.flatnonzero(again).tolist():
            self._begin_again(row)
        rewards[again], ended[again] = 0.0, False
        cut = ~ended & ~again & (0 < self.limit <= self.steps)
        self.over = ended | cut
        return self.frames.copy(), rewards, ended, cut, {}

    def render(self) -> tuple[np.ndarray, ...]:
        """The last frame of each row."""
        return tuple(self.frames.copy())

    def save(self, path: str | Path | None = None) -> Moment:
        """This moment of all rows, to which ``restore`` goes back any number of times; also as a file."""
        if self.state is None:
            raise gymnasium.error.ResetNeeded("Call reset() first: there is no moment to keep yet.")
        states = tuple(dict(random.bit_generator.state) for random in self.random)
        moment = Moment(self.dream.identity, self.state.copy(), self.frames.copy(), self.steps.copy(),
                        self.over.copy(), states)
        if path is not None:
            moment.write(path)
        return moment

    def restore(self, moment: Moment | str | Path) -> np.ndarray:
        """Go back to a moment of ``save`` or to its file, and return the frames that are seen there."""
        moment = moment_of(moment, self.num_envs, self.dream)
        self.state, self.frames = moment.state.copy(), moment.frames.copy()
        self.steps, self.over = moment.steps.copy(), moment.over.copy()
        self.random = [seeding.np_random(0)[0] for _ in moment.random]
        for random, state in zip(self.random, moment.random, strict=True):
            random.bit_generator.state = state
        return self.frames.copy()

    def _begin_again(self, row: int) -> None:
        frames, led, key = beginning(self.dream, self.kept, self.random[row], None)
        self.state.put(row, self.dream.begin(frames, led, [key]))  # type: ignore[union-attr]
        self.frames[row], self.steps[row] = to_uint8(frames[0, -1]), 0

    def _seed(self, seed: int | Sequence[int | None] | None) -> None:
        """A generator for each row, as ``WorldEnv`` has it; without a seed those there are go on."""
        count = self.num_envs
        each = [None if seed is None else seed + i for i in range(count)] if not isinstance(seed, Sequence) else seed
        if len(each) != count:
            raise UserError(f"{count} worlds take a seed each (got {len(each)}).")
        held = self.random or [None] * count
        self.random = [random if key is None and random is not None else seeding.np_random(key)[0]
                       for key, random in zip(each, held, strict=True)]

    def _of_row(self, options: dict[str, Any] | None, row: int) -> dict[str, Any] | None:
        """The options of one row.  UserError where there are not as many."""
        if not options:
            return None
        for name in ("frames", "actions"):
            if options.get(name) is not None and len(options[name]) != self.num_envs:
                raise UserError(f'The option "{name}" has a row for each of {self.num_envs} worlds (got '
                                f"{len(options[name])}).")
        return {name: value[row] if name in ("frames", "actions") and value is not None else value
                for name, value in options.items()}
