"""The direction of the velocity (Yao et al. 2025, LightningDiT)."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fromnoise.config import spec
from fromnoise.process import convert, target
from fromnoise.terms.step import Step


@spec
class Direction:
    """1 - cos(v, v_hat), the angle between the true velocity and the predicted one, taken over channels.

    Whatever the network predicts, its velocity is meant.  A picture of one channel has nothing but signs.
    """

    weight: Annotated[float, Field(ge=0)] = 0.0
    """How much it counts beside the loss; 0 leaves it out (LightningDiT: 1)."""

    def loss(self, step: Step) -> Tensor:
        """The mean over places, from 0 to 2."""
        t, output = step.of(step.t), step.of(step.output).float()
        said = convert(step.objective.prediction, "velocity", step.path, output, step.of(step.x), t)
        true = target("velocity", step.path, step.of(step.x0), step.of(step.eps), t)
        return 1 - F.cosine_similarity(said, true, dim=2).mean()
