"""Parallel in time: the states of many steps at once, by Picard iteration.

A plan is a system of equations x_i = sum_j a_ij x_j + sum_j b_ij denoise(x_j) + s_i z_i.  Picard's iteration
evaluates all states of a window in one call of the network, and makes them again of what it said, until they stay
as they are (ParaDiGMS, Shih et al. 2023, for DDIM).  The solution is that of the steps one after the other; the
price is more evaluations, the gain fewer calls.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fromnoise.sample.multistep import Multistep
from fromnoise.sample.plan import Plan, Table, combine
from fromnoise.sample.procedure import Procedure, Task
from fromnoise.sample.progress import Progress, SolveInfo


@dataclass(frozen=True)
class Picard(Procedure):
    """Any solver that is a table, its steps in parallel.

    solver: the table, DDIM's by default;  tolerance: a state is done when no sample's RMS change is more than this
    times sqrt(alpha^2 + sigma^2);  window: how many states are in one call.  The denoiser is given up to window * B
    samples, the batch once for each state, with times ``[window * B]``: a condition must be repeated alike.
    """

    solver: Table = field(default_factory=Multistep)
    tolerance: float = 1e-3
    window: int = 16
    controls = "tolerance and window"
    on_grid = True

    def __post_init__(self):
        if self.tolerance < 0 or self.window < 1:
            raise ValueError("the tolerance must be at least 0 and the window at least 1")

    def run(self, task: Task) -> tuple[Tensor, SolveInfo]:
        assert task.times is not None  # on_grid
        table = self.solver.plan(task.path, task.times)
        sweep = _Sweep(table, task)
        done = 0  # states before this one are final
        while done <= len(table.stages):
            sweep.evaluate(range(done, min(done + self.window, len(table.stages) + 1)))
            while done <= len(table.stages) and sweep.settled(done, self.tolerance):
                sweep.finish(done)
                done += 1
        info = SolveInfo(task.name, table.grid, sweep.nfe, sweeps=sweep.calls)
        return sweep.x[len(table.stages)].to(task.noise.dtype), info


class _Sweep:
    """The states as they are now, and where each was when it was last evaluated."""

    def __init__(self, table: Plan, task: Task):
        self.table, self.task, self.noise = table, task, task.fresh(table)
        start = table.begin(task.noise.to(task.dtype))
        self.x: dict[int, Tensor] = {0: start}
        self.seen: dict[int, Tensor] = {}  # x at which d was predicted
        self.d: dict[int, Tensor] = {}
        self.fresh: dict[int, Tensor] = {}
        self.newest = torch.zeros_like(start)  # stands for the predictions of states that were never evaluated
        self.nfe = self.calls = 0

    def evaluate(self, window: range) -> None:
        """All states of the window made again, and one call of the network for those it is asked about."""
        for i in window:
            self.x[i] = self._state(i)
        asked = [i for i in window if self._asked(i)]
        if asked:
            x = torch.cat([self.x[i] for i in asked])
            t = torch.tensor([self._time(i) for i in asked], dtype=torch.float64)
            t = t.repeat_interleave(len(self.task.noise))
            for i, d in zip(asked, self.task.predict(x, t).chunk(len(asked)), strict=True):
                self.seen[i], self.d[i] = self.x[i], d
            self.newest = self.d[asked[0]]
            self.nfe, self.calls = self.nfe + len(asked), self.calls + 1

    def settled(self, i: int, tolerance: float) -> bool:
        """Whether state ``i``, all before it being final, is where it was evaluated."""
        if self._asked(i) and i not in self.seen:
            return False
        self.x[i] = self._state(i)
        if not self._asked(i):
            return True
        t = torch.tensor(self._time(i), dtype=torch.float64)
        length = float(torch.hypot(self.task.path.alpha(t), self.task.path.sigma(t)))
        change = (self.x[i] - self.seen[i]).flatten(1).square().mean(1).sqrt().max()
        return float(change) <= tolerance * length

    def finish(self, i: int) -> None:
        """What is not needed any more is let go, and the callback told of a step."""
        if i == 0:
            return
        stage, grid = self.table.stages[i - 1], self.table.grid
        for kind, j in self.table.last_use[i - 1]:
            (self.x if kind == "x" else self.d).pop(j, None)
            self.seen.pop(j, None)
        self.fresh.pop(i, None)
        if stage.step is not None and self.task.callback is not None:
            n = stage.step
            self.task.callback(Progress(n, len(grid) - 1, grid[n - 1], grid[n], self.x[i], self.newest))

    def _state(self, i: int) -> Tensor:
        if i == 0:
            return self.x[0]  # the start
        stage = self.table.stages[i - 1]
        x = combine([(self.x[j], w) for j, w in stage.states]
                    + [(self.d.get(j, self.newest), w) for j, w in stage.predictions])
        if stage.noise:
            if i not in self.fresh:
                self.fresh[i] = self.noise(i, x)
            x.add_(self.fresh[i], alpha=stage.noise)
        return x

    def _asked(self, i: int) -> bool:
        return self.table.evaluate_start if i == 0 else self.table.stages[i - 1].evaluate

    def _time(self, i: int) -> float:
        return self.table.grid[0] if i == 0 else self.table.stages[i - 1].t
