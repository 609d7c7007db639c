"""Which levels of a table diffusers' schedulers step on (the spacings of Lin et al. 2023, table 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromnoise.types import UserError


@dataclass(frozen=True)
class Spacing:
    """What a scheduler's class says where its config does not.

    solver: ours;  default: of timestep_spacing;  whole: whether levels are whole numbers;  to_clean: whether the last
    step ends at t = 0.
    """

    solver: str
    default: str
    whole: bool = True
    to_clean: bool = True


SPACINGS = {
    "DDIMScheduler": Spacing("ddim", "leading"),
    "DDPMScheduler": Spacing("ancestral", "leading"),
    "PNDMScheduler": Spacing("ipndm_4", "leading", to_clean=False),
    "EulerDiscreteScheduler": Spacing("euler", "linspace", whole=False),
    "EulerAncestralDiscreteScheduler": Spacing("ancestral", "linspace", whole=False),
    "DPMSolverMultistepScheduler": Spacing("dpmpp_2m", "linspace"),
    "UniPCMultistepScheduler": Spacing("unipc_2", "linspace"),
}
DENSE = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")  # they space one level more, and leave out the last


def levels_of(kind: str, how: str, steps: int, count: int, offset: int) -> Tensor:
    """The falling levels ``[steps]`` of ``count`` that a scheduler evaluates at, float64.

    UserError for more steps than there are levels.
    """
    if not 1 <= steps <= count:
        raise UserError(f"{kind} has {count} levels and cannot take {steps} steps.")
    more = kind in DENSE
    if how == "linspace":
        levels = torch.linspace(0, count - 1, steps + more, dtype=torch.float64).flip(0)[:steps]
        return levels.round() if SPACINGS[kind].whole else levels
    if how == "leading":
        stride = count // (steps + more)
        return (torch.arange(steps + more, dtype=torch.float64) * stride).flip(0)[:steps] + offset
    return (count - torch.arange(steps, dtype=torch.float64) * (count / steps)).round() - 1


def bend(how: str, ratios: Tensor, steps: int, config: Mapping[str, Any]) -> Tensor:
    """``steps`` of sigma/alpha between the ends of ``ratios``: even in their 7th root (karras) or logarithm."""
    high, low = (config.get(f"sigma_{end}") or float(ratios[i]) for end, i in (("max", 0), ("min", -1)))
    if how == "exponential":
        return torch.linspace(0, 1, steps, dtype=torch.float64).mul(torch.tensor(low / high).log()).exp() * high
    return torch.linspace(high ** (1 / 7), low ** (1 / 7), steps, dtype=torch.float64) ** 7
