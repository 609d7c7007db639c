"""Contrastive flow matching (Stoica et al. 2025): away from the velocities of other samples.

    L = |v_hat - v|^2 - weight |v_hat - v'|^2,        v' the velocity of another sample of the batch.

It is (1 - weight) |v_hat - (v - weight v') / (1 - weight)|^2 but for a constant: the target moves away from v'.  As
v' knows nothing of this sample, the network learns (E[v | x, c] - weight E[v]) / (1 - weight) and not E[v | x, c].
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from fromnoise.config import spec
from fromnoise.process import convert, expand, target
from fromnoise.terms.step import Step


@spec
class Contrastive:
    """Minus the error to the velocity of the next sample of the batch, weighted as the loss is."""

    weight: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """How much it counts beside the loss; 0 leaves it out (the paper: 0.05).  From 1 on there is no minimum."""

    def loss(self, step: Step) -> Tensor:
        """Minus the mean squared error, 0 or less; 0 for a batch of one."""
        if len(step.x) == 1:
            return step.output.new_zeros(())
        prediction = step.objective.prediction
        t = step.of(step.t)
        velocity = target("velocity", step.path, step.of(step.x0.roll(1, 0)), step.of(step.eps.roll(1, 0)), t)
        other = convert("velocity", prediction, step.path, velocity, step.of(step.x), t)
        weight = expand(step.objective.weight(t, step.path), other)
        return -(weight * (step.of(step.output).float() - other).square()).mean()
