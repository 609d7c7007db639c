"""Training by denoising: the loss of one batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fromnoise.nets import Trunk
from fromnoise.nets.trunk import MaskDiT, NoRouting, Route, foretelling
from fromnoise.random import (
    ACTIONS,
    AUGMENT,
    DROP,
    HISTORY,
    NOISE,
    POSTERIOR,
    ROUTE,
    SELF,
    TASKS,
    fold,
    generator,
    uniforms,
)
from fromnoise.recipe import Recipe
from fromnoise.system import System
from fromnoise.terms import Step
from fromnoise.train.methods.end_to_end import EndToEndCoder, settled
from fromnoise.train.methods.method import Method
from fromnoise.train.terms import Terms
from fromnoise.types import Batch, Condition, Source, UserError


class Diffusion(Method):
    """E |prediction(x_t, t, text) - target|^2 with x_t = alpha x0 + sigma eps.

    Frames that are given (``process/frames.py``) have t = 0 and are left out of the loss.
    All randomness of a step is drawn for the whole batch from (seed, step), so that it is the same
    before and after a resume.  The terms of the recipe are added (``train/terms.py``).
    """

    system: System

    def __init__(self, system: System):
        super().__init__(system)
        net, frames = system.recipe.net, system.recipe.train.frames
        if frames.given and isinstance(net, Trunk) and isinstance(net.routing, MaskDiT):
            raise UserError("net.routing maskdit learns from the patches that it leaves out, which may be those of a "
                            "given frame: choose tread or sprint, or set the shares of train.frames to 0.")
        self.told = net.told_frames > 0  # then every frame is given those before it
        self.frames = frames.ungiven() if self.told else frames
        self.terms = Terms(system)
        self.outcomes = getattr(system.denoiser.net, "outcomes", None)
        self.coder = EndToEndCoder(system) if system.recipe.joint else None
        self.said: dict[int, dict[str, Tensor]] = {}  # by step, since they were last asked for

    @classmethod
    def settled(cls, recipe: Recipe) -> Recipe:
        """The recipe with the network that an autoencoder's own loss looks through decided."""
        return settled(recipe) if recipe.joint else recipe

    def loss(self, batch: Batch, seed: int, step: int) -> Tensor:
        """The scalar loss of a batch whose media lie on the system's device."""
        recipe, denoiser = self.system.recipe, self.system.denoiser
        device = batch.media.device
        condition = self.with_rate(self.system.text.encode(self.drop(batch.text, seed, step)), batch)
        condition = self.with_actions(condition, batch, seed, step)
        x0 = self.clean(batch, seed, step)
        random = generator(seed, NOISE, step)
        clocks = self.frames.clocks(recipe.objective, recipe.path, *x0.shape[:2], random,
                                    generator(seed, TASKS, step)).to(device)
        t = clocks.t
        eps = torch.randn(x0.shape, generator=random).to(device, non_blocking=True)
        x = recipe.path.add_noise(x0, eps, t).requires_grad_(self.coder is not None)
        condition = self.with_small(batch.media, condition, seed, step)
        condition = self.with_past(x0, condition, seed, step)
        condition = self.with_estimate(x, t, condition, seed, step)
        route = self.route(x, seed, step)
        told = {} if route is None else {"route": route}
        with self.terms.listen() as tap, foretelling(self.outcomes) as foretold:
            output = denoiser.output(x, t, condition, **told)
        asked = clocks.of(t)
        losses = recipe.objective.losses(clocks.of(output), clocks.of(x0), clocks.of(eps), asked, recipe.path)
        if self.system.variance is not None:
            losses = self.system.variance.balance(losses, recipe.path.logsnr(asked))
        if route is not None and isinstance(recipe.net.routing, MaskDiT):  # type: ignore[union-attr]
            losses = recipe.net.routing.losses(losses, output, x, route, recipe.net.patch)  # type: ignore[union-attr]
        loss = losses.mean()
        outcomes = {}
        if foretold and batch.rewards is not None and batch.ends is not None:
            outcomes = foretold[0].losses(batch.rewards, batch.ends)
        if not self.terms.specs and not outcomes:
            return loss
        told = Step(output, x, x0, eps, t, recipe.path, recipe.objective, clocks.asked)
        parts = self.terms.parts(told, batch.media, tap)
        self.said[step] = {name: part.detach() for name, part in {"denoising": loss, **parts, **outcomes}.items()}
        loss = self.terms.weighed(loss, parts) + recipe.train.outcomes * sum(outcomes.values())
        if self.coder is None:
            return loss
        return loss + self.coder.loss(parts["repa"], x, eps, t, batch.media, step)

    def clean(self, batch: Batch, seed: int, step: int) -> Tensor:
        """x0 of a batch ``[B, T, C, h, w]``, without gradient."""
        if self.coder is not None:
            return self.coder.encode(batch.media, seed, step).detach()
        encoded = self.system.encode(batch.media) if batch.latents is None else batch.latents
        return encoded.draw(generator(seed, POSTERIOR, step))

    def apart(self) -> frozenset[str]:
        """The autoencoder, where it goes on learning."""
        return frozenset() if self.coder is None else self.coder.names

    def follow(self, rate: float) -> None:
        """A step of what is learned for the terms, and of the autoencoder."""
        if self.terms.aligned is not None:
            self.terms.aligned.follow(rate)
        if self.coder is not None:
            self.coder.follow(rate)

    def parts(self) -> dict[str, float]:
        """The means, since they were last asked for, of what the loss is made of; nothing without terms."""
        said, self.said = list(self.said.values()), {}
        found = {name: float(torch.stack([one[name] for one in said]).float().mean()) for name in (said or [{}])[0]}
        return found if self.coder is None else found | self.coder.parts()

    def tensors(self) -> dict[str, Tensor]:
        """What is learned for the terms and for the autoencoder, with its optimisers."""
        learned = (self.terms.aligned, self.coder)
        return {name: tensor for part in learned if part is not None for name, tensor in part.tensors().items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        for part in (self.terms.aligned, self.coder):
            if part is not None:
                part.restore(tensors)

    def conclude(self, out: Path, source: Source, step: int) -> bool:
        """Exact statistics of the latents of an autoencoder that went on learning, instead of running ones."""
        if self.coder is None:
            return False
        self.coder.conclude(source)
        return True

    def route(self, x: Tensor, seed: int, step: int) -> Route | None:
        """Which patches go through the routed blocks in this step; None where all go through all."""
        net, steps = self.system.recipe.net, self.system.recipe.train.steps
        if not isinstance(net, Trunk) or isinstance(net.routing, NoRouting) or step >= net.routing.until * steps:
            return None
        patches = x.shape[1] * (x.shape[3] // net.patch) * (x.shape[4] // net.patch)
        return net.routing.draw(len(x), patches, generator(seed, ROUTE, step)).to(x.device)

    def with_rate(self, condition: Condition, batch: Batch) -> Condition:
        """With the frames a second of films: those of the batch, or of all the data where it does not say."""
        fps = self.system.recipe.fps
        if batch.fps is None and not fps:
            return condition
        return replace(condition, fps=batch.media.new_full((len(batch),), fps) if batch.fps is None else batch.fps)

    def with_actions(self, condition: Condition, batch: Batch, seed: int, step: int) -> Condition:
        """With the actions of episodes, some of which are dropped so that what comes without them is learned too."""
        recipe, actions = self.system.recipe, batch.actions
        if actions is None or recipe.acts is None or not recipe.net.reads_actions:
            return condition
        keys = fold(seed, ACTIONS, step, range(len(batch)))
        dropped = torch.from_numpy(uniforms(keys, actions.shape[1]) < recipe.train.action_dropout)
        return replace(condition, actions=recipe.acts.silence(actions, dropped.to(actions.device)))

    def with_past(self, x0: Tensor, condition: Condition, seed: int, step: int) -> Condition:
        """With the true frames as those that each is told before it, at a noise level of each example: teacher forcing.

        The noise is that of world models that are to survive what they made themselves (GameNGen, Valevski et al. 2024;
        Diffusion Forcing, Chen et al. 2024).
        """
        if not self.told:
            return condition
        denoiser, random = self.system.denoiser, generator(seed, HISTORY, step)
        level = self.frames.noise * torch.rand(len(x0), 1, generator=random).to(x0)
        eps = torch.randn(x0.shape, generator=random).to(x0)
        t = denoiser.clock(x0, level)
        return replace(condition, past=denoiser.shown(denoiser.path.add_noise(x0, eps, t), t), past_t=t)

    def with_small(self, media: Tensor, condition: Condition, seed: int, step: int) -> Condition:
        """In a stage of a cascade, the small pictures of the media, each with noise of a level of its own."""
        upsample = self.system.recipe.upsample
        if upsample.factor == 1:
            return condition
        small, random = upsample.shrink(media), generator(seed, AUGMENT, step)
        level, eps = upsample.levels(len(media), random), torch.randn(small.shape, generator=random)
        return replace(condition, image=upsample.told(small, level.to(small), eps.to(small)))

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
