"""What ``solve`` says of its work: a line after each step, and the account at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Progress:
    """What a callback sees after each step: x at ``t_next`` and the x0 that was last predicted on the way there.

    steps: how many there will be, or None where an adaptive solver does not know;  t, t_next: where samples or
    frames have clocks of their own, the noisiest ones.
    """

    step: int
    steps: int | None
    t: float
    t_next: float
    x: Tensor
    x0: Tensor


Callback = Callable[[Progress], None]


@dataclass(frozen=True)
class SolveInfo:
    """How a sample was made: solver, the times visited and the number of network evaluations of one sample.

    rejected: steps that an adaptive solver took back;  sweeps: calls of the network, one after the other, of a
    solver that evaluates many times of one sample at once (None: as many as evaluations).
    """

    solver: str
    grid: tuple[float, ...]
    nfe: int
    rejected: int = 0
    sweeps: int | None = None
