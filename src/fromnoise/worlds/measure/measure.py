"""A world measured: control, counterfactuals, faithfulness and stability, with their nulls beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field
from torch import Tensor

from fromnoise.config import spec
from fromnoise.data.episodes import Episodes, EpisodeSource
from fromnoise.data.episodes.actions import Discrete
from fromnoise.types import UserError
from fromnoise.worlds.measure.branches import branched
from fromnoise.worlds.measure.control import gain_figures, read_figures, true_figures
from fromnoise.worlds.measure.drift import Rollouts, drift_figures, rolled
from fromnoise.worlds.measure.imagined import Steps, imagined
from fromnoise.worlds.measure.inverse import kept
from fromnoise.worlds.measure.lived import of_environment, of_recording
from fromnoise.worlds.measure.report import FOLDER, Figure, Measured
from fromnoise.worlds.measure.windows import Moments, longest, recorded

FREE = (1, 4, 16)  # frames of a free rollout at which it is compared with the truth
FUTURE = 5  # frames of a counterfactual future: the next one, and four more
Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much


@spec
class Measuring:
    """On how much a world is measured."""

    states: Annotated[int, Field(ge=2)] = 64
    """Moments of held-out episodes from which frames are compared, and futures branch off."""
    branches: Annotated[int, Field(ge=2, le=64)] = 4
    """Futures of each moment, of discrete actions at most one for each."""
    rollouts: Annotated[int, Field(ge=2)] = 8
    """Long free rollouts, side by side."""
    frames: Annotated[int, Field(ge=20)] = 1000
    """Frames of each."""
    inverse: Annotated[int, Field(ge=1)] = 400
    """Training steps of the network that reads actions from frames; it is kept with the run."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Fixes noise, moments and actions."""


@dataclass
class Shown:
    """What is there to look at: moments of the real environment, what the world made of them, and long rollouts."""

    moments: Moments
    made: Tensor
    rollouts: Rollouts


@dataclass
class Stopwatch:
    """Seconds of each part, and who is told of it."""

    tell: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, part: str, total: int = 0) -> Iterator[Callable[[int], None]]:
        """Within, ``part`` is done; what it gives is called with how much of it is."""
        self.tell(part, 0, total)
        start = time.perf_counter()
        yield lambda done: self.tell(part, done, total)
        self.seconds[part] = round(time.perf_counter() - start, 1)


def measure(world: Steps, data: Episodes, run: Path, how: Measuring,
            progress: Progress | None = None) -> tuple[Measured, Shown]:
    """The figures of a world, and what is there to look at.

    world: a ``Dream``, or what steps as it does;  data: what it learned from, which must be there;  run: its folder,
    in which the reader of actions is kept;  progress: told (part, done, of how many).
    UserError where the world is told no actions, or its data or its environment are not there.
    """
    known = world.actions
    if known is None:
        raise UserError(f"{run} is told no actions, so there is no control to measure: train with --net.actions.")
    if isinstance(known, Discrete) and known.n < 2:
        raise UserError(f"In {run} there is one action, and nothing else to be done: there is no control to measure.")
    watch = Stopwatch(progress or (lambda *_: None))
    train, held = data.open("train"), data.open("test")
    with watch("inverse dynamics", how.inverse) as told:
        inverse = kept(known, train, how.inverse, run / FOLDER, told)
    with watch("recorded actions"):
        at = [t for t in FREE if t <= longest(held) - world.context] or [1]
        taped = recorded(held, world.context, max(at), how.states)
        made = imagined(world, taped.history, taped.led, taped.done, how.seed)
        figures = [*true_figures(taped, made, at), *read_figures("recorded actions", taped, made, inverse)]
    shown = taped, made
    if data.world is not None:
        with watch("counterfactuals"):
            moments = branched(held, data.world, known, world.context, FUTURE, how.states, how.branches, how.seed)
            made = imagined(world, moments.history, moments.led, moments.done, how.seed)
            figures += [*read_figures("cloned states", moments, made, inverse), *gain_figures(moments, made)]
        shown = moments, made
    with watch("rollouts", how.frames) as told:
        rollouts = rolled(world, held, how.rollouts, how.frames, how.seed, told)
    with watch("real rollouts"):
        real = (of_recording(train, held, len(rollouts.features)) if data.world is None else
                of_environment(held, data.world, world.context, how.rollouts, how.frames, how.seed))
        figures += drift_figures(rollouts, real, held)
    settings = {name: getattr(how, name) for name in ("states", "branches", "rollouts", "frames", "seed")}
    return Measured(ordered(figures), settings, watch.seconds, note(data, held)), Shown(*shown, rollouts)


def ordered(figures: list[Figure]) -> list[Figure]:
    """Those with a goal first."""
    return sorted(figures, key=lambda figure: figure.met is None)


def note(data: Episodes, held: EpisodeSource) -> str:
    """What could not be measured as it should be."""
    words = []
    if data.world is None:
        words.append("The recording does not name its environment, so nothing could be branched.")
    if not held.held_out:
        words.append("No episodes are held out: the world has seen all of this in training.")
    return " ".join(words)
