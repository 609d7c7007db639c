"""The judge of things that move: captions by the oracle over time, and the laws of motion in what was generated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fromnoise.data.universe import Watched, parse_story, read, score_motion, watch
from fromnoise.evaluate.judges import OracleJudge
from fromnoise.evaluate.report import Row

NAMES = {"all_correct": "everything right", "kinds": "things", "verb": "what they do", "direction": "direction",
         "speed": "speed", "bounce": "bounces", "steady": "steady things", "smooth": "smooth paths",
         "unclear": "unclear clips"}


class MotionJudge(OracleJudge):
    """The oracle over time, on captions that were held out."""

    note = ("Held-out captions, read back by the oracle; real: the oracle on true renders of the same captions. "
            "Gravity and restitution are medians of what was fitted to the paths of single things.")

    def __init__(self, data: Any):
        super().__init__(data)
        self.data = data

    def verdicts(self, media: Tensor, prompts: list[str]) -> list[Row]:
        """Rows of clips ``[n, T, 3, H, W]``; of single frames, ``[n, 1, 3, H, W]``, only the things can be judged."""
        if media.shape[1] == 1:
            return [Row("things", things_right(media, prompts), 1.0, ".1%", note="in single frames")]
        real = self.source.batch(range(len(prompts)), range(len(prompts)))
        made, true = watch(media, self.data.fps), watch(real.media, self.data.fps)
        found, truth = score_motion(made, prompts), score_motion(true, real.text)
        rows = [Row(name, found[key], truth[key], ".1%", "lower" if key == "unclear" else "higher")
                for key, name in NAMES.items()]
        return rows + self.numbers(made, true, prompts) + self.laws(made, true)

    def numbers(self, made: list[Watched], true: list[Watched], prompts: list[str]) -> list[Row]:
        """Everything right, of captions of each number of objects, where there are several."""
        if len(self.data.numbers) == 1:
            return []
        rows, told = [], np.array([len(parse_story(prompt).clauses) for prompt in prompts])
        for number in self.data.numbers:
            some = np.flatnonzero(told == number)
            found, truth = (score_motion([w[i] for i in some], [prompts[i] for i in some])["all_correct"]
                            for w in (made, true))
            rows.append(Row(f"everything right, {number} object{'s' * (number > 1)}", found, truth, ".1%",
                            note=f"of {len(some)} captions"))
        return rows

    def laws(self, made: list[Watched], true: list[Watched]) -> list[Row]:
        """Gravity, where it acts, and restitution: the median of what was fitted, and how far off it is."""
        laws = {"restitution": self.data.restitution} | ({} if self.data.gravity == "off" else {"gravity": self.data.g})
        rows = []
        for name, law in sorted(laws.items()):
            found, truth = fitted(made, name), fitted(true, name)
            if not len(found) or not len(truth):
                continue
            low, high = np.quantile(found, [0.25, 0.75])
            rows += [Row(name, float(np.median(found)), float(np.median(truth)), ".3f", "near",
                         f"of {len(found)} things, half of them between {low:.3f} and {high:.3f}; the law is {law:g}"),
                     Row(f"{name}, error of a thing", typical(found, law), typical(truth, law), ".1%", "lower",
                         "median distance from the law, in shares of it")]
        return rows

    def continued(self, made: Tensor, true: Tensor, prompts: list[str], rest: Sequence[int], beside: Sequence[int],
                  settled: bool) -> list[Row]:
        """Of clips with given frames: what they show, and how far from the true clips their things are.

        rest, beside: the frames that were made, and those of them beside given ones;  settled: whether all of these
        are to be as in the true clips.
        """
        found, truth = (score_motion(watch(media, self.data.fps), prompts) for media in (made, true))
        rows = [Row(NAMES[key], found[key], truth[key], ".1%") for key in ("all_correct", "steady")]
        away = astray(made, true, prompts)
        for name, frames in {"next to given frames": beside, "all made frames": rest}.items():
            if name == "all made frames" and (not settled or rest == beside):
                continue
            part = away[:, frames][~np.isnan(away[:, frames])]
            if len(seen := part[np.isfinite(part)]):
                rows.append(Row(f"{name}, px off", float(seen.mean()), 0.0, ".2f", "lower",
                                f"from the true place, on average; in {len(seen) / len(part):.0%} of them the things "
                                "are seen"))
        return rows

    def lasting(self, made: Tensor, true: Tensor, frames: int) -> list[Row]:
        """The laws in long clips, as they are fitted to stretches of ``frames`` frames, one beginning with every half.

        A whole rollout is no path of one body as soon as it is off by a pixel; its stretches still are.
        """
        starts = range(0, made.shape[1] - frames + 1, frames // 2)
        return self.laws(*(watch(torch.cat([x[:, s : s + frames] for s in starts]), self.data.fps)
                           for x in (made, true)))


def astray(made: Tensor, true: Tensor, prompts: list[str]) -> np.ndarray:
    """``[n, T]``: how many pixels the things are from where they are in the true clips, on average.

    Infinity in frames in which the oracle does not find just the things of the caption, NaN in those in which it does
    not find them in the true clip.
    """
    (n, T), (H, W) = made.shape[:2], made.shape[-2:]
    at = []
    for media in (made, true):
        readings = read(media.flatten(0, 1)[:, None])
        things = [sorted(parse_story(prompt).things) for prompt in prompts for _ in range(T)]
        at.append([sorted((s.thing, s.x * W, s.y * H) for s in reading.objects) if not reading.unclear
                   and sorted(s.thing for s in reading.objects) == known else None
                   for reading, known in zip(readings, things, strict=True)])
    away = [np.mean([np.hypot(a[1] - b[1], a[2] - b[2]) for a, b in zip(x, y, strict=True)]) if x and y
            else np.inf if y else np.nan for x, y in zip(*at, strict=True)]
    return np.array(away).reshape(n, T)


def fitted(clips: list[Watched], law: str) -> np.ndarray:
    """What was fitted to each thing that shows the law, in clips that are steady and smooth."""
    values = [getattr(moved, law) for clip in clips if clip.steady and clip.smooth for moved in clip.objects]
    return np.array([value for value, _ in filter(None, values)])


def typical(values: np.ndarray, law: float) -> float:
    return float(np.median(np.abs(values / law - 1)))


def things_right(media: Tensor, prompts: list[str]) -> float:
    """Share of single frames in which the oracle finds just the things of the caption."""
    right = [not reading.unclear and sorted(s.thing for s in reading.objects) == sorted(parse_story(prompt).things)
             for reading, prompt in zip(read(media), prompts, strict=True)]
    return float(np.mean(right))
