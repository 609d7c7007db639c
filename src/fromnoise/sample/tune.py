"""Tuning: a solver's grid and weights fitted to a few hundred of a model's own paths.

The teacher is the end point x0* of the ODE from each noise, by many evaluations.  The student is ``Tuned``, begun as
the best of many fixed solvers and grids, and moved by gradients through all of its evaluations.  Relatives: the grid
by gradients is LD3 (Tong et al. 2024), grid and weights together S4S (Frankel et al. 2025); AYS (Sabour et al. 2024)
fits a grid to a bound instead.  Starting after a Gaussian jump follows Wang and Vastola (2024).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fromnoise.process import GaussianPath
from fromnoise.random import generator
from fromnoise.sample.grids import time_grid
from fromnoise.sample.solve import solve
from fromnoise.sample.solvers import SOLVERS
from fromnoise.sample.teleport import Gaussian
from fromnoise.sample.tuned import Errors, Tuned, folded, follow, starter
from fromnoise.types import Condition, UserError

BEGIN = ("ddim", "dpmpp_2m", "dpmpp_3m", "unipc_2", "deis_3", "ipndm_3", "abm_angle", "abm_flow")
BEGIN_GRIDS = ("uniform", "quadratic", "cosine", "beta", "karras", "logsnr", "angle", "flow")
HIGHEST = math.log(1e4)  # log(sigma / alpha) below which times are learned; noise is all there is above it
STRAYED = 0.5  # of the spread of the data
BEND = 0.3  # distance beyond which the loss grows no faster than the distance
RUNNERS = 3  # starts that are learned from for a while
CHECK_EVERY = 10  # steps between looks at the noise held out

Telling = Callable[[str, int, int, float], None]  # (what is done, done, of how many, error)


def tune(denoise: Callable[..., Tensor], path: GaussianPath, *, nfe: int, noise: Tensor,
         condition: Condition | None = None, teleport: bool = True, weights: bool = True, steps: int = 2000,
         seconds: float = 60.0, batch: int = 128, rate: float = 0.02, teacher: int = 100, seed: int = 0,
         guidance: float | None = None, progress: Telling | None = None) -> Tuned:
    """A solver of exactly ``nfe`` evaluations fitted to ``denoise`` on ``path``.

    denoise: ``(x, t) -> x0`` as for ``solve``, differentiable in x and t; with ``condition`` it is asked as
    ``(x, t, condition)``, with the rows of the samples at hand;  noise: a few hundred standard normal starting
    points ``[B, ...]``, in the dtype to work in, of which a quarter is held out to judge on;  teleport: may start
    after the Gaussian jump;  weights: learn the weights too, and not the grid alone;  steps: of Adam, cut short
    after ``seconds`` in all;  batch: paths a step;  rate: learning rate;  teacher: evaluations of a teacher path;
    guidance: kept in the result, to say what it was made for.

    The result is the best seen on the noise held out, so it is never worse there than what it began with.
    Without a cut it depends on the arguments alone.  UserError for a budget or noise that cannot be.
    """
    if nfe < 2:
        raise UserError(f"Tuning needs at least 2 evaluations (got {nfe}): with one there is nothing to choose.")
    if len(noise) < 8:
        raise UserError(f"Tuning needs at least 8 starting points, better a few hundred (got {len(noise)}).")
    clock = Clock.of(seconds)
    say = progress or (lambda *_: None)
    paths = Paths.follow_teacher(denoise, path, noise, condition, teacher, batch, say)
    starts = best_starts(paths, nfe, teleport, RUNNERS if steps else 1, say)
    how = Descent(steps, batch, rate, weights, seed)
    best, before, done = race(paths, starts, how, clock, say)
    after = paths.errors(best, paths.held_out)
    return best.result(path, begun=best.name, steps_done=done, noises=len(noise), seed=seed, guidance=guidance,
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


# ---- the student ----------------------------------------------------------------------------------------


@dataclass
class Student:
    """What is learned: log of the falls of q = log(sigma / alpha) from time to time, and the weights."""

    falls: Tensor  # [n] after a jump, [n - 1] after the path's start
    table: Tensor  # [n, 1 + n]: row i - 1 holds e_i, w_i0, ..., w_i,i-1, and zeros
    law: Gaussian | None
    name: str = ""

    def times(self, path: GaussianPath) -> Tensor:
        """``[n + 1]``."""
        q = top(path) - self.falls.exp().cumsum(0)
        t = path.time(-2 * q.detach())
        t = t + (q - q.detach()) * (-2 / path.logsnr_dot(t))  # the slope of the inverse, on any path
        ends = t.new_ones(1), t.new_zeros(1)
        return torch.cat([t, ends[1]] if self.law else [ends[0], t, ends[1]])

    def end(self, path: GaussianPath, denoise: Callable[[Tensor, Tensor], Tensor], noise: Tensor,
            terms: list[list[Tensor]] | None = None) -> Tensor:
        """End points;  terms: is given what each row of the table weighs."""
        times = self.times(path)
        jump = starter(self.law, path, times[0])
        x = jump(noise) if jump else float(path.sigma(times[0].detach())) * noise
        return follow(path, times, self.table, denoise, x, terms)

    def result(self, path: GaussianPath, **facts: Any) -> Tuned:
        rows = tuple(tuple(row[: i + 2]) for i, row in enumerate(self.table.tolist()))
        times = tuple(self.times(path).tolist())
        return Tuned(path=path, grid=times, table=rows, start=self.law, **facts)  # type: ignore[arg-type]


def top(path: GaussianPath) -> float:
    """q of the path's start, or HIGHEST where that is lower."""
    return min(float(-path.logsnr(torch.ones((), dtype=torch.float64)) / 2), HIGHEST)


