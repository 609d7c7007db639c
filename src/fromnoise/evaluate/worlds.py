"""How well a world model foretells: held-out windows, made again with the actions that were recorded in them.

Its actions count for something where frames come out nearer to the truth with the recorded actions than with others
(the counterfactual gain; Genie's delta PSNR, Bruce et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fromnoise.evaluate.reconstruction import psnr
from fromnoise.evaluate.report import Report, Row
from fromnoise.random import generator
from fromnoise.types import Batch, Source, UserError

Play = Callable[[Tensor, Tensor], Tensor]  # (first frames [n, K, C, H, W], actions [n, T]) to media [n, T, C, H, W]
NOTE = ("Held-out windows of the recording. The next frame: all frames but the last are given. Free: a quarter of "
        "them, and what follows is made of what was made. Shuffled: with the actions of other windows.")


def evaluate_world(play: Play, data: Any, *, count: int, seed: int = 0,
                   progress: Callable[[str], None] | None = None) -> Report:
    """The report of ``count`` held-out windows, or of as many as there are.

    play: the model, by its usual settings;  data: the data spec.  UserError where there is too little to measure.
    """
    tell, source = progress or (lambda _: None), data.open("test")
    windows = spread(source, count)
    if len(windows) < 2:
        raise UserError(f"At least 2 windows are needed to measure anything (there are {len(windows)}).")
    real, actions = windows.media, windows.actions
    assert actions is not None
    T = real.shape[1]
    order = torch.randperm(len(real), generator=generator(seed, T))
    order = order.roll(1)[order.argsort()]  # one ring of all windows, so that none is told its own actions
    lead = max(1, T // 4)
    tell(f"the last frame of {len(real)} windows")
    others = torch.cat([actions[:, :-1], actions[order, -1:]], dim=1)
    one, shuffled = (psnr(play(real[:, :-1], told)[:, -1], real[:, -1]) for told in (actions, others))
    tell(f"{T - lead} frames of {len(real)} windows")
    others = torch.cat([actions[:, :lead], actions[order, lead:]], dim=1)
    free, apart = (psnr(play(real[:, :lead], told)[:, lead:], real[:, lead:]) for told in (actions, others))
    still = psnr(real[:, -2], real[:, -1])
    return Report([
        Row("next frame, PSNR dB", mean(one), None, ".2f", note=f"shuffled: {mean(shuffled):.2f}; the frame before "
            f"again: {mean(still):.2f}"),
        gain("gain by the action, dB", one, shuffled),
        Row(f"{T - lead} frames free, PSNR dB", mean(free), None, ".2f", note=f"shuffled: {mean(apart):.2f}"),
        gain("gain by the actions, dB", free, apart),
    ], len(real), NOTE, {"seed": seed})


def gain(name: str, told: Tensor, shuffled: Tensor) -> Row:
    """The mean of the differences of pairs, with the interval that holds it with 95 % confidence (normal)."""
    difference = told - shuffled
    margin = 1.96 * float(difference.std()) / len(difference) ** 0.5
    middle = mean(difference)
    return Row(name, middle, None, ".2f", note=f"over shuffled; 95 %: {middle - margin:.2f} to {middle + margin:.2f}")


def mean(values: Tensor) -> float:
    return float(values.mean())


def spread(source: Source, count: int) -> Batch:
    """At most ``count`` windows, evenly over a source."""
    chosen = torch.linspace(0, len(source) - 1, min(count, len(source))).round().long().tolist()
    return source.batch(chosen, range(len(chosen)))
