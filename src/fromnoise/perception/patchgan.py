"""A discriminator of patches (Isola et al. 2017, "PatchGAN") and what the two sides of the game minimise."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Game = Literal["hinge", "non_saturating"]


class PatchGAN(nn.Module):
    """A verdict on each patch of pictures ``[n, C, H, W]``: ``[n, 1, h, w]``, high where it looks real.

    ``depth`` convolutions of 4x4 halve the picture, and two more keep it; a patch of depth 3 is 70 pixels wide, of
    depth 2 it is 34.  Groups are normalised, not batches, so that a verdict is on one picture.
    """

    def __init__(self, channels: int, width: int = 32, depth: int = 2):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for i in range(1, depth + 1):
            wide = width * min(2**i, 8)
            layers += [nn.Conv2d(width * min(2 ** (i - 1), 8), wide, 4, 2 if i < depth else 1, 1, bias=False),
                       nn.GroupNorm(4, wide), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width * min(2**depth, 8), 1, 4, 1, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def judge_loss(real: Tensor, made: Tensor, game: Game) -> Tensor:
    """What the discriminator minimises, of its verdicts.

    hinge: (E max(0, 1 - D(real)) + E max(0, 1 + D(made))) / 2 (Lim and Ye 2017);  non_saturating: the mean of the two
    cross-entropies (Goodfellow et al. 2014).
    """
    if game == "hinge":
        return (F.relu(1 - real).mean() + F.relu(1 + made).mean()) / 2
    return (F.softplus(-real).mean() + F.softplus(made).mean()) / 2


def forger_loss(made: Tensor, game: Game) -> Tensor:
    """What the autoencoder minimises: -E D(made), or the cross-entropy -E log sigmoid(D(made))."""
    return -made.mean() if game == "hinge" else F.softplus(-made).mean()


def r1(net: nn.Module, real: Tensor) -> Tensor:
    """E |grad D(real)|^2, the slope of the verdict at real pictures (Mescheder et al. 2018, eq. 9, but for 1/2)."""
    real = real.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(net(real).mean((1, 2, 3)).sum(), real, create_graph=True)
    return slope.square().sum((1, 2, 3)).mean()
