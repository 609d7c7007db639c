"""A solver fitted to a world: its next frame in one to four looks of the network, near to where many would end.

    asked     what was seen of recorded frames, as a dream remembers them, and what was done up to the one that is made
    answered  where many looks take noise from there (the teacher of ``sample.tune``)

Paths of a model that is given nothing are other paths: there a frame is a guess among all there are, and here it is
nearly known, so that its paths are nearly straight.  Each has a past of its own, a held-out window of the recording.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from fromnoise.blocks import Cache
from fromnoise.data.episodes import Episodes
from fromnoise.generate.solvers import TUNING
from fromnoise.nets import Trunk
from fromnoise.random import HISTORY, fold, sample_noise
from fromnoise.recipe import Recipe
from fromnoise.sample import Tuned
from fromnoise.sample import tune as fitted
from fromnoise.system import autocast
from fromnoise.types import Batch, Condition, Source, UserError
from fromnoise.worlds.dream import Dream, expanded


def is_world(recipe: Recipe) -> bool:
    """Whether what a recipe makes are next frames of a recording, which nothing but those before them tells of."""
    causal = isinstance(recipe.net, Trunk) and recipe.net.causal
    return isinstance(recipe.data, Episodes) and (causal or recipe.net.reads_actions)


@dataclass(frozen=True)
class Moment:
    """What next frames are asked with: what is told of them, what was seen before, and the number ``[B]`` of each."""

    told: Condition
    past: Cache
    rows: Tensor

    def map(self, f: Callable[[Tensor], Tensor]) -> Moment:
        return Moment(self.told.map(f), self.past.map(f, len(self.rows)), f(self.rows))


def tune(dream: Dream, nfe: int, *, samples: int = 192, seed: int = 0, batch: int = 32, teacher: int = 24,
         teleport: bool = False, **choices: Any) -> Tuned:
    """A solver of ``nfe`` looks fitted to the next frames of a world, as ``dream`` asks for them; see ``sample.tune``.

    Its history, guidance on actions and context are those of the dream.  samples: paths, each from a held-out window
    of the recording, a quarter of them to judge on;  teleport: may begin with a jump by the law of all frames, which
    knows nothing of those before;  choices: those of ``sample.tune``.  UserError where the recording is not there, and
    for a network that is told its last frames as channels.
    """
    model = dream.model
    if model.recipe.net.told_frames:
        raise UserError("A solver is tuned on what a trunk has seen, and this network is told its last frames "
                        "(net.told_frames): take a solver by name.")
    denoiser, device = model.system.denoiser, model.system.device
    with torch.no_grad(), autocast(device, model.recipe.train.precision):
        moments = remembered(dream, windows(cast(Episodes, model.recipe.data), samples), seed, batch)

    def denoise(x: Tensor, t: Tensor, moment: Moment) -> Tensor:
        d = denoiser(x, t, moment.told, cache=moment.past).float()
        if dream.guidance == 1:
            return d
        w = denoiser(x, t, replace(moment.told, actions=None), cache=moment.past).float()
        return w + dream.guidance * (d - w)

    noise = sample_noise((samples, 1, *dream.shape), seed, TUNING).to(device)
    with autocast(device, model.recipe.train.precision):
        tuned = fitted(denoise, model.recipe.path, nfe=nfe, noise=noise, condition=moments, seed=seed, batch=batch,
                       teacher=teacher, teleport=teleport, **choices)
    return replace(tuned, action_guidance=dream.guidance, history=dream.history)


def windows(data: Episodes, count: int) -> Batch:
    """So many held-out windows, evenly over the recording, some of them twice where there are fewer."""
    source: Source = data.open("test")
    chosen = torch.linspace(0, len(source) - 1, count).round().long().tolist()
    return source.batch(chosen, range(count))


def remembered(dream: Dream, recorded: Batch, seed: int, batch: int) -> Moment:
    """The moments before the last frames of the windows, their history seen at its noise level, ``batch`` at a time."""
    system, parts = dream.model.system, []
    media, acted = recorded.media[:, -dream.context - 1 : -1], None
    one = dream.condition.map(torch.clone)  # which unlike those of a dream may be part of a gradient
    if dream.actions is not None and recorded.actions is not None:
        acted = recorded.actions[:, -dream.context - 1 :].to(system.device)
    for rows in torch.arange(len(media)).split(batch):
        told = expanded(one, len(rows))
        latents = system.encode(media[rows].to(system.device)).mean
        eps = sample_noise(latents.shape, int(fold(seed, HISTORY)), TUNING + int(rows[0]))
        seen = dream.model.recipe.path.add_noise(latents, eps.to(latents), dream.level.to(latents))
        parts.append(cache := Cache())
        system.denoiser.output(seen if dream.history else latents, dream.level,
                               replace(told, actions=None if acted is None else acted[rows, :-1]), cache=cache)
        cache.hold = False
    told = replace(expanded(one, len(media)), actions=None if acted is None else acted[:, -1:])
    return Moment(told, Cache.cat(parts), torch.arange(len(media), device=system.device))
