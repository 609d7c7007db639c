"""The other side of adversarial training: a discriminator with an optimiser of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fromnoise.latents.reconstruction import Adversary
from fromnoise.perception.patchgan import PatchGAN, forger_loss, judge_loss, r1
from fromnoise.train.checkpoint import optimizer_tensors, restore_optimizers

MOST = 1e4  # largest factor that the ratio of gradients may give


class Discriminator:
    """A PatchGAN in training.  It is saved and resumed with the run, and neither averaged nor part of the model."""

    def __init__(self, spec: Adversary, channels: int, seed: int, device: torch.device):
        self.spec = spec
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = PatchGAN(channels * spec.frames, spec.width, spec.depth).to(device).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=spec.lr, betas=(0.5, 0.9), weight_decay=0.0)

    def fool(self, made: Tensor) -> Tensor:
        """What the autoencoder minimises; the discriminator gets no gradient of it."""
        return forger_loss(self.net(made), self.spec.game)

    def learn(self, real: Tensor, made: Tensor, rate: float) -> Tensor:
        """One update on pictures ``[n, C, H, W]``, or ``windows`` of films; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.spec.lr * rate
        self.net.requires_grad_(True)
        loss = judge_loss(self.net(real), self.net(made), self.spec.game)
        (loss + self.spec.r1 * r1(self.net, real) if self.spec.r1 else loss).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.net.requires_grad_(False)
        return loss.detach()

    def tensors(self) -> dict[str, Tensor]:
        """Weights and optimiser state, by name."""
        weights = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        return weights | {f"optimizer.{name}": value for name, value in optimizer_tensors([self.optimizer]).items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up what ``tensors`` gave."""
        self.net.load_state_dict(below(tensors, "net."))
        restore_optimizers([self.optimizer], below(tensors, "optimizer."))


def windows(media: Tensor, frames: int) -> Tensor:
    """All runs of ``frames`` frames of media ``[B, T, C, H, W]``, each laid into channels: ``[n, frames C, H, W]``."""
    runs = media.shape[1] - frames + 1
    return torch.cat([media[:, i : i + runs] for i in range(frames)], dim=2).flatten(0, 1)


def below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def last_layer(latents: Any) -> nn.Parameter:
    """The weights from which the pictures come: the last matrix or convolution of the decoder."""
    decoder: nn.Module = getattr(latents, "decoder", latents)
    return [p for p in decoder.parameters() if p.requires_grad and p.ndim > 1][-1]


def balance(rest: Tensor, fooling: Tensor, layer: nn.Parameter) -> Tensor:
    """|grad of the rest| / |grad of fooling| at a layer (Esser et al. 2021, eq. 7): then both pull as hard there."""
    pulls = [torch.autograd.grad(loss, layer, retain_graph=True)[0].norm() for loss in (rest, fooling)]
    return (pulls[0] / (pulls[1] + 1e-4)).clamp(0, MOST).detach()
