"""Solvers as pure functions of a denoiser, and the grids they run on."""

from fromnoise.sample.adaptive import RK45, AdaptiveSDE
from fromnoise.sample.auto import auto
from fromnoise.sample.brownian import Brownian
from fromnoise.sample.fitted import ays_grid, gits_grid, on_grid
from fromnoise.sample.grids import GRIDS, time_grid
from fromnoise.sample.multistep import Multistep
from fromnoise.sample.order import Autoregressive, Chunks, FullSequence, Order, Overlapping, Pyramid
from fromnoise.sample.parallel import Picard
from fromnoise.sample.plan import Plan, Stage, run
from fromnoise.sample.procedure import Procedure
from fromnoise.sample.progress import Callback, Progress, SolveInfo
from fromnoise.sample.runge_kutta import Exponential, RungeKutta, Tableau
from fromnoise.sample.schedules import among, autoregressive, chunks, full_sequence, overlapping, pyramid, staggered
from fromnoise.sample.solve import solve, table_of
from fromnoise.sample.solvers import SOLVERS, Solver
from fromnoise.sample.stochastic import (
    Ancestral,
    AncestralMidpoint,
    Churn,
    EulerMaruyama,
    PredictorCorrector,
    Restart,
)
from fromnoise.sample.tune import tune
from fromnoise.sample.tuned import Errors, Tuned

__all__ = [
    "GRIDS", "RK45", "SOLVERS", "AdaptiveSDE", "Ancestral", "AncestralMidpoint", "Autoregressive", "Brownian",
    "Callback", "Chunks", "Churn", "Errors", "EulerMaruyama", "Exponential", "FullSequence", "Multistep", "Order",
    "Overlapping", "Picard", "Plan", "PredictorCorrector", "Procedure", "Progress", "Pyramid", "Restart",
    "RungeKutta", "SolveInfo", "Solver", "Stage", "Tableau", "Tuned", "among", "auto", "autoregressive", "ays_grid",
    "chunks", "full_sequence", "gits_grid", "on_grid", "overlapping", "pyramid", "run", "solve", "staggered",
    "table_of", "time_grid", "tune",
]
