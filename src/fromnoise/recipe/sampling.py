"""What is done with a trained model unless the caller says otherwise: how it samples, and what is measured of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from fromnoise.config import nearest, spec
from fromnoise.denoise import Guidance, Guided, Held, Keep
from fromnoise.sample import SOLVERS, FullSequence, Order, Procedure

USABLE = ("auto", *(name for name in SOLVERS if name != "picard"))  # picard asks for other batches than a prompt's


def _solver(name: str) -> str:
    """The name of a solver."""
    if name not in USABLE:
        raise PydanticCustomError("solver", "is not the name of a solver. {hint}", {"hint": nearest(name, USABLE)})
    return name


@spec
class Sampling:
    """How pictures are made unless the caller says otherwise."""

    solver: Annotated[str, AfterValidator(_solver)] = "dpmpp_2m"
    """What integrates from noise to picture: a name of docs/solvers.md, or auto, which also chooses the grid."""
    steps: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Solver steps."""
    guidance: Guided = Guidance()
    """Guidance; a number alone is its scale, of which 1 is none."""
    grid: Literal["uniform", "quadratic", "cosine", "sigmoid", "beta", "karras", "logsnr", "angle", "flow"] = "uniform"
    """Where the steps are on the clock."""
    shift: Annotated[float, Field(gt=0)] = 1.0
    """Shift of the time grid towards noise."""
    schedule: Order = FullSequence()
    """In which order the frames of a clip come out of the noise."""
    keep: Keep = Held()
    """How frames and pixels that are given are kept."""
    action_guidance: Annotated[float, Field(ge=0)] = 1.0
    """Scale of guidance on actions, which needs train.action_dropout; 1 is none."""
    augment: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Noise on the small picture that is enlarged, as upsample.noise says it."""


def has_own_grid(sampling: Sampling) -> bool:
    """Whether the solver chooses its times itself, so that grid and shift say nothing."""
    return sampling.solver == "auto" or isinstance(SOLVERS[sampling.solver], Procedure)


@spec
class Evaluation:
    """What is measured after training."""

    samples: Annotated[int, Field(gt=0)] = 600
    """Pictures generated and judged."""
    guidance: Annotated[float, Field(ge=0)] | None = None
    """Scale of guidance while judging, the rest as in sampling; by default that of sampling too."""
    tasks: Annotated[int, Field(ge=0)] = 64
    """Held-out clips that are made again with some of their frames given, for each task: the first frame, the first and
    the last, a half, every second; 0 for none."""
    rollout: Annotated[int, Field(ge=0)] = 0
    """Frames of longer clips, as many as for a task, that go on from true ones window by window; 0 for none."""


@spec
class Looking:
    """What is measured of an autoencoder after training."""

    samples: Annotated[int, Field(gt=1)] = 512
    """Held-out pictures that are taken through it."""
