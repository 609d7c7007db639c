"""The extra terms of a run's loss: what they listen to, what is learned for them, and what they say."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fromnoise.nets import Tap, TrunkNet, tap_count
from fromnoise.random import TERMS as STREAM
from fromnoise.random import fold
from fromnoise.recipe import TERMS
from fromnoise.system import System
from fromnoise.terms import Projector, Repa, Step
from fromnoise.train.checkpoint import optimizer_tensors, restore_optimizers
from fromnoise.train.optim import build_optimizers
from fromnoise.train.teachers import open_teacher
from fromnoise.types import UserError


class Terms:
    """The terms of a recipe whose weight is not 0.

    specs: by name;  blocks: for some, the number of the block of the network that they are about;  aligned: what REPA
    needs.
    """

    def __init__(self, system: System):
        train = system.recipe.train
        self.net = system.denoiser.net
        self.specs = {name: spec for name in TERMS if (spec := getattr(train, name)).weight}
        self.blocks = {name: spec.place(tap_count(self.net)) for name, spec in self.specs.items()
                       if hasattr(spec, "place")}
        for name, block in self.blocks.items():
            if isinstance(self.net, TrunkNet) and self.net.detour is not None and self.net.detour.holds(block):
                raise UserError(f"train.{name}.block {block} is one that net.routing leaves out patches of: name one "
                                "before or after those.")
        if "repa" in self.specs and system.recipe.latent and system.recipe.encoding.cached:
            raise UserError("REPA's teacher looks at pictures, and those of a latent run are encoded once: set "
                            "train.repa.weight to 0, or encode in every step (--encoding.no-cached).")
        if "direction" in self.specs and system.latents.channels == 1:
            raise UserError("train.direction.weight needs more than one channel: of one, a direction is only a sign.")
        self.aligned = Aligned(system, train.repa, self.blocks["repa"]) if "repa" in self.specs else None

    def listen(self) -> Tap:
        """Around the network's run, of which ``parts`` is told."""
        return Tap(self.net, set(self.blocks.values()))

    def parts(self, step: Step, media: Tensor, tap: Tap) -> dict[str, Tensor]:
        """What each term says of a step, by name; ``media`` is the clean picture."""
        said = {}
        for name, spec in self.specs.items():
            if name not in self.blocks:
                said[name] = spec.loss(step)
                continue
            features = tap.features(self.blocks[name], step.x)
            said[name] = spec.loss(features) if self.aligned is None or name != "repa" else self.aligned.loss(
                features, media)
        return said

    def weighed(self, loss: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """The loss with all terms; without terms, itself."""
        for name, part in parts.items():
            loss = loss + self.specs[name].weight * part
        return loss


class Aligned:
    """REPA's teacher and its projector, which is learned with the network by optimisers of its own.

    The projector is no part of the model: it is not averaged and not in model.safetensors, but in checkpoints.
    """

    def __init__(self, system: System, spec: Repa, block: int):
        self.spec, self.teacher, self.spans = spec, open_teacher(spec.teacher, system), system.latents.spans
        inside, outside = self.look(system, block)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(fold(system.recipe.seed, STREAM)))
            self.projector: Projector = spec.build(inside, outside).to(system.device)
        self.clip = system.recipe.train.optimizer.clip
        self.optimizers = build_optimizers(self.projector, system.recipe.train.optimizer)
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]

    @torch.no_grad()
    def look(self, system: System, block: int) -> tuple[int, int]:
        """Features of the block and of the teacher, as a blank picture has them."""
        data = system.recipe.data
        media = torch.zeros(1, data.frames, data.channels, data.height, data.width, device=system.device)
        x, condition = system.encode(media).mean, system.text.encode([""])
        if system.recipe.train.self_conditioning:
            condition = replace(condition, image=torch.zeros_like(x))
        with Tap(system.denoiser.net, {block}) as tap:
            system.denoiser.output(x, torch.ones(1, 1, device=x.device), condition)
        return tap.features(block, x).shape[2], self.teacher(media).shape[2]

    def loss(self, features: Tensor, media: Tensor) -> Tensor:
        """Minus the cosine between the projected ``features`` and those of the teacher at ``media``."""
        if not media.numel():
            raise UserError("REPA's teacher looks at pictures, and these batches hold latents that were encoded "
                            "before: set train.repa.weight to 0, or encode in every step (--encoding.no-cached).")
        self.projector.zero_grad(set_to_none=True)  # of a trial step, which nothing followed
        return self.spec.loss(self.projector(features), self.taught(media))

    def taught(self, media: Tensor) -> Tensor:
        """What the teacher says of the last frame of those that each latent frame stands for."""
        features, ends = self.teacher(media), [span[-1] for span in self.spans(media.shape[1])]
        return features if features.shape[1] == len(ends) else features[:, ends]

    def follow(self, rate: float) -> None:
        """One step of the projector, whose gradients came with those of the network."""
        torch.nn.utils.clip_grad_norm_(self.projector.parameters(), self.clip)
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, lr in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = lr * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        weights = {f"projector.{name}": value for name, value in self.projector.state_dict().items()}
        return weights | {f"optimizer.{name}": value for name, value in optimizer_tensors(self.optimizers).items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up what ``tensors`` gave."""
        self.projector.load_state_dict(below("projector.", tensors))
        restore_optimizers(self.optimizers, below("optimizer.", tensors))


def below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
