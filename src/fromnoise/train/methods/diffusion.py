"""Training by denoising: the loss of one batch."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fromnoise.nets import Trunk
from fromnoise.nets.trunk import MaskDiT, NoRouting, Route
from fromnoise.random import DROP, NOISE, ROUTE, SELF, fold, generator, uniforms
from fromnoise.system import System
from fromnoise.types import Batch, Condition


class Diffusion:
    """E |prediction(x_t, t, text) - target|^2 with x_t = alpha x0 + sigma eps.

    All randomness of a step is drawn for the whole batch from (seed, step), so that it is the same
    before and after a resume.
    """

    def __init__(self, system: System):
        self.system = system

    def loss(self, batch: Batch, seed: int, step: int) -> Tensor:
        """The scalar loss of a batch whose media lie on the system's device."""
        recipe, denoiser = self.system.recipe, self.system.denoiser
        device = batch.media.device
        condition = self.system.text.encode(self.drop(batch.text, seed, step))
        with torch.no_grad():
            x0 = self.system.latents.encode(batch.media)
        random = generator(seed, NOISE, step)
        t = recipe.objective.draw_times(len(batch), recipe.path, random)[:, None].to(device, non_blocking=True)
        eps = torch.randn(x0.shape, generator=random).to(device, non_blocking=True)
        x = recipe.path.add_noise(x0, eps, t)
        route = self.route(x, seed, step)
        told = {} if route is None else {"route": route}
        output = denoiser.output(x, t, self.with_estimate(x, t, condition, seed, step), **told)
        losses = recipe.objective.losses(output, x0, eps, t, recipe.path)
        if self.system.variance is not None:
            losses = self.system.variance.balance(losses, recipe.path.logsnr(t))
        if route is not None and isinstance(recipe.net.routing, MaskDiT):  # type: ignore[union-attr]
            losses = recipe.net.routing.losses(losses, output, x, route, recipe.net.patch)  # type: ignore[union-attr]
        return losses.mean()

    def route(self, x: Tensor, seed: int, step: int) -> Route | None:
        """Which patches go through the routed blocks in this step; None where all go through all."""
        net, steps = self.system.recipe.net, self.system.recipe.train.steps
        if not isinstance(net, Trunk) or isinstance(net.routing, NoRouting) or step >= net.routing.until * steps:
            return None
        patches = x.shape[1] * (x.shape[3] // net.patch) * (x.shape[4] // net.patch)
        return net.routing.draw(len(x), patches, generator(seed, ROUTE, step)).to(x.device)

    def with_estimate(self, x: Tensor, t: Tensor, condition: Condition, seed: int, step: int) -> Condition:
        """With self-conditioning, zeros beside x, and in a share of the steps the network's own estimate of x0."""
        share = self.system.recipe.train.self_conditioning
        if not share:
            return condition
        condition = replace(condition, image=torch.zeros_like(x))
        if float(uniforms([int(fold(seed, SELF, step))], 1)[0, 0]) >= share:
            return condition
        with torch.no_grad():
            return replace(condition, image=self.system.denoiser(x, t, condition).to(x.dtype))

    def drop(self, texts: list[str], seed: int, step: int) -> list[str]:
        """Some captions replaced by the empty text, so that the unconditional model is learned too."""
        share = self.system.recipe.train.text_dropout
        dropped = uniforms([int(fold(seed, DROP, step))], len(texts))[0] < share
        return ["" if d else text for d, text in zip(dropped, texts, strict=True)]
