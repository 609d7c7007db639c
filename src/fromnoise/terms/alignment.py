"""Representation alignment: REPA (Yu et al. 2024) and iREPA (Singh et al. 2025).

    L = - mean over places of cos(projector(h), y)

h are the features of an inner block at the noisy picture, y those of a frozen teacher at the clean one.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fromnoise.config import spec
from fromnoise.terms.step import block_number


@spec
class Hub:
    """A vision transformer that others trained, through transformers: DINOv2, DINOv3, SigLIP, ViT-MAE and the like."""

    kind: Literal["hub"] = "hub"
    model: str = "facebook/dinov2-with-registers-base"
    """A folder that holds it, or its name on the hub."""


@spec
class Run:
    """A run of fromnoise: what its averaged network makes of the picture with a little noise and without a caption."""

    kind: Literal["run"] = "run"
    run: str
    """The run folder."""
    block: int = -1
    """The block whose features are the teacher's, from 0, or -1 for the last."""
    time: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Noise level of what it is shown."""


Teacher = Annotated[Hub | Run, Field(discriminator="kind")]


@spec
class Repa:
    """Features of one block, aligned with those of a teacher."""

    weight: Annotated[float, Field(ge=0)] = 0.0
    """How much it counts beside the loss; 0 leaves it out (the paper: 0.5)."""
    teacher: Teacher = Hub()
    """Whose features are learned from."""
    block: int | None = None
    """The block that is aligned, from 0, or -1 for the last; by default that two sevenths of the way, as the paper has
    the eighth of 28."""
    projector: Literal["mlp", "conv"] = "mlp"
    """What stands between: three layers for every place by itself (REPA), or one 3x3 convolution (iREPA)."""
    width: Annotated[int, Field(ge=1)] = 2048
    """Hidden width of the three layers."""
    spatial_norm: bool = False
    """The teacher's features are normalised over the places of each picture, which leaves what differs (iREPA)."""

    def place(self, depth: int) -> int:
        """The number of the block in a network of ``depth``."""
        return math.ceil(depth * 2 / 7) - 1 if self.block is None else block_number(
            self.block, depth, "train.repa.block")

    def build(self, inside: int, outside: int) -> Projector:
        """The projector from ``inside`` features of a block to ``outside`` of the teacher."""
        return Projector(self, inside, outside)

    def loss(self, projected: Tensor, taught: Tensor) -> Tensor:
        """From -1 to 1, of features ``[B, T, F, h, w]`` and the teacher's ``[B, T, F, h', w']``."""
        taught = resampled(taught, projected)
        return alignment(projected, spatially_normal(taught) if self.spatial_norm else taught)


class Projector(nn.Module):
    """Features ``[B, T, D, h, w]`` to ``[B, T, F, h, w]``.  A layer of the three is a 1x1 convolution."""

    def __init__(self, spec: Repa, inside: int, outside: int):
        super().__init__()
        if spec.projector == "conv":
            self.layers: nn.Module = nn.Conv2d(inside, outside, 3, padding=1)
        else:
            self.layers = nn.Sequential(nn.Conv2d(inside, spec.width, 1), nn.SiLU(),
                                        nn.Conv2d(spec.width, spec.width, 1), nn.SiLU(),
                                        nn.Conv2d(spec.width, outside, 1))

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features.flatten(0, 1)).unflatten(0, features.shape[:2])


def alignment(projected: Tensor, taught: Tensor) -> Tensor:
    """Minus the mean cosine over places of features ``[B, T, F, h, w]``."""
    return -F.cosine_similarity(projected.float(), taught.float(), dim=2).mean()


def spatially_normal(features: Tensor) -> Tensor:
    """Features ``[..., h, w]`` of mean 0 and standard deviation 1 over the places of each picture."""
    mean, std = features.mean((-2, -1), keepdim=True), features.std((-2, -1), keepdim=True)
    return (features - mean) / (std + 1e-6)


def resampled(features: Tensor, like: Tensor) -> Tensor:
    """Features ``[B, T, F, h', w']`` on the grid of ``like`` ``[B, T, D, h, w]``."""
    size = like.shape[-2:]
    if features.shape[-2:] == size:
        return features
    return F.interpolate(features.flatten(0, 1), size, mode="bilinear", antialias=True).unflatten(
        0, features.shape[:2])
