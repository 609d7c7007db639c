"""Whether a world lasts: how far the frames of a long rollout are from real ones, late and early.

A frame is looked at together with the one before it.  A world that has come to a stop shows frames that are as good as
real ones, each by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fromnoise.data.episodes import EpisodeSource
from fromnoise.evaluate.distances import frechet
from fromnoise.perception.clips import RandomClipFeatures
from fromnoise.random import fold
from fromnoise.worlds.measure.imagined import Steps
from fromnoise.worlds.measure.report import Figure, interval
from fromnoise.worlds.measure.windows import led_to, rows_of, seen, windows

LASTING = 1.25  # times as far from real frames, late, as early
EARLY, LATE = (0.05, 0.15), (0.9, 1.0)  # shares of a rollout: frames 50 to 150 and 900 to 1,000 of 1,000
SHOWN = 20  # frames of a rollout that are kept to be looked at, after its first
MOVES = 0.1  # change of a pixel, of which black to white is 2, from which on something moved
REAL = 2000  # real frames that all are compared with
DRAWS = 4  # real stretches of as many frames, of which the floor is the mean
TIMES = 200  # draws of rollouts for an interval


@dataclass(frozen=True)
class Rollouts:
    """R free rollouts of N frames.

    features: ``[R, N, F]``, of each frame and the one before;  variance: ``[R, N]``, of pixels, mean over channels;
    moved: ``[R, N]``, whether anything did;  frames, numbers: some frames ``[R, M, C, H, W]``, and which they are.
    """

    features: Tensor
    variance: Tensor
    moved: Tensor
    frames: Tensor
    numbers: list[int]


def rolled(world: Steps, source: EpisodeSource, count: int, frames: int, seed: int = 0,
           progress: Callable[[int], None] | None = None) -> Rollouts:
    """``count`` rollouts from held-out moments, under actions of held-out episodes: each goes on with those recorded
    after its moment, and with those of the next episodes after them."""
    rows = windows(source, world.context, count)
    history, actions = seen(source, rows), following(source, rows[:, -1] + 1, frames)
    state = world.begin(history, led_to(source, rows), [int(key) for key in fold(seed, range(len(rows)))])
    look, before, found = RandomClipFeatures(history.shape[2]).look, history[:, -1], []
    numbers = np.linspace(0, frames, SHOWN + 1).round().astype(int).tolist()
    shown = [before]
    for n in range(frames):
        frame = world.step(state, actions[:, n]).frame
        moved = (frame - before).abs().flatten(1).amax(1) > MOVES
        found.append((look(torch.stack([before, frame], dim=1)), frame.var((2, 3)).mean(1), moved))
        before = frame
        if n + 1 in numbers:
            shown.append(frame)
        if progress:
            progress(n + 1)
    features, variance, moved = (torch.stack(part, dim=1) for part in zip(*found, strict=True))
    return Rollouts(features, variance, moved, torch.stack(shown, dim=1), numbers)


def following(source: EpisodeSource, starts: np.ndarray, count: int) -> Tensor:
    """What was done from rows ``starts`` ``[R]`` on, ``[R, count]`` or ``[R, count, A]``, begun again at the end."""
    every = rows_of(source, before=1)  # where an episode begins nothing was done
    at = np.searchsorted(every, starts)
    return led_to(source, every[(at[:, None] + np.arange(count)) % len(every)])


def drift_figures(rollouts: Rollouts, train: EpisodeSource, held: EpisodeSource) -> list[Figure]:
    """The distance to real frames late and early, their ratio, and plain statistics that a drift shows in."""
    count, length = rollouts.features.shape[:2]
    early, late = span(EARLY, length), span(LATE, length)
    rows = followed(train)
    real = look_at(train, rows[np.unique(np.linspace(0, len(rows) - 1, REAL).round().astype(int))])
    floor = float(np.mean([frechet(look_at(held, stretches(held, count, late.stop - late.start, draw)), real)
                           for draw in range(DRAWS)]))

    def distance(part: slice, i: Sequence[int] | np.ndarray) -> float:
        return frechet(rollouts.features[i, part].flatten(0, 1), real)

    def ratio(i: Sequence[int] | np.ndarray) -> float:
        return distance(late, i) / max(distance(early, i), 1e-9)

    figures, everyone = [], np.arange(count)
    begun = rollouts.frames[:, :1]
    still = RandomClipFeatures(begun.shape[2]).look(begun.expand(-1, 2, -1, -1, -1))  # that never leave it
    for name, part in (("early", early), ("late", late)):
        low, high = interval(lambda i, part=part: distance(part, i), count, TIMES)
        figures.append(Figure(f"feature distance, {name}", distance(part, everyone), low, high, floor,
                              frechet(still, real), ".4f",
                              note=f"frames {part.start:,} to {part.stop:,} of {count} rollouts, Frechet in random "
                                   f"features, against {len(real):,} real; real: held-out stretches; null: last real "
                                   "frames alone"))
    value = ratio(everyone)
    low, high = interval(ratio, count, TIMES)
    figures.append(Figure("stability: late over early", value, low, high, 1.0, None, ".2f", f"at most {LASTING:g}",
                          value <= LASTING, "of the feature distances; real: nothing wears out"))
    return figures + plain_figures(rollouts, held, early, late)


def plain_figures(rollouts: Rollouts, held: EpisodeSource, early: slice, late: slice) -> list[Figure]:
    """Variance of pixels, and the share of frames in which nothing moves, late beside early."""
    rows = stretches(held, len(rollouts.features), late.stop - late.start, 0)
    pairs = seen(held, rows[:, None] + np.array([-1, 0]))
    still = float((pairs.diff(dim=1).abs().flatten(1).amax(1) <= MOVES).double().mean())
    figures = []
    for name, part in (("early", early), ("late", late)):
        figures += [
            Figure(f"pixel variance, {name}", float(rollouts.variance[:, part].mean()), None, None,
                   float(pairs[:, 1].var((2, 3)).mean()), None, ".4f", note="mean over channels, frames and rollouts"),
            Figure(f"frames without movement, {name}", float((~rollouts.moved[:, part]).double().mean()), None, None,
                   still, None, ".1%", note=f"no pixel changes by more than {MOVES / 2:.0%} of black to white"),
        ]
    return figures


def span(shares: tuple[float, float], length: int) -> slice:
    """The frames of a rollout that are meant, at least two."""
    start = min(round(shares[0] * length), length - 2)
    return slice(start, max(start + 2, round(shares[1] * length)))


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
