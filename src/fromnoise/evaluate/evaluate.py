"""Measure a model: sample what the judge of its data asks for, and let it judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fromnoise.evaluate.judges import judge_of
from fromnoise.evaluate.report import Report
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
    rows = judge.rows(media.clamp(-1, 1), prompts)
    note = " ".join([judge.note, *judge.remarks(len(prompts))])
    return Report(rows, len(prompts), note, {"seed": seed})
