"""Solvers that are no table: what they evaluate next depends on what they have seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.process import GaussianPath
from fromnoise.sample.plan import Noise, Plan, Predict, ask
from fromnoise.sample.progress import Callback, SolveInfo
from fromnoise.types import UserError


@dataclass(frozen=True)
class Task:
    """What is to be solved, in the words of ``solve``.

    times: the grid ``[steps + 1]`` of a solver that takes one;  fresh: the noise of the stages of a plan.
    """

    name: str
    denoise: Predict
    noise: Tensor
    path: GaussianPath
    times: Tensor | None
    seed: int
    first: int
    fresh: Callable[[Plan], Noise]
    callback: Callback | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of the solver's own arithmetic: that of the noise, but no less than float32."""
        return torch.promote_types(self.noise.dtype, torch.float32)

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """x0 in the solver's dtype, by a network in the noise's."""
        return ask(self.denoise, x.to(self.noise.dtype), t).to(self.dtype)


class Procedure:
    """The base of such solvers: they cannot promise a number of evaluations, and have no plan.

    controls: the fields that say how much work is done;  on_grid: whether they walk on a given grid.
    """

    controls = ""
    on_grid = False
    multiple = 1

    def run(self, task: Task) -> tuple[Tensor, SolveInfo]:
        """(x0 ``[B, ...]``, the account)."""
        raise NotImplementedError

    def steps(self, nfe: int) -> None:
        """No number of steps spends exactly ``nfe`` evaluations for certain."""
        return None

    def plan(self, path: GaussianPath, times: Tensor) -> Plan:
        raise UserError(f"{type(self).__name__} has no table of steps: it finds them on the way.")

    def check(self, name: str, nfe: int | None, given_grid: bool) -> None:
        """UserError for what such a solver cannot be told; ``given_grid``: steps, a grid or a shift were asked for."""
        if nfe is not None:
            raise UserError(f"{name} finds out on the way how many evaluations it needs: "
                            f"set its {self.controls} instead of nfe.")
        if given_grid and not self.on_grid:
            raise UserError(f"{name} chooses its own steps: set its {self.controls} instead of steps, grid or shift.")
