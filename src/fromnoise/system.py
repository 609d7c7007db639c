"""A recipe built: text encoder, latents and denoiser in one module."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from fromnoise.denoise import Denoiser
from fromnoise.process import LossVariance
from fromnoise.recipe import Recipe, load_recipe
from fromnoise.text import Tokenizer
from fromnoise.types import UserError
from fromnoise.weights import load_weights


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
        told = getattr(recipe.net, "image_channels", 0)
        if recipe.train.self_conditioning and told != self.latents.channels:
            raise UserError(f"train.self_conditioning tells the network {self.latents.channels} channels beside those "
                            f"of x, and net.image_channels is {told}"
                            + ("." if hasattr(recipe.net, "image_channels") else
                               f' (net "{recipe.net.kind}" has none: choose unet or trunk).'))
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


def load_system(run: str | Path, device: str = "auto") -> tuple[System, int, tuple[str, ...]]:
    """(the system of a run folder with its averaged weights, steps, words of its captions).

    UserError for a folder that is missing, has no weights, is damaged or comes from a newer version.
    """
    recipe = load_recipe(run_recipe(run))
    tensors, tokenizer, step, words = load_weights(Path(run))
    system = System(recipe, recipe.text.load_tokenizer(tokenizer))
    if wrong := mismatch({k: v.shape for k, v in system.state_dict().items()}, tensors):
        raise UserError(f"The weights in {run} do not belong to its recipe: {wrong}.")
    system.load_state_dict(tensors)
    return system.to(resolve_device(device)), step, words


def run_recipe(run: str | Path) -> Path:
    """The recipe.json of a run folder; UserError where there is none."""
    path = Path(run) / "recipe.json"
    if not path.is_file():
        raise UserError(f"{run} is not a run folder (it has no recipe.json): give the folder that "
                        "`fromnoise train` wrote.")
    return path


def mismatch(expected: dict[str, torch.Size], tensors: dict[str, Tensor]) -> str:
    """What is first wrong between the weights a recipe calls for and those of a file, or an empty string."""
    for name, shape in expected.items():
        if name not in tensors:
            return f"{name} is missing"
        if tensors[name].shape != shape:
            return f"{name} has shape {tuple(tensors[name].shape)} instead of {tuple(shape)}"
    return next((f"{name} has no place in it" for name in tensors if name not in expected), "")


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
