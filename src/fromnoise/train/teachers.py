"""Frozen networks whose features a network in training is aligned with (REPA).

A teacher takes clean media ``[B, T, C, H, W]`` in [-1, 1] to features ``[B, T, F, h, w]``, on a grid of its own.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fromnoise.blocks import feature_maps
from fromnoise.folders import whereabouts
from fromnoise.nets import Tap, tap_count
from fromnoise.random import sample_noise
from fromnoise.system import System, load_system
from fromnoise.terms import Hub, Run, Teacher, block_number
from fromnoise.types import UserError

Features = Callable[[Tensor], Tensor]


def open_teacher(spec: Teacher, student: System) -> Features:
    """The teacher of a student, on its device.  UserError where it cannot be had or cannot see the student's data."""
    return RunTeacher(spec, student) if isinstance(spec, Run) else HubTeacher(spec, student)


class RunTeacher:
    """A run's averaged network: the features of a block, at a picture with a little noise and without a caption.

    The noise of the n-th picture of a batch is always the same.
    """

    def __init__(self, spec: Run, student: System):
        system, _, _ = load_system(spec.run, str(student.device))
        if not isinstance(system, System):
            raise UserError(f"{spec.run} holds an autoencoder, which cannot teach: name a run of a diffusion model.")
        self.system = system.requires_grad_(False).eval()
        if self.system.recipe.upsample.factor > 1:
            raise UserError(f"{spec.run} enlarges small pictures, and a teacher is shown none: name another run.")
        data, net = student.recipe.data, self.system.denoiser.net
        if (channels := self.system.recipe.data.channels) != data.channels:
            raise UserError(f"{spec.run} cannot teach this run: its pictures have {channels} channels.")
        self.system.latent_size(data.height, data.width)
        self.block = block_number(spec.block, tap_count(net), "train.repa.teacher.block")
        self.time = torch.tensor(spec.time, device=student.device)

    @torch.no_grad()
    def __call__(self, media: Tensor) -> Tensor:
        denoiser, recipe = self.system.denoiser, self.system.recipe
        x0 = self.system.encode(media).mean
        t = self.time.expand(x0.shape[:2])
        x = recipe.path.add_noise(x0, sample_noise(x0.shape, 0).to(x0), t)
        condition = self.system.text.encode([""] * len(x))
        if recipe.train.self_conditioning:
            condition = replace(condition, image=torch.zeros_like(x))
        with Tap(denoiser.net, {self.block}) as tap:
            denoiser.output(x, t, condition)
        return tap.features(self.block, x)


class HubTeacher:
    """The patches of a vision transformer of transformers, after its last norm.

    Pictures are scaled so that their shorter side is the one that it was trained with, and both are whole patches.
    """

    def __init__(self, spec: Hub, student: System):
        self.name = spec.model
        model, (mean, std) = load_vision(spec.model), normalisation(spec.model)
        self.model = model.requires_grad_(False).eval().to(student.device)
        self.mean, self.std = (torch.tensor(v, device=student.device)[:, None, None] for v in (mean, std))
        self.patch, self.side = model.config.patch_size, model.config.image_size
        told = inspect.signature(model.forward).parameters
        self.flexible = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in told else {}
        self.unmasked = "noise" in told  # ViT-MAE hides patches and shuffles them unless it is told otherwise

    @torch.no_grad()
    def __call__(self, media: Tensor) -> Tensor:
        pixels = self.prepare(media.flatten(0, 1))
        grid = (pixels.shape[-2] // self.patch, pixels.shape[-1] // self.patch)
        places = grid[0] * grid[1]
        order = {"noise": torch.arange(places, device=pixels.device).expand(len(pixels), -1)} if self.unmasked else {}
        hidden = self.model(pixels, **self.flexible, **order).last_hidden_state
        # Class and register tokens, where there are any, come first.
        return feature_maps(hidden[:, -places:], (1, *grid)).reshape(*media.shape[:2], -1, *grid)

    def prepare(self, images: Tensor) -> Tensor:
        """Images ``[n, C, H, W]`` in [-1, 1] as the network was shown them."""
        H, W = images.shape[-2:]
        scale = self.side / min(H, W)
        size = [max(1, round(n * scale / self.patch)) * self.patch for n in (H, W)]
        images = images.expand(-1, 3, -1, -1)
        if size != [H, W]:
            images = F.interpolate(images, size, mode="bicubic", antialias=True)
        return ((images.clamp(-1, 1) + 1) / 2 - self.mean) / self.std


def load_vision(name: str) -> Any:
    """The vision transformer in a folder, or of a name on the hub.  UserError where it cannot be had."""
    try:
        from transformers import AutoModel
    except ImportError:
        raise UserError("A teacher of the hub needs transformers: pip install 'fromnoise[features]'.") from None
    try:
        model = AutoModel.from_pretrained(name, use_safetensors=True, **whereabouts(name))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise missing(name, error) from None
    model = getattr(model, "vision_model", model)  # SigLIP has a model of text beside it
    if not hasattr(model.config, "patch_size"):
        raise UserError(f"{name} cannot be a teacher: it is no vision transformer.")
    if hasattr(model.config, "mask_ratio"):
        model.config.mask_ratio = 0.0
    return model


def normalisation(name: str) -> tuple[list[float], list[float]]:
    """(mean, standard deviation) of each channel of pictures in [0, 1], by its preprocessor_config.json."""
    from transformers.utils.hub import cached_file

    try:
        path = cached_file(name, "preprocessor_config.json", **whereabouts(name))  # type: ignore[arg-type]
        config = json.loads(Path(str(path)).read_text(encoding="utf-8"))
        return config["image_mean"], config["image_std"]
    except (OSError, ValueError, KeyError) as error:
        raise missing(name, error) from None


def missing(name: str, error: Exception) -> UserError:
    """What to do about a teacher that cannot be loaded."""
    return UserError(f"The teacher {name} cannot be had: {' '.join(str(error).split())[:200]}. Go online once, or name "
                     "a folder that holds it (train.repa.teacher.model).")
