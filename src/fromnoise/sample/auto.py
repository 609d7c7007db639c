"""``solver="auto"``: the solver and grid that were best for a budget on problems with an exact answer.

Measured on Gaussian mixtures (``fromnoise bench solvers``; docs/solvers.md has the table).  Samples of few numbers,
whose modes are sharp beside their distances, want the plain extrapolation; samples of many, pictures among
them, want the corrector.  All are polynomials in the angle atan(sigma / alpha) or in the flow clock, so their
last step needs no special rule, and grids on the flow clock, which are those of any path.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.process import GaussianPath
from fromnoise.sample.bases import Target, Variable
from fromnoise.sample.grids import flow_clock
from fromnoise.sample.multistep import Multistep

FEW = 16  # numbers a sample below which it counts as small


@dataclass(frozen=True)
class Choice:
    """A solver and the warp of an even flow clock: quantiles of Beta(a, b), which for b = 1 is a power."""

    name: str
    solver: Multistep
    a: float
    b: float

    def grid(self, steps: int, path: GaussianPath) -> Tensor:
        """``[steps + 1]`` times from 1 to 0."""
        even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        if self.b == 1:
            return flow_clock(path, even ** (1 / self.a))
        from scipy.stats import beta

        return flow_clock(path, torch.from_numpy(beta.ppf(even.numpy(), self.a, self.b)))


def auto(nfe: int, numbers: int, guidance: float = 1.0) -> Choice:
    """What to take for ``nfe`` evaluations of samples of so many ``numbers`` each, at a guidance scale."""
    if numbers < FEW:
        if nfe <= 5:
            return _choice(3, "v", "angle", False, 0.6, 1)
        if nfe <= 9:
            return _choice(4, "v", "flow", False, 0.6 if nfe < 8 else 0.5, 1)
        if nfe <= 13:
            return _choice(2, "v", "angle", False, 0.6, 1)
        return _choice(4, "v", "flow", True, 0.5, 1)
    if guidance > 1:
        return _guided(nfe, guidance)
    if nfe <= 9:
        return _choice(2 if nfe <= 6 else 3, "v", "angle", True, 0.8, 0.8)
    return _choice(4, "velocity", "angle", True, 0.6, 0.6)


def _guided(nfe: int, guidance: float) -> Choice:
    """Guidance makes the field stiff, and correctors and high orders suffer first (benchmarks/guidance.py)."""
    if nfe >= 13 and guidance <= 1.5:  # by the panel on trained digits: dense at the end, where details are made
        return _choice(2, "v", "flow", False, 0.5, 1)
    if nfe <= 6 and guidance > 1.5:
        return _choice(2, "v", "flow", False, 0.8, 1)
    if nfe <= 9 and guidance > 5:
        return _choice(2, "v", "flow", False, 0.6, 1)
    return _choice(3 if nfe >= 13 and guidance <= 2 else 2, "v", "flow", True, 0.8, 0.8)


def _choice(order: int, target: Target, variable: Variable, corrector: bool, a: float, b: float) -> Choice:
    solver = Multistep(order=order, target=target, variable=variable, corrector=corrector, final="extrapolate")
    warp = f"power {1 / a:.3g}" if b == 1 else f"beta {a:g}"
    name = f"{target} in {variable}, order {order}{' with corrector' if corrector else ''}, {warp} grid"
    return Choice(name, solver, a, b)
