"""Solvers as pure functions of a denoiser, and the grids they run on."""

from fromnoise.sample.grids import GRIDS, time_grid
from fromnoise.sample.multistep import Multistep
from fromnoise.sample.plan import Plan, Stage
from fromnoise.sample.runge_kutta import Exponential, RungeKutta, Tableau
from fromnoise.sample.solve import Callback, Progress, SolveInfo, solve
from fromnoise.sample.solvers import SOLVERS, Solver
from fromnoise.sample.stochastic import Ancestral, Churn, EulerMaruyama, PredictorCorrector, Restart
from fromnoise.sample.tune import tune
from fromnoise.sample.tuned import Errors, Tuned

__all__ = [
    "GRIDS", "SOLVERS", "Ancestral", "Callback", "Churn", "Errors", "EulerMaruyama", "Exponential", "Multistep", "Plan",
    "PredictorCorrector", "Progress", "Restart", "RungeKutta", "SolveInfo", "Solver", "Stage", "Tableau", "Tuned",
    "solve", "time_grid", "tune",
]
