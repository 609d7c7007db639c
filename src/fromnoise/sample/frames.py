"""Per-frame clocks: the tables of frames that each have a grid of their own, side by side in one.

A scheduling matrix ``[steps + 1, T]`` (Chen et al. 2024, Diffusion Forcing) says which time each frame has in each
row.  From one row to the next a frame moves, or is held and stays as it is to the last bit.  While it moves it
follows the solver's table for its own times; after a rest it begins a table anew, since what was predicted before
knew other neighbours, and so starts at first order as every multistep solver does.

Within a row a frame may need fewer stages than another (a step to t = 0 is a short one) and waits for it.  All
frames are evaluated together, so the prediction of a frame that waits is renewed as its neighbours change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from fromnoise.process import GaussianPath, expand
from fromnoise.sample.plan import Number, Plan, Stage, Weights
from fromnoise.types import UserError

MakeTable = Callable[[tuple[float, ...]], Plan]  # from falling times to the table of one clock


def abreast(table: MakeTable, path: GaussianPath, matrix: Tensor, like: Tensor) -> Plan[Number]:
    """The plan of a scheduling matrix ``[steps + 1, T]`` or ``[steps + 1, B, T]`` for states like ``like``.

    Its clocks are ``[1, T]`` or ``[B, T]``, its weights broadcast against ``like`` ``[B, T, ...]``.  Where all frames
    agree on a weight it is a number, so that a matrix of equal columns is the plan of one of them.
    """
    columns, which = torch.unique(matrix.flatten(1), dim=1, return_inverse=True)
    layout = Layout(which.reshape(matrix.shape[1:] if matrix.ndim == 3 else (1, -1)), like)
    frames = [Frame(times[0], _legs(times, table)) for times in columns.T.tolist()]
    clocks, asked, parts, steps = [[f.t for f in frames]], [False], [], []
    for n in range(len(matrix) - 1):
        legs = [f.legs[n] for f in frames]
        for frame, leg in zip(frames, legs, strict=True):
            if leg.begins is not None:
                seen = _seen(clocks, asked)
                if seen is None and leg.begins.evaluate_start:
                    asked[-1], seen = True, len(parts)
                frame.begin(len(parts), seen)
        width = max(1, *(len(leg.stages) for leg in legs))
        for k in range(width):
            taken = [leg.stages[k] if k < len(leg.stages) else None for leg in legs]
            asked.append(any(stage is not None and stage.evaluate for stage in taken))
            parts.append([f.take(stage, len(clocks), asked[-1]) for f, stage in zip(frames, taken, strict=True)])
            steps.append(n + 1 if k + 1 == width else None)
            clocks.append([f.t for f in frames])
    stages = (layout.stage(i, *values) for i, values in enumerate(
        zip(parts, clocks[1:], asked[1:], steps, strict=True), start=1))
    start = [float(path.sigma(t)) for t in columns[0]]
    return Plan(tuple(layout.clock(row) for row in columns.tolist()), layout.weight(start), tuple(stages), asked[0])


def _seen(clocks: list[list[float]], asked: list[bool]) -> int | None:
    """The newest state that was evaluated and has the clocks of the last one."""
    for j in reversed(range(len(asked))):
        if clocks[j] != clocks[-1]:
            return None
        if asked[j]:
            return j
    return None


@dataclass(frozen=True)
class Leg:
    """What a frame does in one row: its stages, none where it is held, and the table that begins there."""

    stages: tuple[Stage, ...] = ()
    begins: Plan | None = None


def _legs(times: Sequence[float], table: MakeTable) -> list[Leg]:
    """A leg for every row: one table for each unbroken run of falling times."""
    legs: list[Leg] = []
    while (n := len(legs)) < len(times) - 1:
        end = next((i for i in range(n, len(times) - 1) if times[i + 1] == times[i]), len(times) - 1)
        if end == n:
            legs.append(Leg())
            continue
        plan = table(tuple(times[n : end + 1]))
        if plan.jump is not None:
            raise UserError("This tuned solver starts all frames from noise: take another for schedules and given "
                            "frames.")
        ends = [0, *(i for i, stage in enumerate(plan.stages, start=1) if stage.step is not None)]
        legs += [Leg(plan.stages[a:b], None if a else plan) for a, b in pairwise(ends)]
    return legs


@dataclass
class Frame:
    """One frame on its way, and where in the joint table the states and predictions of its own table are."""

    t: float
    legs: list[Leg]
    at: int = 0  # its newest state, in its own count
    states: dict[int, int] = field(default_factory=dict)
    predictions: dict[int, int] = field(default_factory=dict)

    def begin(self, now: int, seen: int | None) -> None:
        """Count from the joint state ``now``, predicted at ``seen``."""
        self.at, self.states, self.predictions = 0, {0: now}, {} if seen is None else {0: seen}

    def take(self, stage: Stage | None, now: int, asked: bool) -> Stage:
        """Its part of the joint stage ``now``: its own next stage, or to stay as it was."""
        part = Stage(self.t, ((now - 1, 1.0),))
        if stage is not None:
            part = replace(stage, states=tuple((self.states[j], w) for j, w in stage.states),
                           predictions=tuple((self.predictions[j], w) for j, w in stage.predictions))
            self.at, self.t = self.at + 1, stage.t
        self.states[self.at] = now
        if asked:
            self.predictions[self.at] = now
        return part


@dataclass(frozen=True)
class Layout:
    """Values of the distinct columns over samples and frames: ``which`` ``[1 or B, T]`` has their numbers."""

    which: Tensor
    like: Tensor

    def clock(self, times: Sequence[float]) -> Tensor:
        """``[1 or B, T]`` in float64, on the CPU as every clock."""
        return torch.tensor(times, dtype=torch.float64)[self.which]

    def weight(self, values: Sequence[float]) -> Number:
        """A number where all agree, else a tensor in no less than float32."""
        dtype = torch.promote_types(self.like.dtype, torch.float32)
        return values[0] if len(set(values)) == 1 else self._over(torch.tensor(values, dtype=dtype))

    def stage(self, now: int, parts: list[Stage], clocks: list[float], asked: bool, step: int | None) -> Stage[Number]:
        """The stage ``now`` of the joint table, of what each column does in it."""
        still = [part == Stage(t, ((now - 1, 1.0),)) for part, t in zip(parts, clocks, strict=True)]
        return Stage(self.clock(clocks), self._terms([p.states for p in parts]),
                     self._terms([p.predictions for p in parts]), self.weight([p.noise for p in parts]), asked, step,
                     self._over(torch.tensor(still)) if any(still) else None)

    def _terms(self, parts: list[Weights]) -> Weights[Number]:
        """The weights of all columns by index; a column that leaves one out has 0 there."""
        rows = [dict(part) for part in parts]
        return tuple((j, self.weight([row.get(j, 0.0) for row in rows])) for j in sorted({j for r in rows for j in r}))

    def _over(self, values: Tensor) -> Tensor:
        return expand(values[self.which], self.like).to(self.like.device)
