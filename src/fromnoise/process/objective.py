"""The training objective of a Gaussian diffusion: a prediction, the space of the loss, a time law and a weighting."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from torch import Tensor

from fromnoise.config import spec
from fromnoise.process.gaussian import TINY, GaussianPath, expand
from fromnoise.process.predictions import Prediction, error_scale, target
from fromnoise.process.times import CutTimes, LogNormal, ShiftedTimes, TimeLaw, Times, stratified
from fromnoise.process.weightings import Implied, Weighting, eps_error


def _between(ends: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= ends[0] < ends[1] <= 1:
        raise PydanticCustomError("between", "should be two times in [0, 1], the smaller first")
    return ends


@spec
class Objective:
    """E_t,x0,eps [ weight(t) |prediction - target|^2 ].

    With the implied weighting the squared error is measured in the space of ``loss``, and the time law decides what
    counts.  With any other the loss is 1/2 E [ w(lambda) (-dlambda/dt) |eps - eps_hat|^2 ] whatever the law of the
    times, which then only makes its estimate more or less noisy; see process/weightings.py.
    """

    prediction: Prediction = "velocity"
    """What the network outputs: x0, eps, v or velocity."""
    loss: Prediction = "velocity"
    """The space in which the squared error counts (see process/predictions.py)."""
    times: Times = LogNormal()
    """How training times are distributed."""
    shift: Annotated[float, Field(gt=0)] = 1.0
    """Training times are moved towards noise by -2 log of this in log-SNR (SD3, as sample.shift moves a grid)."""
    between: Annotated[tuple[float, float], AfterValidator(_between)] = (0.0, 1.0)
    """Only times between these two, the smaller first, are trained on: the network is an expert for them (eDiff-I)."""
    weighting: Weighting = Implied()
    """How much each noise level counts: implied by loss and times, or named, and then the same for every law."""
    stratified: bool = True
    """Draw the times of a batch one from each of B equal strata instead of independently."""
    shared_offset: bool = False
    """Draw one place within the strata for all of them: VDM's low-discrepancy times."""
    max_weight: Annotated[float, Field(gt=0)] = 400.0
    """Ceiling on the weight of the network's squared error (by itself it is unbounded at t = 0)."""
    learned_variance: bool = False
    """Learn the variance exp(u) of the loss at each log-SNR, and train with loss / exp(u) + u (EDM2)."""

    def draw_times(self, count: int, path: GaussianPath, generator: torch.Generator) -> Tensor:
        """``[count]`` training times."""
        u = (stratified(count, generator, self.shared_offset) if self.stratified
             else torch.rand(count, generator=generator))
        return self.law.times(u, path)

    @property
    def law(self) -> TimeLaw:
        """The law of the times, shifted and cut."""
        shifted = self.times if self.shift == 1 else ShiftedTimes(self.times, self.shift)
        return shifted if self.between == (0, 1) else CutTimes(shifted, *self.between)

    def weight(self, t: Tensor, path: GaussianPath) -> Tensor:
        """Factor on the squared error of ``prediction``."""
        if not isinstance(self.weighting, Implied):
            over_density = self.weighting.weight(t, path) / self.law.density(t, path).clamp(min=TINY**2)
            per_error = eps_error(self.prediction, t, path).clamp(min=TINY**4)
            return (over_density / (2 * per_error)).clamp(max=self.max_weight)
        if self.prediction == self.loss:
            return torch.ones_like(t)
        ratio = error_scale(self.loss, path, t) / error_scale(self.prediction, path, t).clamp(min=1e-12)
        return ratio.square().clamp(max=self.max_weight)

    def losses(self, output: Tensor, x0: Tensor, eps: Tensor, t: Tensor, path: GaussianPath) -> Tensor:
        """Weighted squared errors ``[B, T, ...]`` of a network output; their mean is the loss."""
        error = output.float() - target(self.prediction, path, x0, eps, t)
        return error.square() * expand(self.weight(t, path), x0)
