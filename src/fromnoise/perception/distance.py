"""How different two pictures look: distances between the feature maps of a network (Zhang et al. 2018, "LPIPS").

    d(a, b) = sum over layers l of  mean over places of  w_l . (unit(f_l(a)) - unit(f_l(b)))^2

where unit brings the features of a place to length 1.  The network is VGG-16 with the published weights where they are
on disk, one that was fitted to the captions of the data where there are captions, or a fixed random one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fromnoise.perception import vgg
from fromnoise.perception.features import RandomFeatures
from fromnoise.perception.words import WordFeatures, common_words, fit_words
from fromnoise.types import Source

Eye = Literal["auto", "lpips", "captions", "random"]
EPS = 1e-6


class Distance(nn.Module):
    """The distance in the feature maps of a network that stays as it is.

    look: a module whose ``maps`` of pictures ``[n, C, H, W]`` in [-1, 1] are features ``[n, D_l, h_l, w_l]``;  weights:
    ``[D_l]`` for each layer, by default equal ones that sum to 1 over the layers;  words: what it is, for people.
    """

    def __init__(self, look: nn.Module, words: str, weights: Sequence[Tensor] | None = None):
        super().__init__()
        self.look, self.words = look.requires_grad_(False).eval(), words
        self.weights = None if weights is None else list(weights)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances ``[n]`` of pictures ``[n, C, H, W]`` in [-1, 1]; gradients go to both."""
        pairs = list(zip(self.look.maps(a), self.look.maps(b), strict=True))  # type: ignore[operator]
        total = a.new_zeros(len(a))
        for i, (x, y) in enumerate(pairs):
            apart = (unit(x) - unit(y)).square()
            weighted = (apart.sum(1) / len(pairs) if self.weights is None
                        else (apart * self.weights[i].to(apart)[:, None, None]).sum(1))
            total = total + weighted.mean((1, 2))
        return total

    def train(self, mode: bool = True) -> Distance:
        """It never leaves evaluation."""
        return super().train(False)


def unit(features: Tensor) -> Tensor:
    """Features ``[n, D, h, w]`` at length 1 in each place; where there are none, none."""
    return features * (features.square().sum(1, keepdim=True) + EPS).rsqrt()


Pictures = Callable[[], tuple[Tensor, list[str]]]  # gives real pictures [n, C, H, W] and their captions


def pictures_of(source: Source, count: int = 1024) -> tuple[Tensor, list[str]]:
    """At most ``count`` pictures ``[n, C, H, W]`` of one size, evenly spread over a source, and their captions."""
    group = max(source.groups, key=len)
    chosen = [group[i * len(group) // count] for i in range(count)] if len(group) > count else list(group)
    batch = source.batch(chosen, range(len(chosen)))
    return batch.media[:, 0], batch.text


def resolved(eye: Eye, pictures: Pictures) -> Eye:
    """What "auto" is here: lpips where its weights are on disk, captions where they tell pictures apart, or random."""
    if eye != "auto":
        return eye
    if vgg.files() is not None:
        return "lpips"
    return "captions" if common_words(pictures()[1]) else "random"


def distance(eye: Eye, channels: int, pictures: Pictures, seed: int = 0,
             weights: dict[str, Tensor] | None = None) -> Distance:
    """The distance that ``eye`` names.

    channels: of the pictures;  pictures: what a network is fitted to;  weights: those of a network fitted before.
    UserError where lpips has no weights on disk, or captions tell nothing apart.
    """
    eye = resolved(eye, pictures)
    if eye == "lpips":
        look, layers = vgg.load()
        return Distance(look, vgg.WORDS, layers)
    if eye == "random":
        return Distance(RandomFeatures(channels, seed), "a fixed random network")
    if weights is not None:
        look = WordFeatures(channels, len(weights["head.bias"]))
        look.load_state_dict(weights)
    else:
        look = fit_words(*pictures(), seed)
    return Distance(look, f"a network fitted to {look.head.out_features} words of the captions")


@torch.no_grad()
def distances(measure: Distance, a: Tensor, b: Tensor, batch: int = 64) -> Tensor:
    """``[n]`` distances, some pictures at a time."""
    return torch.cat([measure(x, y) for x, y in zip(a.split(batch), b.split(batch), strict=True)])
