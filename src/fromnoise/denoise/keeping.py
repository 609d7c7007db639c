"""How what is given of a sample is brought in: a spec that a recipe or a command line can hold.

    held           frames stand at t = 0, as a network has met them that was trained with given frames
    replaced       no such training: what is known takes the place of what is predicted
    reconstructed  no such training: reconstruction guidance (Ho et al. 2022)
    measured       no such training: by the covariances that the denoiser implies

Where a mask says that parts of a frame are known, no clock can: those are replaced under ``held`` too.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from fromnoise.config import spec
from fromnoise.denoise.denoiser import Denoise
from fromnoise.denoise.history import Eps, by_history
from fromnoise.denoise.inpaint import measured, reconstructed, replaced
from fromnoise.process import GaussianPath

Level = Annotated[float, Field(ge=0, le=1)]


@spec
class Held:
    """Frames stand at t = 0."""

    kind: Literal["held"] = "held"
    history: Level = 0.0
    """Noise level at which frames that are given or finished are shown to the network, which steadies long rollouts."""
    guidance: Annotated[float, Field(ge=0)] = 1.0
    """Scale of guidance by history; 1 is none."""
    less: Level = 1.0
    """Noise level of history in the weaker answer of that guidance; at 1 nothing is left of it."""

    clocked = True  # whether frames that are known as a whole have a clock of their own

    def around(self, denoise: Denoise, path: GaussianPath, eps: Eps) -> Denoise:
        """What is put around the network; eps: noise for what it sees of history."""
        return by_history(denoise, path, self.guidance, self.history, self.less, eps)

    def of(self, denoise: Denoise, known: Tensor, mask: Tensor, path: GaussianPath) -> Denoise:
        """The denoiser of samples that are ``known`` where ``mask`` is True and which no clock holds."""
        return replaced(denoise, known, mask)

    def idle(self) -> dict[str, str]:
        """The fields that the others leave without effect, and why."""
        return {"less": "guidance by history is 1"} if self.guidance == 1 else {}


class _Timeless:
    """What the ways for networks that met no given frames share."""

    clocked = False

    def around(self, denoise: Denoise, path: GaussianPath, eps: Eps) -> Denoise:
        return denoise

    def idle(self) -> dict[str, str]:
        return {}


@spec
class Replaced(_Timeless):
    """What is known takes the place of what is predicted."""

    kind: Literal["replaced"] = "replaced"

    def of(self, denoise: Denoise, known: Tensor, mask: Tensor, path: GaussianPath) -> Denoise:
        return replaced(denoise, known, mask)


@spec
class Reconstructed(_Timeless):
    """What is predicted moves to where it explains what is known."""

    kind: Literal["reconstructed"] = "reconstructed"
    weight: Annotated[float, Field(ge=0)] = 1.0
    """The paper's w_r; 0 is replacement alone."""

    def of(self, denoise: Denoise, known: Tensor, mask: Tensor, path: GaussianPath) -> Denoise:
        return reconstructed(denoise, known, mask, path, self.weight)


@spec
class Measured(_Timeless):
    """What is predicted moves with what is known, as covariances say."""

    kind: Literal["measured"] = "measured"
    noise: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation of what is known around the truth."""
    iterations: Annotated[int, Field(ge=1)] = 5
    """Iterations of conjugate gradients, a pass backward each."""

    def of(self, denoise: Denoise, known: Tensor, mask: Tensor, path: GaussianPath) -> Denoise:
        return measured(denoise, known, mask, path, self.noise, self.iterations)


Keep = Annotated[Held | Replaced | Reconstructed | Measured, Field(discriminator="kind")]
