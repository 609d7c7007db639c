"""A scheduler_config.json of diffusers as a path, a prediction, a solver, and times for any number of steps.

Theirs is a table of levels 0 ... N-1 with integer timesteps, or sigma of rectified flow times 1000; ours is a path and
a clock.  A level i stands at t = (i + 1) / N, and sigma of the flow is t itself.  Steps are found as each scheduler
finds them, in sigma/alpha, and become times by the path.  Solvers are those of ``fromnoise.sample`` on these times; of
PNDM, whose first step evaluates twice, it is the plain multistep rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fromnoise.interop.spacings import DENSE, SPACINGS, bend, levels_of
from fromnoise.process import DDPM, VP, Cosine, Flow, Path, Prediction, ScaledLinear, ZeroTerminal, shift_of_tokens
from fromnoise.types import UserError

CAPPED = 2.0**-24  # alpha^2 of the last level where it is zero and the solver divides by it
HIGHEST = 20.0  # log(sigma / alpha) beyond which it is no number to compute with
PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0",
                                      "flow_prediction": "velocity"}
EVEN = ("FluxPipeline", "Flux2Pipeline", "Flux2KleinPipeline", "Lumina2Pipeline", "QwenImagePipeline",
        "ZImagePipeline")
FITTED = ("Flux2Pipeline", "Flux2KleinPipeline")  # whose shift depends on the steps too


@dataclass(frozen=True)
class Schedule:
    """What a scheduler says.

    path, prediction, solver: ours;  find: (steps, tokens of the picture) to times;  timestep: the scheduler's own, of a
    time;  whole: how it becomes a whole number before the network is told;  unit_start: whether the first state has
    variance one, and not that of the noise at the first time;  clip: x0 is kept in [-clip, clip].
    """

    path: Path
    prediction: Prediction
    solver: str
    find: Callable[[int, int | None], Tensor]
    timestep: Callable[[Tensor], Tensor]
    whole: Literal["no", "floor", "round"] = "no"
    unit_start: bool = True
    clip: float | None = None

    def times(self, steps: int, tokens: int | None = None) -> Tensor:
        """Falling float64 times, ``[steps + 1]``: the grid to solve on.

        tokens: how many the network sees of the picture, where the shift depends on them.  UserError where it does and
        they are not given, or for more steps than there are levels.
        """
        times = self.find(steps, tokens)
        return times[torch.cat([times[1:] < times[:-1], times.new_ones(1, dtype=torch.bool)])]  # no step stands still

    def told(self, t: Tensor) -> Tensor:
        """The timestep that a network is told at time ``t``."""
        timestep = self.timestep(t)
        if self.whole == "no":
            return timestep
        return timestep.round() if self.whole == "round" else (timestep + 1e-4).floor()

    def noise_scale(self, times: Tensor) -> float:
        """What standard normal noise is multiplied by for ``solve``, whose first state is sigma(t) noise."""
        return 1 / float(self.path.sigma(times[0])) if self.unit_start else 1.0


def schedule_of(kind: str, config: Mapping[str, Any], pipeline: str = "") -> Schedule:
    """The schedule of a scheduler of class ``kind`` in a pipeline of class ``pipeline``, which may set its steps.

    UserError naming what has no counterpart here.
    """
    refuse(kind, config)
    if kind == "FlowMatchEulerDiscreteScheduler":
        return flow_schedule(config, pipeline)
    if kind in DENSE and config.get("use_flow_sigmas"):
        return flow_of_dpm(kind, config)
    return table_schedule(kind, config)


# ---- what there is no counterpart of ---------------------------------------------------------------------

KINDS = (*SPACINGS, "FlowMatchEulerDiscreteScheduler")
KNOWN: dict[str, tuple[Any, ...]] = {  # values a config may have; the first is the default
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": tuple(PREDICTIONS), "thresholding": (False, None), "invert_sigmas": (False,),
    "stochastic_sampling": (False,), "use_beta_sigmas": (False, None), "use_lu_lambdas": (False, None),
    "timestep_type": ("discrete",), "interpolation_type": ("linear",), "skip_prk_steps": (True,),
    "algorithm_type": ("dpmsolver++", "sde-dpmsolver++", "deis"), "time_shift_type": ("exponential", "linear"),
    "timestep_spacing": ("leading", "linspace", "trailing"), "final_sigmas_type": ("zero", "sigma_min"),
    "predict_x0": (True,), "solver_p": (None,), "disable_corrector": ([], ()),
}


def refuse(kind: str, config: Mapping[str, Any]) -> None:
    """UserError for a scheduler or a setting of it that is not known here."""
    if kind not in KINDS:
        raise UserError(f"The scheduler {kind} has no counterpart here: it must be one of {', '.join(KINDS)}.")
    for name, known in KNOWN.items():
        if name in config and config[name] not in known:
            raise UserError(f"{kind} with {name} {config[name]!r:.60} has no counterpart here: it must be one of "
                            f"{', '.join(map(repr, known))}.")
    if kind == "FlowMatchEulerDiscreteScheduler":
        for name in ("use_karras_sigmas", "use_exponential_sigmas"):
            if config.get(name):
                raise UserError(f"{kind} with {name} has no counterpart here.")
    if kind == "PNDMScheduler" and not config.get("skip_prk_steps", False):
        raise UserError("PNDMScheduler without skip_prk_steps has no counterpart here.")


# ---- tables of levels ------------------------------------------------------------------------------------


def table_schedule(kind: str, config: Mapping[str, Any]) -> Schedule:
    """Of the schedulers whose networks were trained on discrete levels."""
    spacing = SPACINGS[kind]
    path, count = path_of(config), int(config.get("num_train_timesteps", 1000))
    table = ratios(path, count, capped=kind not in ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler"))
    how = str(config.get("timestep_spacing", spacing.default))
    bent = next((name for name in ("karras", "exponential") if config.get(f"use_{name}_sigmas")), None)
    to_clean = (config.get("set_alpha_to_one", spacing.to_clean) if kind in ("DDIMScheduler", "PNDMScheduler")
                else config.get("final_sigmas_type", "zero") == "zero")

    def find(steps: int, tokens: int | None) -> Tensor:
        levels = levels_of(kind, how, steps, count, int(config.get("steps_offset", 0)))
        found = interpolated(table, levels)
        if bent:
            found = bend(bent, table.flip(0) if kind in DENSE else found, steps, config)
        times = path.time(-2 * found.log())
        end = 0.0 if to_clean else float(path.time(-2 * table[0].log()))
        return torch.cat([times, times.new_tensor([end])])

    euler = kind.startswith("Euler")
    clip = config.get("clip_sample", kind in ("DDIMScheduler", "DDPMScheduler"))
    return Schedule(
        path, PREDICTIONS[config.get("prediction_type", "epsilon")], solver_of(kind, config), find,
        lambda t: level_at(table, path, t), "round" if kind in DENSE else "no", not euler or how == "leading",
        float(config.get("clip_sample_range", 1.0)) if clip else None)


def path_of(config: Mapping[str, Any]) -> Path:
    """The path through the levels of a table."""
    if config.get("trained_betas") is not None:
        return vp_of(torch.tensor(config["trained_betas"], dtype=torch.float64))
    start, end = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    count = config.get("num_train_timesteps", 1000)
    match config.get("beta_schedule", "linear"):
        case "linear":
            path = DDPM(beta_start=start, beta_end=end, levels=count)
        case "scaled_linear":
            path = ScaledLinear(beta_start=start, beta_end=end, levels=count)
        case _:
            path = Cosine()
    return ZeroTerminal(base=path) if config.get("rescale_betas_zero_snr") else path


def vp_of(betas: Tensor) -> VP:
    """The continuous path that a table was made from.  UserError where it was made from none.

    Of VP, -log(1 - beta_i) is the integral of its linear beta over a step, and so linear in i.
    """
    rate, count = -torch.log1p(-betas) * len(betas), len(betas)  # beta in the middle of each step
    slope = (rate[-1] - rate[0]) * count / max(count - 1, 1)
    low = rate[0] - slope / (2 * count)
    line = low + slope * (torch.arange(count, dtype=torch.float64) + 0.5) / count
    if not torch.allclose(rate, line, rtol=1e-6) or not 0 < float(low) < float(low + slope):
        raise UserError("The scheduler's trained_betas have no counterpart here: they must be those of the path vp.")
    return VP(beta_min=float(f"{float(low):.9g}"), beta_max=float(f"{float(low + slope):.9g}"))


def ratios(path: Path, count: int, capped: bool) -> Tensor:
    """sigma / alpha of every level, ``[count]`` float64; the last kept finite where ``capped``."""
    t = torch.arange(1, count + 1, dtype=torch.float64) / count
    kept = path.alpha(t).square()
    if isinstance(path, Cosine):  # its last beta is cut at 0.999 (Nichol and Dhariwal 2021)
        kept[-1] = kept[-2] * 0.001
    elif isinstance(path, ZeroTerminal) and capped:
        kept[-1] = CAPPED
    found = path.sigma(t) / kept.sqrt()
    found[-1] = ((1 - kept[-1]) / kept[-1]).sqrt()
    return found


def interpolated(table: Tensor, levels: Tensor) -> Tensor:
    """sigma / alpha at levels, in general between two: a straight line."""
    left = levels.floor().long().clamp(0, len(table) - 1)
    right = (left + 1).clamp(max=len(table) - 1)
    share = levels - left
    return torch.where(share == 0, table[left], table[left] + share * (table[right] - table[left]))


def level_at(table: Tensor, path: Path, t: Tensor) -> Tensor:
    """The level, in general between two, at time ``t``: a straight line in log(sigma / alpha), from 0 to the last."""
    logs = table.log().clamp(max=HIGHEST)  # where nothing of the signal is left
    here = (-path.logsnr(t.double()).cpu() / 2).clamp(float(logs[0]), HIGHEST)
    right = torch.searchsorted(logs, here.contiguous()).clamp(1, len(logs) - 1)
    return (right - 1 + (here - logs[right - 1]) / (logs[right] - logs[right - 1])).clamp(max=len(logs) - 1).to(t)


def solver_of(kind: str, config: Mapping[str, Any]) -> str:
    """The solver of ``fromnoise.sample`` that is this scheduler's rule; UserError where there is none."""
    order, rule = int(config.get("solver_order", 2)), config.get("solver_type", "")
    if kind == "DPMSolverMultistepScheduler":
        if config.get("algorithm_type", "dpmsolver++") == "sde-dpmsolver++":
            found = {1: "ancestral", 2: "dpmpp_2m_sde"}.get(order)
        else:
            found = {1: "ddim", 2: "dpmpp_2m", 3: "dpmpp_3m"}.get(order)
        found = found if rule != "heun" else None
    elif kind == "UniPCMultistepScheduler":
        found = {1: "unipc_1", 2: "unipc_2", 3: "unipc_3"}.get(order)
        found = f"{found}_bh1" if found and rule == "bh1" and order > 1 else found
    else:
        found = SPACINGS[kind].solver
    if found is None:
        raise UserError(f"{kind} of order {order} with solver_type {rule!r} has no counterpart here.")
    return found


