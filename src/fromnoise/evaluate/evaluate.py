"""Measure a model: sample what the judge of its data asks for, and let it judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fromnoise.evaluate.judges import Judge, judge_of
from fromnoise.evaluate.panel import FEWEST, Panel, panel
from fromnoise.evaluate.report import Report, Row
from fromnoise.types import UserError

Sample = Callable[[list[str], int], Tensor]


def evaluate(sample: Sample, data: Any, *, count: int, seed: int = 0,
             progress: Callable[[str], None] | None = None) -> Report:
    """The report of ``count`` pictures, or of as many as there are real ones to compare with.

    sample: ``(prompts, seed) -> media [n, 1, C, H, W]`` in [-1, 1], any model at all;  data: the data spec,
    which decides the judge;  progress: told in a few words what is being done.
    UserError where there is too little to measure, or the pictures hold NaN or infinity.
    """
    if count < 2:
        raise UserError(f"At least 2 samples are needed to measure anything (got {count}).")
    tell = progress or (lambda _: None)
    judge = judge_of(data)
    prompts = judge.prompts(count)
    tell(f"sampling {len(prompts)} pictures")
    media = sample(prompts, seed)
    if media.ndim != 5 or len(media) != len(prompts):
        raise ValueError(f"sample returned {tuple(media.shape)} for {len(prompts)} prompts, not [n, 1, C, H, W]")
    media = media.detach().cpu().float()
    broken = int((~torch.isfinite(media).flatten(1).all(1)).sum())
    if broken:
        raise UserError(f"{broken} of {len(media)} samples hold NaN or infinity, so they cannot be measured: the "
                        "model is damaged or its training diverged.")
    tell("measuring")
    media = media.clamp(-1, 1)
    rows = judge.rows(media, prompts)
    tell("comparing distributions")
    found = distribution(media[:, 0], judge, seed)
    note = " ".join([judge.note, *judge.remarks(len(prompts))])
    return Report(rows if found is None else [*rows, summary(found)], len(prompts), note, {"seed": seed}, found)


def distribution(images: Tensor, judge: Judge, seed: int = 0) -> Panel | None:
    """The panel of ``images`` ``[n, C, H, W]`` against held-out real ones in the judge's features; None for too few."""
    real = judge.held_out(2 * len(images))
    if len(images) < FEWEST or len(real) < 2 * FEWEST:
        return None
    return panel(images, real, features=judge.features(), spaces=["features"], seed=seed)


def summary(found: Panel) -> Row:
    """The panel as one row."""
    note = (f"of {len(found.rows)} measures of the distribution, {found.size} pictures against {found.reference} held "
            f"out. {found.verdict}")
    return Row("measures far from real", len(found.flagged), 0, "d", "lower", note)
