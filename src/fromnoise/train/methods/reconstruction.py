"""Training an autoencoder: media in, media out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fromnoise.files import write_text
from fromnoise.latents.coding import Coded, noise_shape
from fromnoise.perception.distance import Distance, distance, pictures_of, resolved
from fromnoise.random import NOISE, POSTERIOR, generator
from fromnoise.recipe import Coder
from fromnoise.system import Coding
from fromnoise.train.methods.adversary import Discriminator, balance, below, last_layer, windows
from fromnoise.train.methods.method import Method
from fromnoise.types import Batch, Source, UserError

STATISTICS = "statistics.json"
PICTURES = 1024  # training pictures, or frames of films, that the statistics of the latents are of


class Reconstruct(Method):
    """The loss of ``latents.Reconstruction``: pixels, looks and a discriminator, and the autoencoder's penalties.

    All randomness of a step is drawn for the whole batch from (seed, step).
    """

    system: Coding

    def __init__(self, system: Coding):
        super().__init__(system)
        self.recipe, self.spec = system.recipe, system.recipe.loss
        self.last: dict[str, Tensor] = {}
        self.seen: tuple[Tensor, Tensor] | None = None  # (real, made) of the last step, for the discriminator
        self.fitted: dict[str, Tensor] | None = None
        adversary, data = self.spec.adversarial, self.recipe.data
        if adversary.weight and adversary.frames > data.frames:
            raise UserError(f"The discriminator sees {adversary.frames} frames at once, and these data have "
                            f"{data.frames}: set loss.adversarial.frames to at most that.")
        self.discriminator = (Discriminator(adversary, data.channels, self.recipe.seed, system.device)
                              if adversary.weight else None)

    @classmethod
    def settled(cls, recipe: Coder) -> Coder:
        """The recipe with the network of the perceptual distance that there is, so that recipe.json says which."""
        if not recipe.loss.perceptual_weight:
            return recipe
        eye = resolved(recipe.loss.perceptual, lambda: pictures_of(recipe.data.open("train")))
        return replace(recipe, loss=replace(recipe.loss, perceptual=eye))

    def loss(self, batch: Batch, seed: int, step: int) -> Tensor:
        """The weighted sum of the parts of the loss."""
        return self.compared(batch.media, self.code(batch.media, generator(seed, NOISE, step)), step)

    def code(self, media: Tensor, random: torch.Generator) -> Coded:
        """Media on their way through the autoencoder."""
        noise = torch.randn(noise_shape(self.system.latents, media), generator=random)
        return self.system.latents.code(media, noise.to(media.device, non_blocking=True))

    def compared(self, media: Tensor, coded: Coded, step: int) -> Tensor:
        """``loss`` of media that went through."""
        spec = self.spec
        real, made = media.flatten(0, 1), coded.media.flatten(0, 1).float()
        parts = {"pixel": spec.pixel_weight * spec.of_pixels(made, real)}
        if spec.perceptual_weight:
            parts["perceptual"] = spec.perceptual_weight * self.looks(made, real).mean()
        steps = self.recipe.train.steps
        if self.discriminator is not None and spec.adversarial.heard(step, steps):
            parts["adversarial"] = self.fooling(sum(parts.values(), real.new_zeros(())), self.judged(made, media))
        learns = self.discriminator is not None and spec.adversarial.learns(step, steps)
        self.seen = (self.judged(real, media), self.judged(made.detach(), media)) if learns else None
        parts |= coded.penalties
        self.last = {name: part.detach() for name, part in parts.items()}
        return torch.stack(list(parts.values())).sum()

    def judged(self, frames: Tensor, media: Tensor) -> Tensor:
        """What the discriminator sees of the frames ``[B T, C, H, W]`` of films shaped like ``media``: runs of them."""
        return windows(frames.unflatten(0, media.shape[:2]), self.spec.adversarial.frames)

    def fooling(self, rest: Tensor, made: Tensor) -> Tensor:
        """The weighted loss of fooling the discriminator."""
        assert self.discriminator is not None
        adversary, loss = self.spec.adversarial, self.discriminator.fool(made)
        balanced = adversary.adaptive and torch.is_grad_enabled()
        return adversary.weight * (balance(rest, loss, last_layer(self.system.latents)) if balanced else 1) * loss

    def follow(self, rate: float) -> None:
        """The discriminator's own step, on the pictures of the last loss."""
        if self.discriminator is not None and self.seen is not None:
            self.last["discriminator"] = self.discriminator.learn(*self.seen, rate)
            self.seen = None

    @cached_property
    def looks(self) -> Distance:
        """The perceptual distance, fitted to training pictures where it has to be."""
        data = self.recipe.data
        return distance(self.spec.perceptual, data.channels, lambda: pictures_of(data.open("train")), self.recipe.seed,
                        self.fitted).to(self.system.device)

    def parts(self) -> dict[str, float]:
        return {name: float(part) for name, part in self.last.items()}

    def tensors(self) -> dict[str, Tensor]:
        """The discriminator with its optimiser, and a feature network that was fitted."""
        found = {}
        if self.discriminator is not None:
            found |= {f"discriminator.{name}": value for name, value in self.discriminator.tensors().items()}
        if self.spec.perceptual_weight and self.spec.perceptual == "captions":
            found |= {f"looks.{name}": value for name, value in self.looks.look.state_dict().items()}
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        if self.discriminator is not None:
            self.discriminator.restore(below(tensors, "discriminator."))
        self.fitted = below(tensors, "looks.") or None

    def conclude(self, out: Path, source: Source, step: int) -> bool:
        save_statistics(self.system, out, source, step)
        return False


def spread(group: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the indices of a group, evenly spread."""
    return [group[int(i)] for i in np.linspace(0, len(group) - 1, min(count, len(group)))]


def save_statistics(system: Coding, out: Path, source: Source, step: int) -> None:
    """``statistics.json``: mean and standard deviation of each channel of the latents of training pictures."""
    mean, std = statistics(system, source)
    write_text(out / STATISTICS, json.dumps({"mean": mean, "std": std, "step": step}, indent=2) + "\n")


@torch.no_grad()
def statistics(system: Coding, source: Source, count: int = PICTURES, batch: int = 64) -> tuple[list[float], ...]:
    """(mean, standard deviation) of each latent channel, over all places of about ``count`` frames of a source.

    Where a latent is a distribution they are those of its draws, as in latent diffusion (Rombach et al. 2022, G): what
    the mean of a channel says below its own noise the decoder does not hear, and it is not made as loud as the rest.
    """
    system.eval()
    frames = system.recipe.data.frames
    count, batch = max(1, count // frames), max(1, batch // frames)
    total, squares, n = 0.0, 0.0, 0
    random = generator(system.recipe.seed, POSTERIOR)
    for group in source.groups:
        chosen = spread(group, max(1, round(count * len(group) / len(source))))
        for start in range(0, len(chosen), batch):
            some = chosen[start : start + batch]
            media = source.batch(some, [0] * len(some)).media.to(system.device)
            noise = torch.randn(noise_shape(system.latents, media), generator=random).to(system.device)
            values = system.latents.encode(media, noise).double().movedim(2, 0).flatten(1)  # [c, places]
            total, squares, n = total + values.sum(1), squares + values.square().sum(1), n + values.shape[1]
    mean = torch.as_tensor(total / n)
    std = (torch.as_tensor(squares / n) - mean.square()).clamp(min=0).sqrt()
    return mean.tolist(), std.tolist()
