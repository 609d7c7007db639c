"""Episodes played in a real environment: episode e is a function of the seed and of e, whoever plays it and when."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from fromnoise.config import spec
from fromnoise.data.episodes.actions import Actions
from fromnoise.data.episodes.episode import Episode
from fromnoise.data.episodes.policies import find
from fromnoise.data.episodes.world import World, actions_of, environment
from fromnoise.random import fold
from fromnoise.types import UserError

RESET, PLAY = range(2)  # what the random numbers of an episode are for


@spec
class Play:
    """Which world is played, and how."""

    world: World
    policy: str = "random"
    """random, wander (MiniGrid), rally (Pong, and Breakout of MinAtar), defend (Space Invaders of MinAtar), drive
    (CarRacing), or module:function, called as (observation, info, rng) -> action."""
    sticky: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """How likely the last action is held for another frame, whatever the policy says."""
    explore: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the policy's actions that are random instead."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Fixes every episode."""


class Player:
    """Plays episodes of one environment, which is made once."""

    def __init__(self, play: Play):
        self.play, self.screen = play, environment(play.world)
        self.actions: Actions = actions_of(self.screen)
        self.policy = find(play.policy, self.actions)

    def episode(self, number: int) -> Episode:
        """Episode ``number``.  UserError where the policy answers with something else than an action."""
        key = int(fold(self.play.seed, RESET, number)) % 2**31
        rng = np.random.default_rng(int(fold(self.play.seed, PLAY, number)))
        frame, info = self.screen.reset(seed=key)
        text = _mission(info["observation"]) or self.play.world.id
        frames, actions, rewards, over = [frame], [], [], (False, False)
        while not any(over):
            action = actions[-1] if actions and rng.random() < self.play.sticky else self._choose(frame, info, rng)
            frame, reward, *over, info = self.screen.step(action)
            frames.append(frame)
            actions.append(action)
            rewards.append(reward)
        return Episode(np.stack(frames), np.stack(actions), np.asarray(rewards, np.float32), *over, seed=key, text=text)

    def _choose(self, frame: np.ndarray, info: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
        if self.play.explore and rng.random() < self.play.explore:
            return np.asarray(self.actions.draw(rng), self.actions.dtype)
        try:
            answer = self.policy(info["observation"], {**info, "frame": frame}, rng)
        except Exception as error:  # a policy may be anybody's code
            raise UserError(f"The policy {self.play.policy} failed: {type(error).__name__}: {error}.") from error
        try:
            action = np.asarray(answer)
            if self.actions.holds(action):
                return action.astype(self.actions.dtype)
        except (TypeError, ValueError):
            pass
        raise UserError(f"The policy {self.play.policy} answered {answer!r:.60}, which is no action of "
                        f"{self.play.world.id}: it has {self.actions}.")


def episodes(play: Play, first: int, processes: int) -> Generator[Episode, None, None]:
    """Episodes from number ``first`` on, in order and without end, some played ahead by other processes.

    Each process plays whole episodes in an environment of its own, so that none waits for another and no step leads
    from one episode into the next.
    """
    if processes <= 1:
        player, number = Player(play), first
        while True:
            yield player.episode(number)
            number += 1
    from concurrent.futures import ProcessPoolExecutor

    pool = ProcessPoolExecutor(processes, _context(), _begin, (play, os.getcwd()))
    try:
        ahead = [pool.submit(_played, first + i) for i in range(processes + 1)]
        number = first + len(ahead)
        while True:
            yield ahead.pop(0).result()
            ahead.append(pool.submit(_played, number))
            number += 1
    finally:
        for process in list((pool._processes or {}).values()):
            process.terminate()  # what is played ahead is not wanted any more
        pool.shutdown(cancel_futures=True)


def _context() -> Any:
    """Processes forked from a clean one, which has imported what all of them need."""
    import multiprocessing

    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


_player: Player | None = None  # of this process


def _begin(play: Play, folder: str) -> None:
    """A process gets ready to play."""
    import signal
    from threading import Thread

    global _player
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that collects
    Thread(target=_end_with_parent, daemon=True).start()
    os.chdir(folder)
    _player = Player(play)


def _end_with_parent() -> None:
    """Leave when the process that collects is gone, however it ended."""
    from multiprocessing import parent_process

    if parent := parent_process():
        parent.join()
        os._exit(1)


def _played(number: int) -> Episode:
    assert _player is not None
    return _player.episode(number)


def _mission(observation: Any) -> str:
    """What is to be done, where the environment says it in words."""
    said = observation.get("mission", "") if isinstance(observation, dict) else ""
    return said if isinstance(said, str) else ""
