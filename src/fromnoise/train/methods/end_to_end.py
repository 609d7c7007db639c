"""REPA-E: the autoencoder of a latent diffusion model in training beside the network (``latents/end_to_end.py``)."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fromnoise.random import POSTERIOR, generator
from fromnoise.recipe import Coder, Recipe, Schedule
from fromnoise.system import Coding, System
from fromnoise.train.checkpoint import optimizer_tensors, restore_optimizers
from fromnoise.train.methods.adversary import below
from fromnoise.train.methods.reconstruction import Reconstruct, statistics
from fromnoise.types import Source

EPS = 1e-5  # of the batch norm


class EndToEndCoder:
    """The autoencoder, its own loss, and an optimiser of its own.

    It is part of the system: averaged, saved and resumed with it.  Of one step ``encode`` comes first, then ``loss``,
    and after the gradients ``follow``.
    """

    def __init__(self, system: System):
        recipe = system.recipe
        self.spec, self.path, self.clip = recipe.train.end_to_end, recipe.path, recipe.train.optimizer.clip
        self.latents = system.latents
        coder = Coder(name=recipe.name, data=recipe.data, latents=recipe.latents, loss=self.spec.loss,
                      train=Schedule(steps=recipe.train.steps), seed=recipe.seed)
        self.reconstruct = Reconstruct(Coding(coder, self.latents))
        self.parameters = [p for p in self.latents.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=self.spec.lr, betas=recipe.train.optimizer.betas,
                                           weight_decay=0.0, fused=True)
        self.names = frozenset(name for name in system.learned() if name.startswith("latents."))

    def encode(self, media: Tensor, seed: int, step: int) -> Tensor:
        """Latents ``[B, T, c, h, w]``, draws of a distribution, normalised by their batch; with gradient."""
        with torch.autocast(media.device.type, enabled=False):
            self.coded = self.reconstruct.code(media, generator(seed, POSTERIOR, step))
            self.x0 = F.batch_norm(self.coded.latents.flatten(0, 1), None, None, training=True, eps=EPS).unflatten(
                0, media.shape[:2])
        return self.x0

    def loss(self, alignment: Tensor, x: Tensor, eps: Tensor, t: Tensor, media: Tensor, step: int) -> Tensor:
        """The autoencoder's own loss, and nothing in the value but all in the gradient: that of the ``alignment``.

        x: what the network was shown, cut off from the autoencoder, so that nothing else comes through.
        """
        for p in self.parameters:  # of a trial step, which nothing followed
            p.grad = None
        with torch.autocast(media.device.type, enabled=False):
            own = self.reconstruct.compared(media, self.coded, step)
        if not self.spec.alignment_weight:
            return own
        (pull,) = torch.autograd.grad(alignment, x, retain_graph=True)
        through = (pull * self.path.add_noise(self.x0, eps, t)).sum()
        return own + self.spec.alignment_weight * (through - through.detach())

    def follow(self, rate: float) -> None:
        """One step of the autoencoder, and of the running statistics of its latents."""
        torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.spec.lr * rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.reconstruct.follow(rate)
        values = self.coded.latents.detach().movedim(2, 0).flatten(1)
        variance, mean = torch.var_mean(values, 1)
        self.move(mean, variance.sqrt(), self.spec.momentum)

    @torch.no_grad()
    def move(self, mean: Tensor, std: Tensor, share: float) -> None:
        """The statistics go a share of the way to those at which latents of ``mean`` and ``std`` have 0 and 1.

        Of squares, not of standard deviations, the running one is the mean, as in batch norm.
        """
        old_mean, old_std = self.latents.mean.clone(), self.latents.std.clone()
        self.latents.mean.lerp_(old_mean + old_std * mean, share)
        self.latents.std.copy_(old_std.square().lerp((old_std * std).square(), share).sqrt())

    def conclude(self, source: Source) -> None:
        """Statistics of the latents of training pictures in the place of running ones."""
        measured = statistics(self.reconstruct.system, source)
        mean, std = (torch.tensor(values, device=self.latents.mean.device) for values in measured)
        self.move(mean, std, 1.0)

    def parts(self) -> dict[str, float]:
        """What its own loss was last made of, by name."""
        return {f"autoencoder.{name}": value for name, value in self.reconstruct.parts().items()}

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs beside the weights."""
        own = {f"coder.{name}": value for name, value in self.reconstruct.tensors().items()}
        return own | {f"coder_optimizer.{name}": v for name, v in optimizer_tensors([self.optimizer]).items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up what ``tensors`` gave."""
        self.reconstruct.restore(below(tensors, "coder."))
        restore_optimizers([self.optimizer], below(tensors, "coder_optimizer."))


def settled(recipe: Recipe) -> Recipe:
    """The recipe with the network of the perceptual distance that there is."""
    coder = Coder(name=recipe.name, data=recipe.data, latents=recipe.latents, loss=recipe.train.end_to_end.loss)
    together = replace(recipe.train.end_to_end, loss=Reconstruct.settled(coder).loss)
    return replace(recipe, train=replace(recipe.train, end_to_end=together))
