"""Solvers as pure functions of a denoiser."""

from fromnoise.sample.solve import Callback, Progress, SolveInfo, solve, time_grid
from fromnoise.sample.solvers import SOLVERS, Solver

__all__ = ["SOLVERS", "Callback", "Progress", "SolveInfo", "Solver", "solve", "time_grid"]
