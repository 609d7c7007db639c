"""Which solver a model samples with: a fixed one, or one that was tuned for it, and how that is done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fromnoise.config import nearest
from fromnoise.denoise import Guidance
from fromnoise.recipe import Sampling
from fromnoise.sample import SOLVERS, Procedure, Solver, Tuned, tune
from fromnoise.settings import Settings, checked
from fromnoise.system import autocast
from fromnoise.types import Condition, UserError

if TYPE_CHECKING:
    from fromnoise.generate.model import Model

TUNING = 2**40  # index of the first sample that solvers are tuned on, far from those that people look at


def named(name: str, run: str) -> Solver | str:
    """The solver of a name: "auto", one of ``SOLVERS``, or one tuned for the run.  UserError for another."""
    name = checked("solver", name)
    if name == "auto":
        return name
    if name == "picard":
        raise UserError("picard asks for many times at once, which a prompt's batch does not fit: use it in "
                        "Python, with fromnoise.sample.solve.")
    if name in SOLVERS:
        return SOLVERS[name]
    own = tuned_solvers(run)
    if name in own:
        return Tuned.load(own[name])
    there = f"Tuned for this run: {', '.join(sorted(own))}." if own else "None was tuned for this run."
    raise UserError(f'There is no solver "{name}". {nearest(name, ["auto", *SOLVERS, *own])} {there}')


def clock(solver: Solver | str, settings: Settings, usual: Sampling) -> dict[str, Any]:
    """Solver, steps and grid: the usual grid, unless the solver brings its own or chooses its steps."""
    if isinstance(solver, Procedure):
        return {"solver": solver}
    own = {} if settings.solver not in SOLVERS else {"grid": usual.grid, "shift": usual.shift}
    return {"solver": solver, "steps": settings.steps, **own}


# ---- tuned ones -----------------------------------------------------------------------------------------


def tuned_solvers(run: str) -> dict[str, Path]:
    """The files of the solvers that were tuned for a run, by name."""
    return {path.stem: path for path in (Path(run) / "solvers").glob("*.json")} if run else {}


def remark(solver: Solver | str, settings: Settings) -> str:
    """What to say where a tuned solver is used at another guidance than it was tuned for."""
    if not isinstance(solver, Tuned):
        return ""
    for what, own, now in (("guidance", solver.guidance, settings.guidance.scale),
                           ("guidance on actions", solver.action_guidance, settings.action_guidance)):
        if own not in (None, now):
            return f"{settings.solver} was tuned at {what} {own:g}, for which alone it is known to be good."
    return ""


def tuned(model: Model, nfe: int, guidance: float | None, samples: int, seed: int, **choices: Any) -> Tuned:
    """A solver of ``nfe`` steps fitted to a model; arguments as for ``Model.tune``."""
    usual = model.recipe.sample.guidance
    choice = usual if guidance is None else replace(usual, scale=checked("guidance", guidance).scale)
    check_tunable(model, choice)
    prompts = list(model.recipe.data.open("test").prompts()) or [""]
    settings = model.settings([prompts[i % len(prompts)] for i in range(samples)], guidance=choice, seed=seed,
                              first=TUNING)
    with torch.no_grad():
        condition, null = model._heard(settings.prompts, settings), model._heard([""], settings, negative=True)

    def denoise(x: Tensor, t: Tensor, rows: Condition) -> Tensor:
        nulls = null.map(lambda value: value.expand(len(x), *value.shape[1:]))
        return choice.of(model.system.denoiser, nulls, model.recipe.path)(x, t, rows).float()

    with autocast(model.system.device, model.recipe.train.precision):
        return tune(denoise, model.recipe.path, nfe=nfe, noise=model._noise(settings).to(model.system.device),
                    condition=condition, seed=seed, guidance=choice.scale, **choices)


def check_tunable(model: Model, guidance: Guidance) -> None:
    """UserError for a model that cannot be asked about prompts alone, in any order."""
    if model.recipe.net.reads_actions:
        raise UserError("A solver of a world is tuned on its next frames, under recorded actions: use fromnoise tune, "
                        "or fromnoise.worlds.tune.")
    if model.enlarges:
        raise UserError("A solver is tuned on prompts alone, and this model enlarges pictures: it cannot be tuned.")
    if guidance.guide is not None or getattr(guidance.method, "momentum", 0):
        raise UserError("A solver is tuned on questions in any order, which guidance with momentum or by another "
                        "run does not allow: set sample.guidance otherwise in the recipe.")
    if model.recipe.train.self_conditioning:
        raise UserError("A solver is tuned on questions in any order, and this model is told its own last answer "
                        "(train.self_conditioning): it cannot be tuned.")
