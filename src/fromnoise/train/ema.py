"""Power-function average of the weights (Karras et al. 2024, "EDM2", section 3.1).

    average_t = beta_t average_{t-1} + (1 - beta_t) weights_t,      beta_t = (1 - 1/t)^(gamma + 1)

It forgets its beginning by itself and its width is relative to the length of training so far.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gamma_of(sigma_rel: float) -> float:
    """gamma from the relative width, sigma_rel^2 = (gamma+1) / ((gamma+2)^2 (gamma+3)) (EDM2), by bisection."""
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        wide = (middle + 1) / ((middle + 2) ** 2 * (middle + 3)) > sigma_rel**2
        low, high = (middle, high) if wide else (low, middle)
    return (low + high) / 2


class Ema:
    """The average of a list of tensors, kept beside them."""

    def __init__(self, tensors: Sequence[Tensor], sigma_rel: float):
        self.exponent = gamma_of(sigma_rel) + 1
        self.tensors = [t.detach().clone() for t in tensors]

    @torch.no_grad()
    def update(self, tensors: Sequence[Tensor], step: int) -> None:
        """Take in the weights after step 1, 2, ...; one fused operation for all tensors."""
        weight = 1 - (1 - 1 / step) ** self.exponent
        torch._foreach_lerp_(self.tensors, [t.detach() for t in tensors], weight)

    def restore(self, tensors: Sequence[Tensor]) -> None:
        """Go on from an average that was saved."""
        torch._foreach_copy_(self.tensors, list(tensors))
