"""One checkpoint, many tasks: held-out clips of which frames are given, made again and laid beside the true ones.

A task is nothing but which frames are given.  They are whole groups of an autoencoder that makes one latent of several
frames.  Where the data have an oracle, it says whether things stay what they are and go on where the given frames left
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fromnoise.evaluate.motion import MotionJudge
from fromnoise.evaluate.real import films
from fromnoise.evaluate.reconstruction import psnr
from fromnoise.evaluate.report import Row
from fromnoise.given import Given


@dataclass(frozen=True)
class Task:
    """Which of the ``frames`` frames of a clip are given.

    settled: whether these, with the caption, leave little open, so that what is made can be held against the truth;
    overlap: of the windows of a clip longer than those of training, 0 for one window.
    """

    name: str
    given: tuple[int, ...]
    frames: int
    settled: bool = True
    overlap: int = 0

    @property
    def rest(self) -> list[int]:
        """The frames that are made."""
        return [f for f in range(self.frames) if f not in self.given]

    @property
    def beside(self) -> list[int]:
        """Those of them that stand beside a given one."""
        return [f for f in self.rest if {f - 1, f + 1} & set(self.given)]


Fill = Callable[[list[str], Given, Task], Tensor]  # clips [n, T, C, H, W] of prompts, with what is given in them


def tasks_of(spans: Sequence[range]) -> list[Task]:
    """The tasks of a clip whose frames are given by ``spans``, the groups that one latent each stands for."""
    half, frames = (len(spans) + 1) // 2, spans[-1].stop
    parts = {"first frame given": spans[:1], "first and last given": [spans[0], spans[-1]],
             "first half given": spans[:half], "last half given": spans[-half:], "every second given": spans[::2]}
    found = [Task(name, tuple(sorted({f for span in some for f in span})), frames, len(some) > 1)
             for name, some in parts.items()]
    return [task for task in found if task.rest]


def rollout_of(spans: Sequence[range], frames: int) -> Task:
    """The first half of a window of training is given, and the rest of ``frames`` is made window by window."""
    half = spans[(len(spans) + 1) // 2 - 1].stop
    return Task(f"rollout to {frames} frames", tuple(range(half)), frames, overlap=half)


def task_rows(fill: Fill, data: Any, tasks: Sequence[Task], count: int,
              progress: Callable[[str], None] = lambda _: None) -> list[Row]:
    """What ``count`` held-out clips of each task show; nothing where none are held out.

    fill: ``(prompts, given, task)`` to clips ``[n, task.frames, C, H, W]`` in [-1, 1];  data: the data spec.
    """
    rows, kept = [], []
    for task in tasks:
        here = data if task.frames == data.frames else replace(data, frames=task.frames)
        source = here.open("test")
        if not getattr(source, "held_out", True) or not len(source):
            return []
        true, prompts = films(source, count, size=(data.height, data.width))
        progress(f"{len(true)} clips: {task.name}")
        made = fill(prompts, Given(true[:, task.given], task.given), task).detach().cpu().float().clamp(-1, 1)
        kept += [bool(torch.equal(a, b)) for a, b in zip(made[:, task.given], true[:, task.given], strict=True)]
        found = MotionJudge(here).continued(made, true, prompts, task.rest, task.beside, task.settled) \
            if data.kind == "moving" else []
        if task.overlap and data.kind == "moving":
            found += MotionJudge(here).lasting(made, true, data.frames)
        found += [likeness(made, true, task)] if task.settled else []
        rows += [replace(row, name=f"{task.name}: {row.name}") for row in found]
    return [*rows, Row("given frames kept", sum(kept) / len(kept), 1.0, ".1%", note="bit for bit, of all tasks")]


def likeness(made: Tensor, true: Tensor, task: Task) -> Row:
    """PSNR of the frames that were made, and of the nearest given frame in their place.

    All clips are one: those in which nothing moves would have no end of it alone.
    """
    nearest = [min(task.given, key=lambda g: abs(g - f)) for f in task.rest]
    found, still = (float(psnr(x[None], true[None, :, task.rest])) for x in (made[:, task.rest], true[:, nearest]))
    return Row("PSNR, dB", found, None, ".1f", note=f"of made frames; {still:.1f} with the nearest given there instead")
