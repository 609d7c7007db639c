"""The training objective of a Gaussian diffusion, as a choice of prediction, loss space and time law."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fromnoise.config import spec
from fromnoise.process.gaussian import GaussianPath, expand
from fromnoise.process.predictions import Prediction, error_scale, target
from fromnoise.process.times import LogNormal, Times, stratified


@spec
class Objective:
    """E_t,x0,eps [ w(t) |prediction - target|^2 ] with the squared error measured in the space of ``loss``."""

    prediction: Prediction = "velocity"
    """What the network outputs: x0, eps, v or velocity."""
    loss: Prediction = "velocity"
    """The space in which the squared error counts (see process/predictions.py)."""
    times: Times = LogNormal()
    """How training times are distributed."""
    stratified: bool = True
    """Draw the times of a batch one from each of B equal strata instead of independently."""
    max_weight: Annotated[float, Field(gt=0)] = 400.0
    """Ceiling on the weight that converts one space's error into another's (it is unbounded at t = 0)."""

    def draw_times(self, count: int, path: GaussianPath, generator: torch.Generator) -> Tensor:
        """``[count]`` training times."""
        u = stratified(count, generator) if self.stratified else torch.rand(count, generator=generator)
        return self.times.times(u, path)

    def weight(self, t: Tensor, path: GaussianPath) -> Tensor:
        """Factor that turns the squared error of ``prediction`` into that of ``loss``."""
        if self.prediction == self.loss:
            return torch.ones_like(t)
        ratio = error_scale(self.loss, path, t) / error_scale(self.prediction, path, t).clamp(min=1e-12)
        return ratio.square().clamp(max=self.max_weight)

    def losses(self, output: Tensor, x0: Tensor, eps: Tensor, t: Tensor, path: GaussianPath) -> Tensor:
        """Weighted squared errors ``[B, T, ...]`` of a network output; their mean is the loss."""
        error = output.float() - target(self.prediction, path, x0, eps, t)
        return error.square() * expand(self.weight(t, path), x0)
