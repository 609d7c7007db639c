"""What a run shows of a model that enlarges pictures: held-out ones, brought down and enlarged again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fromnoise.evaluate import Report
from fromnoise.evaluate.enlarging import evaluate_enlarging
from fromnoise.generate import Model
from fromnoise.showing.reconstructions import save_sheet
from fromnoise.studio import Showcase
from fromnoise.types import Batch

SHOWN = 12  # pictures on the page


def measure(model: Model, settings: dict[str, Any], tell: Callable[[str], None]) -> Report:
    """Held-out pictures beside what is made of them, with the settings of an evaluation."""

    def enlarge(small: Tensor, captions: list[str]) -> Tensor:
        chosen = {name: settings[name] for name in ("guidance", "seed", "augment")}
        return model.sample(captions, image=small, **chosen).media

    return evaluate_enlarging(enlarge, model.recipe.upsample, model.recipe.data, count=settings["samples"],
                              progress=tell)


def held_out(model: Model, count: int) -> Batch:
    """The first ``count`` held-out pictures of the model's usual size, over and over where there are too few."""
    source, data = model.recipe.data.open("test"), model.recipe.data
    groups = sorted(source.groups, key=len, reverse=True)
    sizes = [tuple(source.batch([group[0]], [0]).media.shape[-2:]) for group in groups]
    group = groups[sizes.index((data.height, data.width)) if (data.height, data.width) in sizes else 0]
    return source.batch([group[i % len(group)] for i in range(count)], range(count))


def show(model: Model, out: Path) -> Showcase:
    """Small pictures, what the model makes of them, and the true ones."""
    batch, upsample = held_out(model, SHOWN), model.recipe.upsample
    real, (height, width) = batch.media, batch.media.shape[-2:]
    small = upsample.shrink(real)
    made = model.sample(batch.text, image=small, size=(height, width), seed=0).media
    squares = small.repeat_interleave(upsample.factor, -2).repeat_interleave(upsample.factor, -1)
    save_sheet(torch.cat([squares, made, real]), out / "samples" / "grid.png", len(real))
    words = (f"Pictures of {width}x{height} from those of {small.shape[-1]}x{small.shape[-2]}, which are given noise "
             f"of level {model.recipe.sample.augment:g} first; trained with up to {upsample.noise:g}.")
    return Showcase(name=model.recipe.name, description=words, small=squares, reconstructions=made, originals=real,
                    prompts=batch.text[:1])


def save_preview(model: Model, out: Path, step: int, count: int = 8) -> None:
    """``samples/step-000500.png``: what is made of the first ``count`` held-out pictures, on one row."""
    batch = held_out(model, count)
    small, (height, width) = model.recipe.upsample.shrink(batch.media), batch.media.shape[-2:]
    made = model.sample(batch.text, image=small, size=(height, width), seed=0).media
    save_sheet(made, out / "samples" / f"step-{step:06d}.png", count)