# ---- rectified flow --------------------------------------------------------------------------------------


def flow_schedule(config: Mapping[str, Any], pipeline: str) -> Schedule:
    """Of FlowMatchEulerDiscreteScheduler: shifted by a number, or by one that grows with the picture."""
    count = int(config.get("num_train_timesteps", 1000))
    dynamic, fixed = config.get("use_dynamic_shifting", False), float(config.get("shift", 1.0))
    terminal = config.get("shift_terminal")

    def find(steps: int, tokens: int | None) -> Tensor:
        if pipeline in EVEN:
            last = 1 / steps
        else:  # its smallest sigma is shifted when it is made, and then with all others once more
            last = 1 / count if dynamic else float(shifted(torch.tensor(1 / count, dtype=torch.float64), fixed))
        sigma = torch.linspace(1, last, steps, dtype=torch.float64) if steps > 1 else torch.ones(1, dtype=torch.float64)
        sigma = shifted(sigma, dynamic_shift(config, pipeline, steps, tokens) if dynamic else fixed)
        if terminal:  # stretched so that the last one is there
            sigma = 1 - (1 - sigma) * ((1 - terminal) / (1 - sigma[-1])) if steps > 1 else sigma
        return torch.cat([sigma, sigma.new_zeros(1)])

    return Schedule(Flow(), "velocity", "euler", find, lambda t: t * count, unit_start=False)


