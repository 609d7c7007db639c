"""What a run shows of tasks with given frames: how many clips of each are made, and their rows in its report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from fromnoise.evaluate import Row
from fromnoise.evaluate.tasks import Task, rollout_of, task_rows, tasks_of
from fromnoise.generate import Model
from fromnoise.given import Given
from fromnoise.recipe import Recipe, without_effect
from fromnoise.types import UserError


def clips_of(recipe: Recipe, **asked: int | None) -> dict[str, int]:
    """How many clips of each task are made, and the frames of a rollout, where these are measured.

    asked: tasks and rollout instead of the recipe's, where not None.  UserError for what cannot be measured.
    """
    chosen = {name: value for name, value in asked.items() if value is not None}
    spec = replace(recipe.evaluate, **chosen)
    idle = without_effect(replace(recipe, evaluate=spec))
    for name, value in chosen.items():
        if value and (why := idle.get(f"evaluate.{name}")):
            raise UserError(f"--{name} {value} measures nothing of this run: {why}.")
    return {name: getattr(spec, name) for name in asked if getattr(spec, name) and f"evaluate.{name}" not in idle}


def tasks(model: Model, settings: dict[str, Any]) -> list[Task]:
    """The tasks that are measured.  UserError for a rollout that the model cannot make."""
    if not settings.get("tasks"):
        return []
    spans = model.system.latents.spans(model.recipe.data.frames)
    found = tasks_of(spans) + ([rollout_of(spans, settings["rollout"])] if settings.get("rollout") else [])
    for task in found:
        model.system.latents.latent_frames(task.frames)
    return found


def made(model: Model, settings: dict[str, Any], given: list[Task], tell: Callable[[str], None]) -> list[Row]:
    """What the model makes of clips of which frames are given."""

    def fill(prompts: list[str], given: Given, task: Task) -> Tensor:
        return model.sample(prompts, given=given, frames=task.frames, overlap=task.overlap,
                            guidance=settings["guidance"], seed=settings["seed"]).media

    return task_rows(fill, model.recipe.data, given, settings["tasks"], tell)
