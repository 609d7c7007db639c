"""A recipe built: text encoder, latents and denoiser in one module."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import nn

from fromnoise.denoise import Denoiser
from fromnoise.process import LossVariance
from fromnoise.recipe import Recipe
from fromnoise.text import Tokenizer
from fromnoise.types import UserError

NET = "denoiser.net."  # how the names of the network's weights begin


class System(nn.Module):
    """Everything that has weights.  The same recipe, tokenizer and seed give the same initial weights."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer):
        super().__init__()
        self.recipe = recipe
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.latents = recipe.latents.build(recipe.data.channels)
            self.text = recipe.text.build(tokenizer)
            net = recipe.net.build(self.latents.channels, recipe.text.width, recipe.text.pooled_width)
        told = recipe.net.image_channels
        if recipe.train.self_conditioning and told != self.latents.channels:
            raise UserError(f"train.self_conditioning tells the network {self.latents.channels} channels beside those "
                            f"of x, and net.image_channels is {told}.")
        self.denoiser = Denoiser(net, recipe.path, recipe.objective.prediction)
        # Only training uses it, but it is learned, averaged, saved and resumed as every other weight.
        self.variance = LossVariance() if recipe.objective.learned_variance else None

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Latent size of media of ``height`` x ``width``; UserError where the network cannot take it."""
        multiple = self.recipe.net.multiple * self.latents.factor
        if height < 1 or width < 1 or height % multiple or width % multiple:
            raise UserError(f"A picture of {width}x{height} does not fit this model: both sides must be "
                            f"multiples of {multiple} pixels.")
        return height // self.latents.factor, width // self.latents.factor


def resolve_device(name: str) -> torch.device:
    """The device asked for, or with "auto" the best there is; UserError where it is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f'"{name}" is not a device: use cpu, cuda, cuda:0, mps or auto.') from None
    there = {"cpu": lambda: device.index in (None, 0),
             "cuda": lambda: torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
             "mps": torch.backends.mps.is_available}
    if device.type not in there or not there[device.type]():
        raise UserError(f'There is no device "{name}" on this machine: use auto or cpu '
                        "(`fromnoise doctor` lists what is there).")
    return device


def autocast(device: torch.device, precision: str):
    """The autocast context of a run: bfloat16 where asked for, or by itself on GPUs that have it."""
    bfloat16 = precision == "bfloat16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported())
    return torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext()  # a disabled one costs time
