"""What long rollouts are compared with: frames of the real environment, played on from such moments in the same way.

Actions are recorded ones, and soon nobody looks at what they lead to: shots miss and balls are lost.  So what a real
environment shows late is not what it shows early, nor what was recorded, and a world that wears out shows in neither.
Each stage of a rollout is compared with the same stage of real ones.  They begin anew, where they end, in the step
after, in which the action counts for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fromnoise.data.episodes import EpisodeSource, World, environment
from fromnoise.data.episodes.episode import resized
from fromnoise.media import from_uint8
from fromnoise.perception.clips import RandomClipFeatures
from fromnoise.random import fold
from fromnoise.worlds.measure.branches import reached, seeds_of
from fromnoise.worlds.measure.windows import following, seen, windows

OTHERS = 4  # moments for each of a world's, of which all but those are what it is compared with
RECORDED = 2000  # recorded frames, where there is no environment
DRAWS = 4  # of recorded stretches as long as a world's, of which the floor is the mean


@dataclass(frozen=True)
class Real:
    """What rollouts are compared with.

    reference: features ``[n, F]`` of real frames at a stage;  perfect: some of what a perfect world might show there;
    where: whose they are, in words.
    """

    reference: Callable[[slice], Tensor]
    perfect: Callable[[slice], Sequence[Tensor]]
    where: str


def of_environment(held: EpisodeSource, world: World, context: int, count: int, length: int, seed: int = 0) -> Real:
    """Rollouts of the real environment: from the moments of the world's own, and from three times as many others."""
    own, more = windows(held, context, count), windows(held, context, OTHERS * count)
    others = more[~np.isin(more[:, 0], own[:, 0])]
    perfect, reference = (lived(held, world, rows, length, seed) for rows in (own, others))
    return Real(lambda part: reference[:, part].flatten(0, 1), lambda part: [perfect[:, part].flatten(0, 1)],
                f"{len(others)} rollouts of the real environment at the same frames")


def of_recording(train: EpisodeSource, held: EpisodeSource, count: int) -> Real:
    """Recorded frames, whatever the stage."""
    rows = followed(train)
    reference = look_at(train, rows[np.unique(np.linspace(0, len(rows) - 1, RECORDED).round().astype(int))])
    return Real(lambda _: reference,
                lambda part: [look_at(held, stretches(held, count, part.stop - part.start, draw))
                              for draw in range(DRAWS)],
                f"{len(reference):,} recorded frames")


def lived(source: EpisodeSource, world: World, rows: np.ndarray, length: int, seed: int) -> Tensor:
    """What random features see of ``length`` real frames after each window of ``rows`` ``[R, T]``: ``[R, length, F]``.

    A window is reached from the seed of its episode by its actions.
    """
    spec, actions = source.spec, following(source, rows[:, -1] + 1, length).numpy()
    seeds, look, screen, found = seeds_of(source), RandomClipFeatures(3).look, environment(world), []
    try:
        for number, (row, done) in enumerate(zip(rows, actions, strict=True)):
            begun = reached(screen, source, row[-1], seeds, partial(int, fold(seed, number) % 2**31))
            over = begun is None
            frames = [source.recorded.frames[row[-1]] if begun is None else begun[-1]]
            for n, action in enumerate(done):
                if over:
                    frame, over = screen.reset(seed=int(fold(seed, number, n)) % 2**31)[0], False
                else:
                    frame, _, ended, cut, _ = screen.step(action)
                    over = ended or cut
                frames.append(resized(frame, spec.height, spec.width))
            media = from_uint8(np.stack(frames))
            found.append(torch.cat([look(torch.stack([media[i : i + 256][: len(media) - 1 - i],
                                                      media[i + 1 : i + 257]], dim=1))
                                    for i in range(0, length, 256)]))
    finally:
        screen.close()
    return torch.stack(found)


def stretches(source: EpisodeSource, count: int, length: int, draw: int) -> np.ndarray:
    """Rows of ``count`` stretches of ``length`` frames of a split, one after the other: as a rollout's frames are."""
    every = followed(source)
    rng = np.random.default_rng(int(fold(draw)))
    starts = rng.integers(max(1, len(every) - length + 1), size=count)
    return np.concatenate([every[start : start + length] for start in starts])


def followed(source: EpisodeSource) -> np.ndarray:
    """Rows of a split whose frame is seen after another, also where the next episode begins if windows show that."""
    return np.concatenate([np.arange(start + 1, stop) for start, stop in source.runs.tolist()])


def look_at(source: EpisodeSource, rows: np.ndarray, batch: int = 256) -> Tensor:
    """What random features see of frames and of those before them, ``[n, F]``."""
    look, pairs = RandomClipFeatures(3).look, rows[:, None] + np.array([-1, 0])
    return torch.cat([look(seen(source, pairs[i : i + batch])) for i in range(0, len(rows), batch)])
