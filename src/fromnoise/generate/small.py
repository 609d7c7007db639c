"""Small pictures that a model enlarges, in a later stage of a cascade: what it is given, and what it is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fromnoise.process import Upsampling
from fromnoise.random import AUGMENT, fold, sample_noise
from fromnoise.settings import Noise, Settings, as_numbers
from fromnoise.types import UserError

if TYPE_CHECKING:
    from fromnoise.generate.model import Model


def small_pictures(model: Model, image: Noise | None, settings: Settings) -> Tensor | None:
    """The small picture of every prompt, ``[B, T, C, h, w]``; None for a model that makes pictures of noise alone.

    UserError where there is none and should be one, or the other way round, or it does not fit.
    """
    who = model.run or "This model"
    if not model.enlarges:
        if image is not None:
            raise UserError(f"{who} makes pictures of noise alone and cannot enlarge one: "
                            "name a run that was trained with upsample.factor.")
        return None
    if image is None:
        raise UserError(f"{who} enlarges pictures: give it one with --image, or name it with --then behind the run "
                        "that makes them (in Python, as image).")
    media, data, (H, W) = as_numbers(image, "image"), model.recipe.data, settings.size
    h, w = H // model.recipe.upsample.factor, W // model.recipe.upsample.factor
    if media.ndim != 5 or len(media) not in (1, len(settings.prompts)):
        raise UserError(f"image must be [B, T, C, h, w] with one small picture, or one for each of the "
                        f"{len(settings.prompts)} prompts (got {list(media.shape)}).")
    if tuple(media.shape[1:]) != (settings.frames, data.channels, h, w):
        found = f"{media.shape[-1]}x{media.shape[-2]} in {media.shape[2]} channels"
        raise UserError(f"{who} makes pictures of {W}x{H} from those of {w}x{h} in {data.channels} channels, and here "
                        f"they are of {found}: make them of that size, or ask for "
                        f"{media.shape[-1] * (W // w)}x{media.shape[-2] * (H // h)} with --size.")
    return media.expand(len(settings.prompts), -1, -1, -1, -1)


def noisy(small: Tensor, upsample: Upsampling, settings: Settings) -> Tensor:
    """What the network is told of the small pictures of a batch."""
    eps = sample_noise(small.shape, int(fold(settings.stream, AUGMENT)), settings.first)
    return upsample.told(small, torch.full((1, 1), settings.augment), eps)


def check_augment(upsample: Upsampling, level: float) -> None:
    """UserError for noise on small pictures that was not met in training, or where there are none."""
    enlarges = upsample.factor > 1
    most = upsample.noise if enlarges else 0.0
    if level > most:
        why = f"upsample.noise is {most:g}" if enlarges else "it makes pictures of noise alone"
        raise UserError(f"augment {level:g} is more noise on small pictures than this model has met in training: "
                        f"{why}.")