def student(solver: str, grid: str, path: GaussianPath, nfe: int, law: Gaussian | None) -> Student:
    """A fixed solver on a fixed grid; with a law, on that of one more step, of which the jump takes the first."""
    times = time_grid(nfe + (law is not None), path, grid)
    times, table = folded(SOLVERS[solver].plan(path, times[1:] if law else times), path)
    q = -path.logsnr(times[:-1] if law else times[1:-1]) / 2
    q = torch.minimum(q, top(path) - 1e-3 * torch.arange(1, len(q) + 1, dtype=torch.float64))
    falls = -torch.diff(q, prepend=q.new_tensor([top(path)]))
    return Student(falls.log(), table, law, f"{solver} on {grid}" + (" after a Gaussian jump" if law else ""))


# ---- the teacher ----------------------------------------------------------------------------------------


@dataclass
class Paths:
    """Noises and where the ODE takes them."""

    denoise: Callable[..., Tensor]
    path: GaussianPath
    noise: Tensor
    condition: Condition | None
    batch: int
    ends: Tensor = field(init=False)
    spread: float = field(init=False)  # standard deviation of the end points over samples

    @staticmethod
    def follow_teacher(denoise, path, noise, condition, evaluations, batch, say) -> Paths:
        paths = Paths(denoise, path, noise, condition, batch)
        ends = []
        for rows in torch.arange(len(noise)).split(batch):
            ends.append(solve(paths.of(rows), noise[rows], path=path, solver="abm_angle", nfe=evaluations,
                              grid="karras"))
            say("teacher paths", int(rows[-1]) + 1, len(noise), math.nan)
        paths.ends = torch.cat(ends)
        paths.spread = float((paths.ends - paths.ends.mean(0)).double().square().mean().sqrt())
        return paths

    def of(self, rows: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The denoiser of some of the samples."""
        if self.condition is None:
            return self.denoise
        part = self.condition.map(lambda value: value[rows.to(value.device)])
        return lambda x, t: self.denoise(x, t, part)

    @property
    def held_out(self) -> Tensor:
        """Every fourth."""
        return torch.arange(3, len(self.noise), 4)

    @property
    def seen(self) -> Tensor:
        every = torch.arange(len(self.noise))
        return every[every % 4 != 3]

    def distance(self, student: Student, rows: Tensor) -> Tensor:
        """``[rows]``: root mean square over the values of a sample, relative to the spread of all end points."""
        end = student.end(self.path, self.of(rows), self.noise[rows])
        return (end - self.ends[rows]).double().flatten(1).square().mean(1).sqrt() / self.spread

    @torch.no_grad()
    def errors(self, student: Student, rows: Tensor) -> Errors:
        e = torch.cat([self.distance(student, part) for part in rows.split(self.batch)]).nan_to_num(1e6, 1e6)
        return Errors(robust=float(robust(e)), rms=float(e.square().mean().sqrt()), mean=float(e.mean()),
                      median=float(e.median()), strayed=float((e > STRAYED).double().mean()))


def best_starts(paths: Paths, nfe: int, teleport: bool, count: int, say: Telling) -> list[Student]:
    """The best of the fixed solvers and grids on some of the noises to learn from, best first."""
    laws = [None, Gaussian.fit(paths.ends)] if teleport else [None]
    left = [student(solver, grid, paths.path, nfe, law) for law in laws for solver in BEGIN for grid in BEGIN_GRIDS]
    for rows, keep in ((paths.seen[:16], 4 * count), (paths.seen[:96], count)):
        found = []
        for k, one in enumerate(left):
            found.append((paths.errors(one, rows).robust, k))
            say("where to begin", k + 1, len(left), min(found)[0])
        left = [left[k] for _, k in sorted(found)[:keep]]
    return left


# ---- learning -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Descent:
    """How to learn."""

    steps: int
    batch: int
    rate: float
    weights: bool
    seed: int


def race(paths: Paths, starts: list[Student], how: Descent, clock: Clock, say: Telling) -> tuple[Student, Errors, int]:
    """(the best student, errors of the first start, steps done), by a short run from each start and a long one on.

    Nothing is taken that is worse than the first start on the noise held out.
    """
    before = paths.errors(starts[0], paths.held_out)
    best, least, done = starts[0], before, 0
    for lap, start in enumerate(starts):
        short = replace(how, steps=how.steps // (3 * len(starts)))
        leg = clock.leg(1 / (3 * len(starts) - lap))
        found, errors, steps = descend(paths, start, short, leg, say)
        done += steps
        if errors.robust < least.robust and errors.rms <= before.rms:
            best, least = found, errors
    found, errors, steps = descend(paths, best, replace(how, steps=how.steps - done), clock.leg(1.0), say)
    better = errors.robust < least.robust and errors.rms <= before.rms
    return found if better else best, before, done + steps


def descend(paths: Paths, begin: Student, how: Descent, leg: Clock, say: Telling) -> tuple[Student, Errors, int]:
    """(the student that was best on the noise held out, its errors there, steps done)."""
    falls, change = begin.falls.clone().requires_grad_(), torch.zeros_like(begin.table).requires_grad_()
    units = unit_changes(paths, begin)
    learned = {falls: how.rate} | ({change: how.rate / 10} if how.weights else {})
    adam = torch.optim.Adam([{"params": [value], "rate": rate} for value, rate in learned.items()], betas=(0.9, 0.95))
    best, least, draw = begin, paths.errors(begin, paths.held_out), generator(how.seed)

    def now(falls: Tensor, change: Tensor) -> Student:
        return replace(begin, falls=falls, table=begin.table + torch.einsum("nkl,nl->nk", units, change))

    for step in range(1, how.steps + 1):
        share = min(max(step / how.steps, leg.spent), 1)
        for group in adam.param_groups:
            group["lr"] = group["rate"] * (1 + math.cos(math.pi * share)) / 2
        rows = paths.seen[torch.randperm(len(paths.seen), generator=draw)[: how.batch]]
        loss = robust(paths.distance(now(falls, change), rows))
        adam.zero_grad()
        loss.backward(inputs=list(learned))  # and not into the model
        adam.step()
        if step % CHECK_EVERY == 0 or share == 1:
            here = now(falls.detach().clone(), change.detach())
            found = paths.errors(here, paths.held_out)
            if found.robust < least.robust:
                best, least = here, found
            say("learning", step, how.steps, least.robust)
        if share == 1:
            return best, least, step
    return best, least, how.steps


def robust(e: Tensor) -> Tensor:
    """Root mean of a pseudo-Huber loss of distances: a path in another mode counts as far away, not as its square."""
    return (2 * BEND**2 * ((1 + (e / BEND).square()).sqrt() - 1)).mean().sqrt()


@torch.no_grad()
def unit_changes(paths: Paths, begin: Student, ridge: float = 1e-5) -> Tensor:
    """``[n, 1 + n, 1 + n]``: for each row of the table, changes that move its state by one, each in its own direction.

    The predictions of a path are much alike, so that their weights hardly matter one by one: as they stand, some
    combinations move a state a thousand times farther than others.  With G the inner products of what the row
    weighs, G = C C^T, the columns of C^-T are equally strong and independent.
    """
    rows, terms = paths.seen[: paths.batch], []
    begin.end(paths.path, paths.of(rows), paths.noise[rows], terms)
    units = torch.zeros(len(terms), len(terms) + 1, len(terms) + 1, dtype=torch.float64)
    for i, parts in enumerate(terms):
        flat = torch.stack([part.double().flatten() for part in parts]).cpu() / paths.spread
        gram = flat @ flat.mT / flat.shape[1]
        gram += ridge * gram.trace() / len(gram) * torch.eye(len(gram), dtype=torch.float64)
        units[i, : i + 2, : i + 2] = torch.linalg.inv(torch.linalg.cholesky(gram)).mT
    return units
