"""The real environment beside its world: begun with the same frames, and told the same actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fromnoise.data.episodes.actions import Actions
from fromnoise.data.episodes.world import World, environment
from fromnoise.random import fold
from fromnoise.worlds.beginnings import LENGTH


@dataclass(frozen=True)
class Scene:
    """What is seen of one world: uint8 ``[H, W, 3]``, the reward that came with it and all so far (None where nobody
    tells), and whether the world has ended."""

    frame: np.ndarray
    reward: float | None = None
    score: float | None = None
    ended: bool = False

    def after(self, frame: np.ndarray, reward: float | None, ended: bool) -> Scene:
        """The next one."""
        return Scene(frame, reward, None if reward is None else (self.score or 0.0) + reward, ended)


class Beside:
    """A real environment.  anew: it begins anew in the step after its end, in which the action counts for nothing.

    UserError where it cannot be made here.
    """

    def __init__(self, world: World, actions: Actions, anew: bool = False):
        self.screen, self.actions, self.anew = environment(world), actions, anew

    def begin(self, random: np.random.Generator, length: int = LENGTH) -> tuple[np.ndarray, np.ndarray]:
        """Reset it and do anything for a few frames: (frames uint8 ``[T, H, W, 3]``, what led to each of them)."""
        self.key = int(random.integers(2**31))
        frame, _ = self.screen.reset(seed=self.key)
        frames, led = [frame], [np.full(self.actions.shape, self.actions.none, self.actions.dtype)]
        while len(frames) < length:
            action = np.asarray(self.actions.draw(random), self.actions.dtype)
            frame, _, terminated, truncated, _ = self.screen.step(action)
            if terminated or truncated:
                break
            frames.append(frame)
            led.append(action)
        self.scene = Scene(frames[-1], 0.0, 0.0)
        return np.stack(frames), np.stack(led)

    def step(self, action: np.ndarray, number: int) -> Scene:
        """Frame ``number``, seen after the action; after its end the last one, or another beginning."""
        if self.scene.ended and self.anew:
            frame, _ = self.screen.reset(seed=int(fold(self.key, number)) % 2**31)
            self.scene = self.scene.after(frame, 0.0, False)
        elif not self.scene.ended:
            frame, reward, terminated, truncated, _ = self.screen.step(action)
            self.scene = self.scene.after(frame, reward, terminated or truncated)
        return self.scene

    def save(self) -> Any:
        """This moment, for ``restore``."""
        return self.screen.save(), self.scene

    def restore(self, saved: Any) -> Scene:
        state, self.scene = saved
        self.screen.restore(state)
        return self.scene

    def close(self) -> None:
        self.screen.close()
