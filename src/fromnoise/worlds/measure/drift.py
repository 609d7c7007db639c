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
from fromnoise.worlds.measure.lived import Real, stretches
from fromnoise.worlds.measure.report import Figure, interval
from fromnoise.worlds.measure.windows import following, led_to, seen, windows

LASTING = 1.25  # times as far from real frames, late, as early
EARLY, LATE = (0.05, 0.15), (0.9, 1.0)  # shares of a rollout: frames 50 to 150 and 900 to 1,000 of 1,000
SHOWN = 20  # frames of a rollout that are kept to be looked at, after its first
MOVES = 0.1  # change of a pixel, of which black to white is 2, from which on something moved
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


def drift_figures(rollouts: Rollouts, real: Real, held: EpisodeSource) -> list[Figure]:
    """The distance to real frames late and early, their ratio, and plain statistics that a drift shows in."""
    count, length = rollouts.features.shape[:2]
    parts = {"early": span(EARLY, length), "late": span(LATE, length)}
    reference = {name: real.reference(part) for name, part in parts.items()}
    floor = {name: float(np.mean([frechet(own, reference[name]) for own in real.perfect(part)]))
             for name, part in parts.items()}

    def distance(name: str, i: Sequence[int] | np.ndarray) -> float:
        return frechet(rollouts.features[i, parts[name]].flatten(0, 1), reference[name])

    def ratio(i: Sequence[int] | np.ndarray) -> float:
        return distance("late", i) / max(distance("early", i), 1e-9)

    figures, everyone = [], np.arange(count)
    begun = rollouts.frames[:, :1]
    still = RandomClipFeatures(begun.shape[2]).look(begun.expand(-1, 2, -1, -1, -1))  # that never leave it
    for name, part in parts.items():
        low, high = interval(lambda i, name=name: distance(name, i), count, TIMES)
        figures.append(Figure(f"feature distance, {name}", distance(name, everyone), low, high, floor[name],
                              frechet(still, reference[name]), ".4f",
                              note=f"frames {part.start:,} to {part.stop:,} of {count} rollouts, Frechet in random "
                                   f"features, from {real.where}; null: last real frames alone"))
    value, perfect = ratio(everyone), floor["late"] / max(floor["early"], 1e-9)
    low, high = interval(ratio, count, TIMES)
    figures.append(Figure("stability: late over early", value, low, high, perfect, None, ".2f", f"at most {LASTING:g}",
                          value <= LASTING, "of the feature distances"))
    return figures + plain_figures(rollouts, held, parts["early"], parts["late"])


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
