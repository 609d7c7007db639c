"""Which frames of a clip are given while training, and whether its frames share a clock.

A frame that is given has t = 0: the network sees it as it is, and it counts in no loss.  So one network learns

    p(clip), p(clip | first frame), p(clip | first and last), p(what follows | beginning), ...

and which of them it samples is a matter of the frames that are then held at 0.  With a clock for each frame it learns
every noise level beside every other (Chen et al. 2024, Diffusion Forcing), and given frames are the special case 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor

from fromnoise.config import spec
from fromnoise.process.gaussian import GaussianPath
from fromnoise.process.objective import Objective

Share = Annotated[float, Field(ge=0, le=1)]
TASKS = ("first", "ends", "prefix", "suffix", "every", "random")  # in the order in which shares are dealt


@dataclass(frozen=True)
class Clocks:
    """The times ``[B, T]`` of a batch (``[B, 1]`` where frames share them), and which of its frames are asked for.

    asked: indices among the B T frames, None for all.
    """

    t: Tensor
    asked: Tensor | None = None

    def of(self, media: Tensor) -> Tensor:
        """The frames of ``[B, T, ...]`` that are asked for, as clips of one: ``[N, 1, ...]``; or all as they are."""
        return media if self.asked is None else media.flatten(0, 1)[self.asked][:, None]

    def to(self, device: torch.device) -> Clocks:
        """The same on a device."""
        asked = None if self.asked is None else self.asked.to(device, non_blocking=True)
        return Clocks(self.t.to(device, non_blocking=True), asked)


@spec
class Frames:
    """The tasks of a clip: which frames are given in which share of the examples, and whose clock they have.

    What the shares leave has no given frames: text to video.
    """

    clock: Literal["one", "each"] = "one"
    """One noise level for all frames of a clip, or each frame its own (Diffusion Forcing), which schedules other than
    full_sequence, noise on history and guidance by history are made for."""
    first: Share = 0.0
    """Share of the examples whose first frame is given: image to video."""
    ends: Share = 0.0
    """Share of those whose first and last frames are given."""
    prefix: Share = 0.0
    """Share of those that begin with given frames, from 1 to all but one: extension forwards."""
    suffix: Share = 0.0
    """Share of those that end with given frames: extension backwards."""
    every: Share = 0.0
    """Share of those of which the first and then every n-th frame is given, n from 2 to half of the frames:
    interpolation."""
    random: Share = 0.0
    """Share of those of which any frames are given, each with a chance that is itself drawn for the example."""
    noise: Share = 0.0
    """Highest noise level of given and told frames (net.told_frames): those of an example are at one level from 0 to
    this, which the network is told (keep.history in sampling)."""

    @model_validator(mode="after")
    def _dealt(self) -> Self:
        if self.given > 1 + 1e-9:
            raise PydanticCustomError("shares", "should have shares of tasks that are 1 or less in all")
        return self

    @property
    def given(self) -> float:
        """Share of the examples in which frames are given."""
        return sum(getattr(self, task) for task in TASKS)

    @property
    def heeded(self) -> bool:
        """Whether a network has met given frames, as such or as what frames with clocks of their own come to."""
        return self.given > 0 or self.clock == "each"

    def ungiven(self) -> Self:
        """The same where no frame is ever given."""
        return replace(self, **dict.fromkeys(TASKS, 0.0))

    def clocks(self, objective: Objective, path: GaussianPath, count: int, frames: int, noise: torch.Generator,
               tasks: torch.Generator) -> Clocks:
        """The times of ``count`` clips and the frames asked for.

        noise: gives the times, alone where no frame is ever given;  tasks: gives which are given, and their levels.
        """
        if self.clock == "each":
            t = objective.draw_times(count * frames, path, noise).view(count, frames)
        else:
            t = objective.draw_times(count, path, noise)[:, None]
        if not self.given or frames == 1:
            return Clocks(t)
        known = self.draw(count, frames, tasks)
        level = self.noise * torch.rand(count, 1, generator=tasks)
        return Clocks(torch.where(known, level, t), (~known).flatten().nonzero()[:, 0])

    def draw(self, count: int, frames: int, generator: torch.Generator) -> Tensor:
        """``[count, frames]`` bool, True for frames that are given; of every clip at least one frame is not."""
        shares = torch.tensor([getattr(self, task) for task in TASKS], dtype=torch.float64).cumsum(0)
        u = torch.rand(count, generator=generator, dtype=torch.float64)
        task = torch.searchsorted(shares, u, right=True)  # len(TASKS) where none is given
        at = torch.arange(frames)
        length = whole(1, frames - 1, count, generator)
        stride = whole(2, max(2, frames // 2), count, generator)
        chance, draws = torch.rand(count, 1, generator=generator), torch.rand(count, frames, generator=generator)
        known = torch.stack([
            (at == 0).expand(count, -1), ((at == 0) | (at == frames - 1)).expand(count, -1), at < length,
            at >= frames - length, at % stride == 0, draws < chance, torch.zeros(count, frames, dtype=torch.bool)])
        chosen = known[task, torch.arange(count)]
        chosen[:, -1] &= ~chosen.all(1)
        return chosen


def whole(low: int, high: int, count: int, generator: torch.Generator) -> Tensor:
    """``[count, 1]`` whole numbers from ``low`` to ``high``."""
    return torch.randint(low, max(low, high) + 1, (count, 1), generator=generator)
