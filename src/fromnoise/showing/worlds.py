"""What a run shows of a world model: recorded windows, and what it makes of their first frames and actions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from fromnoise.evaluate import Report
from fromnoise.evaluate.worlds import evaluate_world, spread
from fromnoise.generate import Model
from fromnoise.given import Given
from fromnoise.output import Output
from fromnoise.showing import generated
from fromnoise.showing.previews import FILMS
from fromnoise.studio import Showcase
from fromnoise.types import Batch

SHOWN = 4  # windows on the page
ROWS = ("what was recorded", "made, with the recorded actions", "made, with the actions of the next window")


def play(model: Model, first: Tensor, actions: Tensor, seed: int = 0, **choices: Any) -> Output:
    """Clips that begin with the frames ``first`` ``[n, K, C, H, W]`` and go on by ``actions`` ``[n, T]``."""
    return model.sample([""] * len(first), given=Given(first), actions=actions, frames=actions.shape[1],
                        size=(first.shape[-2], first.shape[-1]), seed=seed, **choices)


def judge(model: Model, console: Console, samples: int | None = None, guidance: float | None = None,
          seed: int = 0) -> Report:
    """Evaluate by the recipe's settings unless others are given."""
    settings = evaluation_settings(model, samples, guidance, seed)

    def played(first: Tensor, actions: Tensor) -> Tensor:
        return play(model, first, actions, seed, guidance=settings["guidance"]).media

    with console.status("Evaluating") as status:
        report = evaluate_world(played, model.recipe.data, count=settings["samples"], seed=seed,
                                progress=lambda doing: status.update(f"Evaluating: {doing}"))
    return replace(report, settings=settings)


def evaluation_settings(model: Model, samples: int | None = None, guidance: float | None = None,
                        seed: int = 0) -> dict[str, Any]:
    """What an evaluation is made with: as of any model, and how actions and history are told."""
    sampling = model.recipe.sample
    own = {"action_guidance": sampling.action_guidance, "schedule": sampling.schedule.kind}
    return generated.evaluation_settings(model, samples, guidance, seed) | own


def first_frames(windows: Batch) -> Tensor:
    """The quarter of each window that clips begin with."""
    return windows.media[:, : max(1, windows.media.shape[1] // 4)]


def show(model: Model, out: Path) -> Showcase:
    """Recorded windows, and what is made of their beginnings by their own actions and by those of another."""
    recipe = model.recipe
    windows = spread(recipe.data.open("test"), SHOWN)
    assert windows.actions is not None
    first, actions = first_frames(windows), windows.actions
    others = torch.cat([actions[:, : first.shape[1]], actions.roll(-1, 0)[:, first.shape[1] :]], dim=1)
    made, other = play(model, first, actions), play(model, first, others)
    grid = torch.stack([windows.media, made.media, other.media])
    generated.save(replace(made, media=grid.flatten(0, 1)), out / "samples" / "grid.png", len(first))
    words = f"{generated.description(recipe)} {first.shape[1]} frames are given, and what led to each."
    return Showcase(name=recipe.name, description=words, prompts=list(ROWS), grid=grid, fps=recipe.fps,
                    preview_prompts=preview_rows())


def preview_rows() -> list[str]:
    """What the rows of a preview are: each clip above the truth."""
    return ["made, with the recorded actions", "what was recorded"] * (FILMS // 2)


def save_preview(model: Model, out: Path, step: int) -> None:
    """``samples/step-000500.png``: clips from recorded first frames by recorded actions, each above the truth."""
    windows = spread(model.recipe.data.open("test"), FILMS // 2)
    assert windows.actions is not None
    made = play(model, first_frames(windows), windows.actions)
    pairs = torch.stack([made.media, windows.media], dim=1).flatten(0, 1)
    generated.save(replace(made, media=pairs), out / "samples" / f"step-{step:06d}.png", FILMS // 2)