def dynamic_shift(config: Mapping[str, Any], pipeline: str, steps: int, tokens: int | None) -> float:
    """The shift of a picture of so many tokens: e^mu, or mu where the config's shift is linear."""
    if tokens is None:
        raise UserError("The schedule's shift depends on the size of the picture: the number of its tokens is needed.")
    if pipeline in FITTED:
        mu = fitted_mu(tokens, steps)
    else:
        mu = math.log(shift_of_tokens(
            tokens, (config.get("base_shift", 0.5), config.get("max_shift", 1.15)),
            (config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096))))
    return math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else mu


def fitted_mu(tokens: int, steps: int) -> float:
    """Flux 2's mu: a straight line in steps through two lines in tokens, fitted at 10 and at 200 steps.

    (Black Forest Labs' flux2, sampling.py.)  Above 4300 tokens it is that of 200 steps.
    """
    at_200 = 0.00016927 * tokens + 0.45666666
    at_10 = 8.73809524e-05 * tokens + 1.89833333
    return at_200 if tokens > 4300 else at_200 + (steps - 200) * (at_200 - at_10) / 190


def flow_of_dpm(kind: str, config: Mapping[str, Any]) -> Schedule:
    """Of the multistep solvers told to run on the flow path (Sana)."""
    count, shift = int(config.get("num_train_timesteps", 1000)), float(config.get("flow_shift", 1.0))
    if config.get("prediction_type", "epsilon") != "flow_prediction" or config.get("use_dynamic_shifting"):
        raise UserError(f"{kind} with use_flow_sigmas must have prediction_type flow_prediction and no dynamic shift.")

    def find(steps: int, tokens: int | None) -> Tensor:
        sigma = 1 - torch.linspace(1, 1 / count, steps + 1, dtype=torch.float64)
        return shifted(sigma, shift).flip(0)

    return Schedule(Flow(), "velocity", solver_of(kind, config), find, lambda t: t * count, whole="floor")


def shifted(sigma: Tensor, by: float) -> Tensor:
    """SD3, eq. 23."""
    return by * sigma / (1 + (by - 1) * sigma)
