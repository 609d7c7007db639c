"""A network, a path and a prediction make a denoiser: ``(x, t, condition) -> x0``."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

from fromnoise.blocks import Ring
from fromnoise.process import GaussianPath, Prediction, expand, to_x0, x0_weights
from fromnoise.types import Condition

Denoise = Callable[[Tensor, Tensor, Condition], Tensor]


@lru_cache(maxsize=4096)
def _weights(prediction: Prediction, path: GaussianPath, t: float) -> tuple[float, float]:
    of_x, of_output = x0_weights(prediction, path, torch.tensor(t, dtype=torch.float64))
    return float(of_x), float(of_output)


class Denoiser(nn.Module):
    """The expected clean sample E[x0 | x_t = x, condition] that the network has learned.

    x: ``[B, T, C, h, w]``;  t: anything that broadcasts against ``[B, T]``;  result: as x.
    """

    def __init__(self, net: nn.Module, path: GaussianPath, prediction: Prediction):
        super().__init__()
        self.net, self.path = net, path
        self.prediction: Prediction = prediction

    def output(self, x: Tensor, t: Tensor, condition: Condition, **told) -> Tensor:
        """The network's own prediction, which training compares with its target; ``told`` goes to the network."""
        t = self.clock(x, t)
        return self.net(self.shown(x, t), t, condition, **told)

    def remember(self, x: Tensor, t: Tensor, condition: Condition, cache: Ring) -> None:
        """Let a causal network see a finished frame at noise level t, so that the ``cache`` holds what it was."""
        t = self.clock(x, t)
        self.net.remember(self.shown(x, t), t, condition, cache)  # type: ignore[operator]

    def shown(self, x: Tensor, t: Tensor) -> Tensor:
        """x as the network is given it."""
        scale = self.path.input_scale(t)
        return x if scale is None else expand(scale, x) * x

    def forward(self, x: Tensor, t: Tensor, condition: Condition, **told) -> Tensor:
        output = self.output(x, t, condition, **told)
        if t.ndim or t.device.type != "cpu" or t.requires_grad:
            return to_x0(self.prediction, self.path, output, x, self.clock(x, t))
        if self.prediction == "x0":
            return output
        of_x, of_output = _weights(self.prediction, self.path, float(t))  # one clock for all: two numbers
        return torch.add(output * of_output, x, alpha=of_x)

    @staticmethod
    def clock(x: Tensor, t: Tensor) -> Tensor:
        """``t`` on every frame, ``[B, T]``: a scalar, ``[B]``, or anything broadcasting to ``[B, T]``."""
        t = t.to(device=x.device, dtype=x.dtype)
        if t.ndim == 1:
            t = t[:, None]
        return t.expand(x.shape[0], x.shape[1])
