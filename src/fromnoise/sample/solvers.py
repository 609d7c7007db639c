"""The solvers by name: settings of a few classes, each with its paper.

A solver is anything with ``plan(path, times) -> Plan`` and ``steps(nfe)``, the number of steps that spends
exactly so many evaluations.  A ``Procedure`` stands beside them, and is no table.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from fromnoise.process import GaussianPath
from fromnoise.sample.adaptive import RK45, AdaptiveSDE
from fromnoise.sample.multistep import Multistep
from fromnoise.sample.parallel import Picard
from fromnoise.sample.plan import Plan
from fromnoise.sample.runge_kutta import HEUN, MIDPOINT, RK4, Exponential, RungeKutta
from fromnoise.sample.stochastic import Ancestral, AncestralMidpoint, Churn, EulerMaruyama, PredictorCorrector, Restart


class Solver(Protocol):
    """A rule that turns a path and a grid into a plan."""

    @property
    def multiple(self) -> int:
        """Evaluations a step."""
        ...

    def steps(self, nfe: int) -> int | None:
        """The number of steps that spends exactly ``nfe`` evaluations, or None."""
        ...

    def plan(self, path: GaussianPath, times: Tensor) -> Plan:
        """The table for a grid of falling times ``[steps + 1]``."""
        ...


SOLVERS: dict[str, Solver] = {
    # One evaluation a step: first order, then multistep.
    "euler": Multistep(order=1),  # in the coordinates of x0: DDIM (Song et al. 2021a)
    "ddim": Multistep(order=1),
    "dpmpp_2m": Multistep(order=2, weights="bh2"),  # Lu et al. 2022b
    "dpmpp_3m": Multistep(order=3),
    "unipc_1": Multistep(order=1, weights="bh2", corrector=True, lower_final=True),  # Zhao et al. 2023
    "unipc_2": Multistep(order=2, weights="bh2", corrector=True, lower_final=True),
    "unipc_3": Multistep(order=3, weights="bh2", corrector=True, lower_final=True),
    "unipc_2_bh1": Multistep(order=2, weights="bh1", corrector=True, lower_final=True),
    "unipc_3_bh1": Multistep(order=3, weights="bh1", corrector=True, lower_final=True),
    "deis_2": Multistep(order=2, target="eps", variable="t"),  # tAB, Zhang and Chen 2022
    "deis_3": Multistep(order=3, target="eps", variable="t"),
    "deis_4": Multistep(order=4, target="eps", variable="t"),
    "ipndm_2": Multistep(order=2, target="eps", weights="even"),  # Liu et al. 2022, Zhang and Chen 2022
    "ipndm_3": Multistep(order=3, target="eps", weights="even"),
    "ipndm_4": Multistep(order=4, target="eps", weights="even"),
    "lms": Multistep(order=4, target="eps", variable="sigma"),
    "abm_angle": Multistep(order=3, target="v", variable="angle", corrector=True, final="extrapolate"),
    "abm_flow": Multistep(order=3, target="x0", variable="flow", corrector=True, final="extrapolate"),
    # Several evaluations a step.
    "heun": RungeKutta(HEUN, target="eps"),  # Karras et al. 2022
    "midpoint": RungeKutta(MIDPOINT, target="velocity"),  # RF-Solver, Wang et al. 2024
    "rk4": RungeKutta(RK4, target="v"),
    "dpm_2": Exponential("eps", (0.5,), "short"),  # DPM-Solver-2, Lu et al. 2022a
    "dpm_3": Exponential("eps", (1 / 3, 2 / 3)),
    "dpmpp_2s": Exponential("x0", (0.5,), "short"),  # Lu et al. 2022b
    # With fresh noise.
    "ancestral": Ancestral(),  # Ho et al. 2020
    "euler_maruyama": EulerMaruyama(),  # Song et al. 2021b
    "pc": PredictorCorrector(),
    "dpmpp_sde": AncestralMidpoint(),  # Lu et al. 2022b
    "dpmpp_2m_sde": Multistep(order=2, weights="bh2", tau=1.0),
    "sa_solver": Multistep(order=3, corrector=True, tau=1.0),  # Xue et al. 2023
    "er_sde_2": Multistep(order=2, extended=True, variable="sigma"),  # Cui et al. 2023
    "er_sde_3": Multistep(order=3, extended=True, variable="sigma"),
    "churn": Churn(),  # Karras et al. 2022
    "restart": Restart(),  # Xu et al. 2023
    # No tables.
    "rk45": RK45(),  # Song et al. 2021b
    "adaptive_sde": AdaptiveSDE(),  # Jolicoeur-Martineau et al. 2021
    "picard": Picard(),  # ParaDiGMS, Shih et al. 2023
}
