"""A solver that was fitted to one model: its own grid and its own weights, as data.

    x_i = (sigma_i / sigma_i-1) x_i-1  +  e_i x_0  +  (alpha_i - sigma_i alpha_i-1 / sigma_i-1) sum_j<i w_ij D_j

Each state is a step of DDIM whose x0 is a mixture of all predictions so far.  With sum_j w_ij = 1 and e_i = 0 it is
exact for a constant prediction; every explicit multistep rule, whatever its coordinates, corrector and end rule, can
be written so (``folded``), and a rule that was written so keeps its meaning when its grid is moved.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fromnoise.config import from_dict, read_json, spec, to_dict
from fromnoise.process import GaussianPath, Path, expand
from fromnoise.sample.plan import Plan, Predict, Stage
from fromnoise.sample.teleport import Gaussian
from fromnoise.types import UserError

Row = tuple[float, ...]


@spec
class Errors:
    """Distance of end points to those of the exact ODE, relative to the spread of the data, on noise held out."""

    robust: float
    """Root mean of a loss that is bounded for paths that end in another mode, which is what is minimised."""
    rms: float
    """Root of the mean square: paths that end in another mode weigh most."""
    mean: float
    median: float
    strayed: float
    """Share of the paths that end farther than half the spread of the data away."""


@spec
class Tuned:
    """A solver for one model, path and number of evaluations, which brings its own grid.

    Made by ``tune``; ``save`` and ``Tuned.load`` keep every number to the last bit.
    """

    path: Path
    """The path it was made for."""
    grid: Annotated[Row, Field(min_length=2)]
    """Times of the evaluations, and 0."""
    table: tuple[Row, ...]
    """e_i, w_i0, ..., w_i,i-1: a row for every step."""
    start: Gaussian | None = None
    """The law by which noise is carried to the first time; without one it is taken as it is."""
    begun: str = ""
    """The best fixed solver and grid of those that tuning began with."""
    steps_done: int = 0
    """Steps of the optimiser."""
    noises: int = 0
    """Paths it was made from, those held out among them."""
    seed: int = 0
    guidance: float | None = None
    """Classifier-free guidance of the model it was made for, where that is known."""
    action_guidance: float | None = None
    """Guidance on actions of the world it was made for."""
    history: float | None = None
    """Noise level at which that world remembers its frames."""
    before: Errors | None = None
    """Of the best fixed solver and grid."""
    after: Errors | None = None

    multiple = 1

    def __post_init__(self):
        count = len(self.grid) - 1
        falls = all(b < a for a, b in zip(self.grid, self.grid[1:], strict=False))
        if not falls or self.grid[0] > 1 or self.grid[-1] != 0:
            raise ValueError("the grid must fall from at most 1 to 0")
        if [len(row) for row in self.table] != list(range(2, count + 2)):
            raise ValueError(f"a grid of {count} steps needs a table with rows of 2 to {count + 1} numbers")

    @property
    def nfe(self) -> int:
        """Evaluations of the denoiser."""
        return len(self.grid) - 1

    def steps(self, nfe: int) -> int | None:
        return nfe if nfe == self.nfe else None

    def plan(self, path: GaussianPath, times: Tensor) -> Plan:
        """The table.  UserError for another path or grid than its own."""
        if path != self.path:
            raise UserError(f"This solver was tuned for the path {shown(self.path)} and not for {shown(path)}: "
                            "tune again on this one.")
        if tuple(times.tolist()) != self.grid:
            raise UserError("A tuned solver has a grid of its own: leave the grid out.")
        keep, length = (values.tolist() for values in moves(path, times))
        stages = []
        for i, (share, *row) in enumerate(self.table, start=1):
            states = {i - 1: keep[i - 1]}
            states[0] = states.get(0, 0.0) + share
            parts = tuple((j, length[i - 1] * w) for j, w in enumerate(row) if w)
            stages.append(Stage(self.grid[i], tuple((j, a) for j, a in sorted(states.items()) if a), parts,
                                evaluate=i < self.nfe, step=i))
        start = float(path.sigma(torch.ones((), dtype=torch.float64)))
        return Plan(self.grid, start, tuple(stages), jump=starter(self.start, path, times[0]))

    def save(self, path: FilePath | str) -> None:
        """Write a JSON file."""
        from fromnoise.files import write_text

        write_text(FilePath(path), json.dumps(to_dict(self), indent=1) + "\n")

    @staticmethod
    def load(path: FilePath | str) -> Tuned:
        """From a JSON file.  UserError where it is missing or damaged."""
        return from_dict(Tuned, read_json(FilePath(path)), str(path))


def shown(path: GaussianPath) -> str:
    """``flow``, or ``shifted (by 3.0)``: the kind, and what is not as usual."""
    values, usual = to_dict(path), to_dict(type(path)())
    odd = ", ".join(f"{k} {v}" for k, v in values.items() if v != usual[k])
    return values["kind"] + (f" ({odd})" if odd else "")


def moves(path: GaussianPath, times: Tensor) -> tuple[Tensor, Tensor]:
    """(sigma_i / sigma_i-1, alpha_i - sigma_i alpha_i-1 / sigma_i-1) of the steps between ``times`` ``[n + 1]``."""
    alpha, sigma = path.alpha(times), path.sigma(times)
    keep = sigma[1:] / sigma[:-1]
    return keep, alpha[1:] - keep * alpha[:-1]


def starter(law: Gaussian | None, path: GaussianPath, time: Tensor) -> Callable[[Tensor], Tensor] | None:
    """The jump to ``time``, or None where there is none."""
    if law is None:
        return None
    top = torch.ones((), dtype=torch.float64)

    def jump(noise: Tensor) -> Tensor:
        if noise[0].numel() != len(law.mean):
            raise UserError(f"This solver was tuned for samples of {len(law.mean)} values, not of "
                            f"{noise[0].numel()}: tune it at this size.")
        return law.jump(noise, (path.alpha(top), path.sigma(top)), (path.alpha(time), path.sigma(time)))

    return jump


def follow(path: GaussianPath, times: Tensor, table: Tensor, denoise: Predict, x: Tensor) -> Tensor:
    """The last state, as the equation reads, with tensors for all its numbers: gradients flow to each of them.

    times ``[n + 1]``;  table ``[n, 1 + n]``;  x ``[B, ...]``: state 0.  With a last axis ``[B]`` on times or table
    each sample has its own, and the denoiser is asked with clocks ``[B, 1]``.
    """
    keep, length = (values.to(x) for values in moves(path, times))
    own = table.to(x).reshape(*table.shape[:2], -1).expand(-1, -1, len(x))
    start, seen = x, []
    for i in range(len(keep)):
        seen.append(denoise(x, times[i, :, None] if times.ndim > 1 else times[i]))
        mixed = torch.einsum("jb,jb...->b...", own[i, 1 : i + 2], torch.stack(seen))
        x = expand(keep[i], x) * x + expand(own[i, 0], x) * start + expand(length[i], x) * mixed
    return x


def folded(plan: Plan, path: GaussianPath) -> tuple[Tensor, Tensor]:
    """(times ``[n + 1]``, table ``[n, 1 + n]``) of a plan with one evaluation a step."""
    asked = [i for i, on in enumerate([plan.evaluate_start, *(s.evaluate for s in plan.stages)]) if on]
    clocks = [plan.grid[0], *(s.t for s in plan.stages)]
    column = {stage: 1 + k for k, stage in enumerate(asked)}
    made = [torch.zeros(1 + len(asked), dtype=torch.float64)]  # each state in x_0 and the predictions
    made[0][0] = 1
    for stage in plan.stages:
        total = sum((w * made[j] for j, w in stage.states), torch.zeros_like(made[0]))
        for j, w in stage.predictions:
            total[column[j]] += w
        made.append(total)
    ends = [*asked, len(plan.stages)]
    times = torch.tensor([clocks[i] for i in ends], dtype=torch.float64)
    keep, length = moves(path, times)
    states = torch.stack([made[i] for i in ends])
    change = states[1:] - keep[:, None] * states[:-1]
    return times, torch.cat([change[:, :1], change[:, 1:] / length[:, None]], 1)
