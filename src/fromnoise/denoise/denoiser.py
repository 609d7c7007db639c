"""A network, a path and a prediction make a denoiser: ``(x, t, condition) -> x0``."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from fromnoise.process import GaussianPath, Prediction, expand, to_x0
from fromnoise.types import Condition

Denoise = Callable[[Tensor, Tensor, Condition], Tensor]


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
        scale = self.path.input_scale(t)
        return self.net(x if scale is None else expand(scale, x) * x, t, condition, **told)

    def forward(self, x: Tensor, t: Tensor, condition: Condition, **told) -> Tensor:
        return to_x0(self.prediction, self.path, self.output(x, t, condition, **told), x, self.clock(x, t))

    @staticmethod
    def clock(x: Tensor, t: Tensor) -> Tensor:
        """``t`` on every frame, ``[B, T]``: a scalar, ``[B]``, or anything broadcasting to ``[B, T]``."""
        t = t.to(device=x.device, dtype=x.dtype)
        if t.ndim == 1:
            t = t[:, None]
        return t.expand(x.shape[0], x.shape[1])
