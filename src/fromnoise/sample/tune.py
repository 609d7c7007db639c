"""Tuning: a solver's grid and weights fitted to a few hundred of a model's own paths.

The teacher is the end point x0* of the ODE from each noise, by many evaluations.  The student is ``Tuned``, begun as
the best of many fixed solvers and grids, and moved by Gauss-Newton steps through all of its evaluations.  Relatives:
the grid by gradients is LD3 (Tong et al. 2024), grid and weights together S4S (Frankel et al. 2025); AYS (Sabour et
al. 2024) fits a grid to a bound instead.  Starting after a Gaussian jump follows Wang and Vastola (2024).

A path that ends in another mode tells nothing of how to bring it back, and outweighs all others.  So learning begins
with a loss that leaves such paths out, and takes them in as it goes (graduated non-convexity, Blake and Zisserman
1987).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from fromnoise.process import GaussianPath
from fromnoise.random import generator
from fromnoise.sample.auto import auto
from fromnoise.sample.gauss_newton import damped_step, loss, normal_equations
from fromnoise.sample.grids import GRIDS, time_grid
from fromnoise.sample.solvers import SOLVERS
from fromnoise.sample.student import Student, fixed
from fromnoise.sample.teacher import BEND, Asked, Paths, Telling
from fromnoise.sample.teleport import Gaussian
from fromnoise.sample.tuned import Errors, Tuned
from fromnoise.types import UserError

BEGIN = ("ddim", "dpmpp_2m", "dpmpp_3m", "unipc_2", "unipc_3", "deis_3", "ipndm_2", "ipndm_3", "abm_angle", "abm_flow",
         "midpoint", "dpmpp_2s")
RUNNERS = 8  # starts that are learned from for a while, half of them after a jump
SIEVE = ((8, 3 * RUNNERS), (48, RUNNERS))  # paths on which starts are compared, and how many stay
FEW = 2  # paths for every number that is learned, in a short run and at first in a long one
LEAST = 4  # steps of a short run, for which others are left out where time is short
NEAR = 4.0  # medians of the distances at which the loss bends first
CHECK_EVERY = 4  # steps between looks at the noise held out


def tune(denoise: Callable[..., Tensor], path: GaussianPath, *, nfe: int, noise: Tensor,
         condition: Asked | None = None, teleport: bool = True, weights: bool = True, steps: int = 200,
         seconds: float = 60.0, batch: int = 128, teacher: int = 100, seed: int = 0,
         guidance: float | None = None, progress: Telling | None = None) -> Tuned:
    """A solver of exactly ``nfe`` evaluations fitted to ``denoise`` on ``path``.

    denoise: ``(x, t) -> x0`` as for ``solve``, differentiable in x and t, with a time for each sample, ``[B, 1]``, too;
    with ``condition`` it is asked as ``(x, t, condition)``, with the rows of the samples at hand;  noise: a few
    hundred standard normal starting points ``[B, ...]``, in the dtype to work in, of which a quarter is held out to
    judge on;  teleport: may start after the Gaussian jump;  weights: learn the weights too, and not the grid alone;
    steps: of Gauss and Newton, cut short after ``seconds`` in all;  batch: paths at once;  teacher: evaluations of a
    teacher path;  guidance: kept in the result, to say what it was made for.

    The result is the best seen on the noise held out, so it is never worse there than any of the fixed solvers it
    was raced from.  Without a cut it depends on the arguments alone.  UserError for a budget or noise that cannot be.
    """
    if nfe < 1:
        raise UserError(f"Tuning needs at least 1 evaluation (got {nfe}).")
    if len(noise) < 8:
        raise UserError(f"Tuning needs at least 8 starting points, better a few hundred (got {len(noise)}).")
    clock = Clock.of(seconds)
    say = progress or (lambda *_: None)
    paths = Paths.follow_teacher(denoise, path, noise, condition, teacher, batch, say)
    starts = best_starts(paths, all_fixed(paths, nfe, teleport, guidance), clock.leg(1 / 4), say)
    best, before, done = race(paths, starts, Descent(steps, weights, seed), clock, say)
    after = paths.errors(best, paths.held_out)
    return best.result(path, begun=starts[0].name, steps_done=done, noises=len(noise), seed=seed, guidance=guidance,
                       before=before, after=after)


@dataclass(frozen=True)
class Clock:
    """A budget of wall time from ``begun`` to ``end``."""

    begun: float
    end: float

    @staticmethod
    def of(seconds: float) -> Clock:
        now = time.monotonic()
        return Clock(now, now + seconds)

    @property
    def spent(self) -> float:
        """Share of the budget."""
        return (time.monotonic() - self.begun) / (self.end - self.begun) if self.end > self.begun else 1.0

    def leg(self, share: float) -> Clock:
        """From now until that share of what is left of the whole is spent."""
        now = time.monotonic()
        return Clock(now, now + max(0.0, self.end - now) * share)


# ---- where to begin -------------------------------------------------------------------------------------


def all_fixed(paths: Paths, nfe: int, teleport: bool, guidance: float | None) -> list[Student]:
    """The choice of ``auto``, and every solver of BEGIN that can spend ``nfe`` evaluations on every grid.

    After a jump they are laid on one step more, of which the jump takes the first.
    """
    path, choice = paths.path, auto(nfe, paths.noise[0].numel(), guidance or 1.0)
    laws = [None, Gaussian.fit(paths.ends)] if teleport else [None]
    found = [fixed(choice.solver, choice.grid(nfe + (law is not None), path), path, law, f"auto: {choice.name}")
             for law in laws]
    for law, name, grid in itertools.product(laws, BEGIN, GRIDS):
        if steps := SOLVERS[name].steps(nfe):
            times = time_grid(steps + (law is not None), path, grid)
            found.append(fixed(SOLVERS[name], times, path, law, f"{name} on {grid}"))
    return found


def best_starts(paths: Paths, left: list[Student], leg: Clock, say: Telling) -> list[Student]:
    """The best RUNNERS, half of them after a jump if there are any; the best on the noise held out first.

    What they are chosen by is some of the noises to learn from.  The first are looked at even where there is no time:
    the choice of ``auto``, which few evaluations may not suit, and DDIM on every grid.
    """
    laws = list({id(one.law): one.law for one in left}.values())
    for count, keep in SIEVE:
        found: dict[float, Student] = {}  # by error, so that of two that are the same one is kept
        for k, one in enumerate(left):
            if k >= len(laws) + len(GRIDS) and leg.spent >= 1:
                break
            found.setdefault(paths.errors(one, paths.seen[:count]).robust, one)
            say("where to begin", k + 1, len(left), min(found))
        ranked = [found[error] for error in sorted(found)]
        left = [one for law in laws for one in [s for s in ranked if s.law is law][: keep // len(laws)]]
    return sorted(left, key=lambda one: paths.errors(one, paths.held_out).rms)


# ---- learning -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Descent:
    """How to learn: at most and at least so many steps, in the end from all paths or from as few as at first."""

    steps: int
    weights: bool
    seed: int
    least: int = 0
    few: bool = False


Run = tuple[Student, Errors, int]  # (a student, its errors on the noise held out, steps done)


def race(paths: Paths, starts: list[Student], how: Descent, clock: Clock, say: Telling) -> tuple[Student, Errors, int]:
    """(the best student, errors of the first start, steps done), by a short run from each start and a long one on.

    Nothing is taken that has a larger RMS than the first start on the noise held out.
    """
    before, heats = paths.errors(starts[0], paths.held_out), clock.leg(1 / 3)
    short = replace(how, steps=how.steps // (3 * len(starts)), least=LEAST, few=True)
    runs: list[Run] = [(starts[0], before, 0)]
    for lap, start in enumerate(starts):
        if heats.spent < 1:
            runs.append(descend(paths, start, short, heats.leg(1 / (len(starts) - lap)), say))
    left = replace(how, steps=how.steps - sum(steps for *_, steps in runs))
    runs.append(descend(paths, best_of(runs), left, clock.leg(1.0), say))
    return best_of(runs), before, sum(steps for *_, steps in runs)


def best_of(runs: list[Run]) -> Student:
    """The first of those with the least RMS."""
    return min(runs, key=lambda run: run[1].rms)[0]


def descend(paths: Paths, begin: Student, how: Descent, leg: Clock, say: Telling) -> Run:
    """The student that was best on the noise held out.

    As it goes, from NEAR medians to BEND, the loss bends later, and more of the paths are used.
    """
    values, damping, draw = begin.values(how.weights), 1e-2, generator(how.seed)
    best, least, step = begin, paths.errors(begin, paths.held_out), 0
    few = min(FEW * len(values), len(paths.seen))
    many = few if how.few else len(paths.seen)

    def residuals(values: Tensor, rows: Tensor) -> Tensor:
        return paths.residuals(begin.moved(values), rows)

    def objective(values: Tensor, rows: Tensor, bend: float) -> float:
        return float(loss(paths.distances(begin.moved(values), rows), bend).mean())

    while len(values) and step < how.steps and (leg.spent < 1 or step < how.least):
        share = min(max((step + 1) / how.steps, leg.spent), 1.0)
        rows = paths.seen[: round(few ** (1 - share) * many**share)]
        distances = paths.distances(begin.moved(values), rows)
        bend = min(NEAR * float(distances.median()), BEND) ** (1 - share) * BEND**share

        equations = normal_equations(residuals, values, rows, paths.batch, bend, draw)
        now, there = float(loss(distances, bend).mean()), partial(objective, rows=rows, bend=bend)
        values, damping = damped_step(there, now, values, equations, damping)
        step += 1
        if step % CHECK_EVERY == 0 or step == how.steps or leg.spent >= 1:
            here = begin.moved(values)
            found = paths.errors(here, paths.held_out)
            if found.rms < least.rms:
                best, least = here, found
            say("learning", step, how.steps, least.rms)
    return best, least, step
