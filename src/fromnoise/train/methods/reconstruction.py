"""Training an autoencoder: media in, media out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fromnoise.files import write_text
from fromnoise.random import NOISE, generator
from fromnoise.system import Coding
from fromnoise.train.methods.method import Method
from fromnoise.types import Batch, Source

STATISTICS = "statistics.json"
PICTURES = 1024  # training pictures that the statistics of the latents are of


class Reconstruct(Method):
    """weight |decode(encode(x)) - x| + the penalties of the autoencoder.

    All randomness of a step is drawn for the whole batch from (seed, step).
    """

    system: Coding

    def __init__(self, system: Coding):
        super().__init__(system)
        self.spec = system.recipe.loss
        self.last: dict[str, Tensor] = {}

    def loss(self, batch: Batch, seed: int, step: int) -> Tensor:
        """The weighted sum of the parts of the loss."""
        media = batch.media
        noise = torch.randn(noise_shape(self.system.latents, media), generator=generator(seed, NOISE, step))
        coded = self.system.latents.code(media, noise.to(media.device, non_blocking=True))
        parts = {"pixel": self.spec.pixel_weight * self.spec.of_pixels(coded.media, media), **coded.penalties}
        self.last = {name: part.detach() for name, part in parts.items()}
        return torch.stack(list(parts.values())).sum()

    def parts(self) -> dict[str, float]:
        return {name: float(part) for name, part in self.last.items()}

    def conclude(self, out: Path, source: Source, step: int) -> None:
        """``statistics.json``: mean and standard deviation of each channel of the latents of training pictures."""
        mean, std = statistics(self.system, source)
        write_text(out / STATISTICS, json.dumps({"mean": mean, "std": std, "step": step}, indent=2) + "\n")


def noise_shape(latents, media: Tensor) -> tuple[int, ...]:
    """The shape of the raw latents ``[B, T, c, h, w]`` of media, before neighbours are packed into channels."""
    patch = getattr(latents.spec, "patch", 1)
    B, T, _, H, W = media.shape
    return B, T, latents.channels // patch**2, H // latents.factor * patch, W // latents.factor * patch


@torch.no_grad()
def statistics(system: Coding, source: Source, count: int = PICTURES, batch: int = 64) -> tuple[list[float], ...]:
    """(mean, standard deviation) of each latent channel, over all places of about ``count`` pictures of a source."""
    system.eval()
    total, squares, n = 0.0, 0.0, 0
    for group in source.groups:
        take = max(1, min(len(group), round(count * len(group) / len(source))))
        chosen = [group[int(i)] for i in np.linspace(0, len(group) - 1, take)]
        for start in range(0, take, batch):
            some = chosen[start : start + batch]
            media = source.batch(some, [0] * len(some)).media.to(system.device)
            values = system.latents.encode(media).double().movedim(2, 0).flatten(1)  # [c, places]
            total, squares, n = total + values.sum(1), squares + values.square().sum(1), n + values.shape[1]
    mean = torch.as_tensor(total / n)
    std = (torch.as_tensor(squares / n) - mean.square()).clamp(min=0).sqrt()
    return mean.tolist(), std.tolist()
