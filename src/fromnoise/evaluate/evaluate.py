"""Measure a model: sample what the judge of its data asks for, and let it judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fromnoise.evaluate.judges import judge_of
from fromnoise.evaluate.report import Report
from fromnoise.types import UserError

Sample = Callable[[list[str], int], Tensor]


def evaluate(sample: Sample, data: Any, *, count: int, seed: int = 0) -> Report:
    """The report of ``count`` pictures.

    sample: ``(prompts, seed) -> media [n, 1, C, H, W]`` in [-1, 1], any model at all;  data: the data spec,
    which decides the judge.
    """
    if count < 2:
        raise UserError(f"At least 2 samples are needed to measure anything (got {count}).")
    judge = judge_of(data)
    prompts = judge.prompts(count)
    media = sample(prompts, seed)
    return Report(judge.rows(media, prompts), len(prompts), judge.note, {"seed": seed})
