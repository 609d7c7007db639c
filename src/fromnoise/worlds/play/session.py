"""A session: one world that is played, what was passed in it, and where one can go back to.  It knows no network."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fromnoise.films import write_film
from fromnoise.media import from_uint8, to_uint8
from fromnoise.types import UserError
from fromnoise.worlds.checks import actions_of
from fromnoise.worlds.play.beside import Beside, Scene
from fromnoise.worlds.play.controls import controls_of
from fromnoise.worlds.starts import Kept, beginning, start

if TYPE_CHECKING:
    from fromnoise.worlds.dream import Dream, State

EVERY = 8  # frames from one moment that is kept to the next; those between are made again from it
MOMENTS = 40  # that are kept at most: 320 frames
ROOM = 128 * 2**20  # bytes of moments, and as many of branches
BRANCHES = 12  # at most
FILMED = 60.0  # seconds of a recording at most
TALL = 384  # pixels of its height, about


@dataclass(frozen=True)
class Seen:
    """One frame of a session: its number since the beginning, the world, and the real one."""

    number: int
    world: Scene
    real: Scene | None


@dataclass(frozen=True)
class Mark:
    """A place to come back to."""

    seen: Seen
    state: State
    real: Any


class Session:
    """One world in play.  beside: the real environment on the same actions, where there is one;  fps: frames a second,
    0 for those of the world;  anew: it goes on when it has ended, as a world does that learned to begin anew.

    Whatever is made is a function of the seed and of what is pressed, so that frames between kept moments can be made
    again.
    """

    def __init__(self, dream: Dream, kept: Kept, beside: Beside | None = None, fps: float = 0.0,
                 anew: bool = False):
        self.dream, self.kept, self.beside, self.fps, self.anew = dream, kept, beside, fps or dream.fps, anew
        self.controls = controls_of(actions_of(dream))
        self.branches: dict[int, Mark] = {}
        self.named = 0  # branches so far
        self.ms = 0.0  # that the newest frame took: the network, the real environment, and what is kept of it
        self.filmed: list[np.ndarray] | None = None

    @property
    def oldest(self) -> int:
        """The first frame that can be gone back to."""
        return self.past[0].seen.number

    @property
    def over(self) -> bool:
        """Whether the world has come to an end after which nothing comes."""
        return self.seen.world.ended and not self.anew

    @property
    def film_full(self) -> bool:
        """Whether a recording has reached its end."""
        return self.filmed is not None and len(self.filmed) >= FILMED * self.fps

    def reset(self, seed: int) -> Seen:
        """Begin: which real beginning and all noise are a function of the seed, as of ``WorldEnv``."""
        random = np.random.default_rng(seed)
        if self.beside is None:
            frames, led, key = beginning(self.dream, self.kept, random, None)
        else:
            key, (seen, done) = int(random.integers(2**62)), self.beside.begin(random)
            frames, led = start(self.dream, seen, done)
        self.state = self.dream.begin(frames, led, [key])
        self.fit = max(2, ROOM // sum(tensor.nbytes for tensor in self.state.tensors().values()))  # moments
        self.seen = Seen(0, Scene(to_uint8(frames[0, -1])), None if self.beside is None else self.beside.scene)
        self.done: dict[int, np.ndarray] = {}  # what led to the frames since the oldest moment
        self.past: deque[Mark] = deque([self._mark()])
        self.branches.clear()
        self._film()
        return self.seen

    def step(self, pressed: Sequence[str]) -> Seen:
        """The next frame, under the action of the buttons that are pressed; the same one where the world waits."""
        action = self.controls.action(pressed)
        if action is not None and not self.over:
            self._advance(action)
            self._film()
        return self.seen

    def rewind(self, number: int) -> Seen:
        """Go back to a frame; one that is not held any more is the oldest."""
        number = max(self.oldest, min(number, self.seen.number))
        while self.past[-1].seen.number > number:
            self.past.pop()
        self._go(self.past[-1])
        while self.seen.number < number:
            self._advance(self.done[self.seen.number + 1])
        self._film()
        return self.seen

    def branch(self) -> int:
        """Keep this moment, and return its number.  UserError where there are too many."""
        if len(self.branches) >= min(BRANCHES, self.fit):
            raise UserError(f"{len(self.branches)} branches are kept already: forget one first.")
        self.named += 1
        self.branches[self.named] = self._mark()
        return self.named

    def go(self, branch: int) -> Seen:
        """Come back to a branch; what was passed before it is not held then.  UserError for one that is not there."""
        mark = self._branch(branch)
        self._go(mark)
        self.past = deque([mark])
        self._film()
        return self.seen

    def forget(self, branch: int) -> None:
        """Drop a branch.  UserError for one that is not there."""
        self._branch(branch)
        del self.branches[branch]

    def record(self) -> None:
        """Keep frames from now on."""
        self.filmed = []
        self._film()

    def film(self) -> bytes:
        """The frames since ``record`` as MP4, the real environment at the right.  UserError where there are none."""
        frames, self.filmed = self.filmed, None
        if not frames:
            raise UserError("Nothing is being recorded.")
        with TemporaryDirectory() as folder:
            enlarge = max(1, round(TALL / frames[0].shape[0]))
            path = write_film(from_uint8(np.stack(frames)), Path(folder) / "film.mp4", self.fps, enlarge)
            return path.read_bytes()

    def close(self) -> None:
        if self.beside is not None:
            self.beside.close()

    def _advance(self, action: np.ndarray) -> None:
        """One frame on."""
        begun = time.perf_counter()
        stepped = self.dream.step(self.state, torch.from_numpy(np.asarray(action)[None]))
        reward = None if stepped.reward is None else float(stepped.reward[0])
        ended = stepped.ended is not None and bool(stepped.ended[0])
        world = self.seen.world.after(to_uint8(stepped.frame[0]), reward, ended)
        real = None if self.beside is None else self.beside.step(action, self.seen.number + 1)
        self.seen = Seen(self.seen.number + 1, world, real)
        self.done[self.seen.number] = action
        if self.seen.number % EVERY == 0:
            self.past.append(self._mark())
            while len(self.past) > min(MOMENTS, self.fit):
                self.past.popleft()
            self.done = {number: done for number, done in self.done.items() if number > self.oldest}
        self.ms = 1000 * (time.perf_counter() - begun)

    def _mark(self) -> Mark:
        return Mark(self.seen, self.state.copy(), None if self.beside is None else self.beside.save())

    def _go(self, mark: Mark) -> None:
        self.state, self.seen = mark.state.copy(), mark.seen
        if self.beside is not None:
            self.beside.restore(mark.real)

    def _branch(self, branch: int) -> Mark:
        if branch not in self.branches:
            raise UserError(f"There is no branch {branch} any more.")
        return self.branches[branch]

    def _film(self) -> None:
        if self.filmed is None or self.film_full:
            return
        scenes = [self.seen.world] + ([self.seen.real] if self.seen.real else [])
        self.filmed.append(np.concatenate([scene.frame for scene in scenes], axis=1))
