"""How strong guidance is at each time, and what other systems mean by their scales."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError
from torch import Tensor

from fromnoise.config import nearest, spec
from fromnoise.process import expand
from fromnoise.types import UserError


def _interval(ends: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= ends[0] <= ends[1] <= 1:
        raise PydanticCustomError("interval", "should be two times in [0, 1], the smaller first")
    return ends


Interval = Annotated[tuple[float, float], AfterValidator(_interval)]


@spec
class Schedule:
    """The scale s(t) of guidance, in the convention u + s (c - u)."""

    scale: float = 2.0
    """The scale at t = 1, and at every time unless clean is given; 1 is no guidance."""
    clean: float | None = None
    """The scale at t = 0, where it is not that of t = 1 (Wang et al. 2024 let it rise from noise to clean)."""
    shape: Literal["linear", "cosine"] = "linear"
    """How the scale goes from the one to the other: evenly in t, or at rest at both ends."""
    interval: Interval = (0.0, 1.0)
    """Guidance acts at these times, both ends included; elsewhere there is none (Kynkaanniemi et al. 2024)."""

    def at(self, t: Tensor, none: float = 1.0) -> Tensor:
        """s(t) in the shape, dtype and place of ``t``; outside the interval it is ``none``."""
        scale = torch.full_like(t, self.scale)
        if self.clean is not None:
            noisy = t if self.shape == "linear" else (1 - torch.cos(math.pi * t)) / 2
            scale = self.clean + (self.scale - self.clean) * noisy
        return torch.where((t >= self.interval[0]) & (t <= self.interval[1]), scale, none)


Scale = float | Schedule


def schedule(scale: Scale, interval: Interval = (0.0, 1.0)) -> Schedule:
    """A number as a schedule that acts in ``interval``; a schedule, which has its own, as it is.

    ValueError where both are given.
    """
    if not isinstance(scale, Schedule):
        return Schedule(scale=scale, interval=interval)
    if tuple(interval) != (0.0, 1.0):
        raise ValueError("a schedule has its own interval: give the interval there")
    return scale


def aligned(t: Tensor, x: Tensor) -> Tensor:
    """What a clock says, ready to multiply ``x``: axes, dtype and device of x, unless it is a scalar.

    A scalar keeps its place on the CPU, from where it takes part in work on any device without waiting for it.
    """
    return expand(t, x).to(device=x.device, dtype=x.dtype) if t.ndim else t


def everywhere(which: Tensor) -> bool:
    """Whether ``which`` is True throughout and is known to be: one on an accelerator is not waited for."""
    return which.device.type == "cpu" and bool(which.all())


# What is added to the scales of systems that write c + s (c - u).
_ADDED = {"ho-salimans": 1.0, "z-image": 1.0, "krea2": 1.0, "show-o": 1.0,
          "sd": 0.0, "sdxl": 0.0, "sd3": 0.0, "imagen": 0.0, "dit": 0.0, "pixart": 0.0, "flux": 0.0, "qwen-image": 0.0}


def scale_of(system: str, scale: float) -> float:
    """The scale of another system in our convention u + s (c - u).

    Ho and Salimans (2022), Z-Image, Krea2 and Show-o write c + s (c - u), so that their 4 is our 5.  UserError
    for a system that is not known here.
    """
    if system not in _ADDED:
        raise UserError(f'The guidance of "{system}" is not known here. {nearest(system, _ADDED)}')
    return scale + _ADDED[system]
