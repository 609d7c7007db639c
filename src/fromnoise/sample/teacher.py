"""Noises and where many evaluations take them: what a tuned solver is to reach, and how far from it one ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, Self

import torch
from torch import Tensor

from fromnoise.process import GaussianPath
from fromnoise.sample.gauss_newton import loss
from fromnoise.sample.solve import solve
from fromnoise.sample.student import Student
from fromnoise.sample.tuned import Errors
from fromnoise.types import UserError

Telling = Callable[[str, int, int, float], None]  # (what is done, done, of how many, error)

STRAYED = 0.5  # of the spread of the data
BEND = 0.5  # distance at which a path has half of the most that it can count
LOST = 1e6  # distance of what is no number


class Asked(Protocol):
    """What a denoiser is asked with beside x and t, a row for each sample: a ``Condition``, or more than that."""

    def map(self, f: Callable[[Tensor], Tensor]) -> Self:
        """The same with ``f`` applied to every tensor in it, ``[B, ...]``."""
        ...


@dataclass
class Paths:
    """Starting noise and the end points of the ODE from it."""

    denoise: Callable[..., Tensor]
    path: GaussianPath
    noise: Tensor
    condition: Asked | None
    batch: int
    ends: Tensor = field(init=False)
    spread: float = field(init=False)  # standard deviation of the end points over samples

    @staticmethod
    def follow_teacher(denoise: Callable[..., Tensor], path: GaussianPath, noise: Tensor,
                       condition: Asked | None, evaluations: int, batch: int, say: Telling) -> Paths:
        paths = Paths(denoise, path, noise, condition, batch)
        ends = []
        for rows in torch.arange(len(noise)).split(batch):
            ends.append(solve(paths.of(rows), noise[rows], path=path, solver="abm_angle", nfe=evaluations,
                              grid="karras"))
            say("teacher paths", int(rows[-1]) + 1, len(noise), math.nan)
        paths.ends = torch.cat(ends)
        if not bool(paths.ends.isfinite().all()):
            raise UserError("Some paths of the teacher do not end in finite numbers: look at the noise, and at what "
                            "the denoiser makes of it.")
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

    def residuals(self, student: Student, rows: Tensor) -> Tensor:
        """``[rows, D]``: whose norm is the root mean square over the values of a sample, relative to the spread."""
        off = (student.end(self.path, self.of(rows), self.noise[rows]) - self.ends[rows]).double().flatten(1)
        return off / (self.spread * math.sqrt(off.shape[1]))

    @torch.no_grad()
    def distances(self, student: Student, rows: Tensor) -> Tensor:
        """``[rows]``: the norms."""
        found = [self.residuals(student, part).norm(dim=1) for part in rows.split(self.batch)]
        return torch.cat(found).cpu().nan_to_num(LOST, LOST)

    def errors(self, student: Student, rows: Tensor) -> Errors:
        e = self.distances(student, rows)
        return Errors(robust=float(loss(e, BEND).mean().sqrt()), rms=float(e.square().mean().sqrt()),
                      mean=float(e.mean()), median=float(e.median()), strayed=float((e > STRAYED).double().mean()))
