"""Counterfactuals: what would have been seen had something else been done, from a simulator that goes back in time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fromnoise.data.episodes import EpisodeSource, World, environment, open_recording
from fromnoise.data.episodes.actions import Actions, Discrete
from fromnoise.data.episodes.episode import resized
from fromnoise.media import from_uint8
from fromnoise.random import fold
from fromnoise.types import UserError
from fromnoise.worlds.measure.windows import Moments, windows

TRIES = 4  # moments that are gone through for each that is wanted: some end too soon


def branched(source: EpisodeSource, world: World, known: Actions, context: int, steps: int, count: int,
             branches: int, seed: int = 0) -> Moments:
    """Moments of held-out episodes, played again in the real environment, and several futures of each.

    Of choices the first step of each future is another one; what follows, and other actions, are drawn alike.  Moments
    of which a future ends before ``steps`` are left out.  UserError where the environment is not there, or too few
    moments are left.
    """
    spec, seeds = source.spec, seeds_of(source)
    rows = windows(source, context + steps, TRIES * count)
    rng = np.random.default_rng(int(fold(seed)))
    screen, found = environment(world), []
    try:
        for row in rng.permutation(rows):
            lived = reached(screen, source, row[context - 1], seeds, lambda: int(rng.integers(2**31)))
            drawn = draw(known, branches, steps, rng)
            if lived is not None and (futures := follow(screen, drawn, spec)) is not None:
                found.append((lived[-context:], source.recorded.actions[row[:context]], drawn, futures))
            if len(found) == count:
                break
    finally:
        screen.close()
    if len(found) < 2:
        raise UserError(f"Of {len(rows)} moments of {world.id} {len(found)} went on for {steps} frames whatever was "
                        "done: measure on more --states.")
    frames, led, done, real = (np.stack(part) for part in zip(*found, strict=True))
    return Moments(from_uint8(frames), torch.from_numpy(led), torch.from_numpy(done), from_uint8(real))


def seeds_of(source: EpisodeSource) -> list[int]:
    """The seed of each episode of the recording, -1 where that is not known; none where it is of none."""
    return list(open_recording(source.spec.root, source.spec.camera).about.seeds or ())


def reached(screen: Any, source: EpisodeSource, row: int, seeds: list[int],
            other: Callable[[], int]) -> np.ndarray | None:
    """The real environment at a row of the recording: frames uint8 ``[T, H, W, 3]`` of its episode up to there.

    It is played again from the seed of the episode, or an ``other`` one where that is not known.  None where it ends
    on the way.
    """
    episode = int(np.searchsorted(source.recorded.offsets, row, "right")) - 1
    seed = seeds[episode] if seeds and seeds[episode] >= 0 else other()
    done = source.recorded.actions[source.recorded.offsets[episode] + 1 : row + 1]
    return played(screen, seed, done, source.spec)


def played(screen: Any, seed: int, actions: np.ndarray, spec: Any) -> np.ndarray | None:
    """Frames uint8 ``[T + 1, H, W, 3]`` from a reset through T actions; None where the episode ends on the way."""
    frames = [screen.reset(seed=seed)[0]]
    for action in actions:
        frame, _, terminated, truncated, _ = screen.step(action)
        if terminated or truncated:
            return None
        frames.append(frame)
    return np.stack([resized(frame, spec.height, spec.width) for frame in frames])


def follow(screen: Any, drawn: np.ndarray, spec: Any) -> np.ndarray | None:
    """Frames uint8 ``[J, K, H, W, 3]`` of actions ``[J, K, ...]``, each from this moment; None where any ends it."""
    moment, found = screen.save(), []
    for actions in drawn:
        frames = []
        screen.restore(moment)
        for action in actions:
            frame, _, terminated, truncated, _ = screen.step(action)
            if terminated or truncated:
                return None
            frames.append(resized(frame, spec.height, spec.width))
        found.append(np.stack(frames))
    return np.stack(found)


def draw(known: Actions, branches: int, steps: int, rng: np.random.Generator) -> np.ndarray:
    """What is done, ``[J, K]`` or ``[J, K, A]``: of choices as many as there are and ``branches`` at most."""
    if not isinstance(known, Discrete):
        return np.stack([np.stack([known.draw(rng) for _ in range(steps)]) for _ in range(branches)])
    first = rng.permutation(known.n)[:branches]
    return np.concatenate([first[:, None], rng.integers(known.n, size=(len(first), steps - 1))], axis=1)
