"""Measure a model: sample what the judge of its data asks for, and let it judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fromnoise.evaluate.judges import Features, judge_of
from fromnoise.evaluate.panel import FEWEST, Panel, panel
from fromnoise.evaluate.real import films
from fromnoise.evaluate.report import Report, Row
from fromnoise.evaluate.temporal import clip_features, temporal_rows
from fromnoise.types import UserError

Sample = Callable[[list[str], int], Tensor]


def evaluate(sample: Sample, data: Any, *, count: int, seed: int = 0,
             progress: Callable[[str], None] | None = None) -> Report:
    """The report of ``count`` pictures or films, or of as many as there are real ones to compare with.

    sample: ``(prompts, seed) -> media [n, T, C, H, W]`` in [-1, 1], any model at all;  data: the data spec,
    which decides the judge;  progress: told in a few words what is being done.
    UserError where there is too little to measure, or the pictures hold NaN or infinity.
    """
    if count < 2:
        raise UserError(f"At least 2 samples are needed to measure anything (got {count}).")
    tell = progress or (lambda _: None)
    judge = judge_of(data)
    prompts = judge.prompts(count)
    tell(f"sampling {len(prompts)} {'films' if data.frames > 1 else 'pictures'}")
    media = sample(prompts, seed)
    if media.ndim != 5 or len(media) != len(prompts):
        raise ValueError(f"sample returned {tuple(media.shape)} for {len(prompts)} prompts, not [n, T, C, H, W]")
    media = media.detach().cpu().float()
    broken = int((~torch.isfinite(media).flatten(1).all(1)).sum())
    if broken:
        raise UserError(f"{broken} of {len(media)} samples hold NaN or infinity, so they cannot be measured: the "
                        "model is damaged or its training diverged.")
    tell("measuring")
    media = media.clamp(-1, 1)
    rows = judge.rows(media, prompts)
    tell("comparing distributions")
    if media.shape[1] > 1:
        found, more, remark = over_time(media, data, seed)
        rows = [*rows, *more]
    else:
        found, remark = distribution(media[:, 0], judge.held_out(2 * len(media)), judge.features, seed), ""
    note = " ".join(filter(None, [judge.note, *judge.remarks(len(prompts)), remark]))
    return Report(rows if found is None else [*rows, summary(found)], len(prompts), note, {"seed": seed}, found)


def over_time(media: Tensor, data: Any, seed: int) -> tuple[Panel | None, list[Row], str]:
    """(the panel of films, what they show over time beside held-out ones, what is to be said); without those nothing.

    The panel is of whole films, in what fixed random networks see of them.
    """
    source = data.open("test")
    if not getattr(source, "held_out", True) or not len(source):
        return None, [], "No films are held out, so movement cannot be compared."
    real = films(source, 2 * len(media), size=(data.height, data.width))[0]
    found, rows = distribution(media, real, lambda: clip_features(data), seed), temporal_rows(media, real)
    if found is None:
        return None, rows, ""
    row = found["Frechet, features"]
    note = "in what fixed random networks see of frames and of their changes; real: of other real films"
    return found, [*rows, Row("Frechet distance of films", row.value, row.null, ".4f", "lower", note)], ""


def distribution(made: Tensor, real: Tensor, features: Callable[[], Features], seed: int = 0) -> Panel | None:
    """The panel of ``made`` against real examples ``[m, ...]``, in features; None for too few."""
    if len(made) < FEWEST or len(real) < 2 * FEWEST:
        return None
    return panel(made, real, features=features(), spaces=["features"], seed=seed)


def summary(found: Panel) -> Row:
    """The panel as one row."""
    note = (f"of {len(found.rows)} measures of the distribution, {found.size} examples against {found.reference} held "
            f"out. {found.verdict}")
    return Row("measures far from real", len(found.flagged), 0, "d", "lower", note)
