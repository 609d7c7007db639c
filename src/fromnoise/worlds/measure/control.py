"""Whether a world does what it is told: read from its frames, and beside what would have been otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fromnoise.data.episodes.actions import Actions, Continuous
from fromnoise.evaluate.reconstruction import psnr
from fromnoise.worlds.measure.inverse import Inverse, readings, score, shuffled
from fromnoise.worlds.measure.report import Figure, interval
from fromnoise.worlds.measure.windows import Moments

CONTROL = 0.9  # of what is read from real frames, in generated ones
GENIE = 4  # frames after which Genie takes its difference (Bruce et al. 2024, section 3)


def read_figures(where: str, moments: Moments, made: Tensor, inverse: Inverse) -> list[Figure]:
    """How well actions are read from frames ``made`` as the moments' real ones, next frame and all after it."""
    said, true = (readings(inverse, moments.history, frames) for frames in (made, moments.real))
    parts = {"next frame": slice(1), f"frames 2 to {made.shape[2]}": slice(1, None)}
    return [figure for name, at in parts.items() if moments.done[:, :, at].numel()
            for figure in compared(f"{where}, {name}", inverse.known, said[:, :, at], true[:, :, at],
                                   moments.done[:, :, at])]


def compared(where: str, known: Actions, said: Tensor, true: Tensor, told: Tensor) -> list[Figure]:
    """What was read from generated and from real frames, ``[S, J, K]`` or ``[S, J, K, A]``, and their ratio."""
    def ratio(i: np.ndarray) -> float:
        return score(known, said[i], told[i]) / max(score(known, true[i], told[i]), 1e-9)

    count, everyone = len(told), np.arange(len(told))
    real, null = score(known, true, told), score(known, said, shuffled(told, 3))
    what = "R² of actions read" if isinstance(known, Continuous) else "actions read right"
    note = f"inverse dynamics on {told[..., 0].numel() if known.shape else told.numel():,} frames; null: other actions"
    value = ratio(everyone)
    return [
        Figure(f"{what}, {where}", score(known, said, told),
               *interval(lambda i: score(known, said[i], told[i]), count), real, null, ".1%", note=note),
        Figure(f"control, {where}", value, *interval(ratio, count), 1.0, null / max(real, 1e-9), ".1%",
               f"at least {CONTROL:.0%}", value >= CONTROL, "of what is read from real frames under the same actions"),
    ]


def gain_figures(moments: Moments, made: Tensor) -> list[Figure]:
    """By how many dB the frames ``made`` are nearer to what their actions lead to than those made under others.

    Genie's difference of PSNR (Bruce et al. 2024, section 3): PSNR(x, made under the same actions) - PSNR(x, made under
    others), with the other futures of the same moment as the others, so that noise and history are the same.
    """
    gains = differences(moments.real, made)
    figures = []
    for name, t in (("next frame", 1), (f"frame {GENIE}", GENIE)):
        if t > gains.shape[1]:
            continue
        each = gains[:, t - 1].numpy()
        low, high = interval(lambda i, each=each: float(each[i].mean()), len(each))
        figures.append(Figure(
            f"counterfactual gain, {name}", float(each.mean()), low, high, None, 0.0, "+.2f", "lower end above 0",
            low > 0, f"dB over shuffled actions, {len(each)} states of {made.shape[1]} futures; null: a world that "
                     "does not listen"))
    return figures


def differences(real: Tensor, made: Tensor) -> Tensor:
    """The gain ``[S, K]`` of each moment at each frame, of ``[S, J, K, C, H, W]``: mean over its futures."""
    branches = made.shape[1]
    table = torch.stack([torch.stack([over(psnr, real[:, j], made[:, k]) for k in range(branches)], 1)
                         for j in range(branches)], 1)  # [S, j true, k made, K]
    same = torch.eye(branches, dtype=torch.bool)
    return table[:, same].mean(1) - table[:, ~same].mean(1)


def over(measure, a: Tensor, b: Tensor) -> Tensor:
    """A measure of pictures at each frame of films, ``[S, K]`` of ``[S, K, C, H, W]``."""
    return measure(a.flatten(0, 1), b.flatten(0, 1)).view(a.shape[:2])


def true_figures(moments: Moments, made: Tensor, at: Sequence[int]) -> list[Figure]:
    """PSNR of what is made under recorded actions against what was recorded, at some frames of a free rollout.

    The first frame is made after real ones alone, as all are that a teacher forces.
    """
    still = moments.history[:, None, -1:].expand_as(moments.real)
    ours, null = (over(psnr, moments.real[:, 0], x[:, 0]).numpy() for x in (made, still))
    figures = []
    for t in at:
        name = "next frame" if t == 1 else f"frame {t} of a free rollout"
        each = ours[:, t - 1]
        low, high = interval(lambda i, each=each: float(each[i].mean()), len(each))
        figures.append(Figure(f"PSNR, {name}", float(each.mean()), low, high, None, float(null[:, t - 1].mean()),
                              note=f"dB, recorded actions, {len(each)} windows; null: the last real frame again"))
    return figures
