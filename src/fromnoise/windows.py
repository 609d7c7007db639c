"""Clips filled in window by window: given frames held, and rollouts far past the length of training.

A clip is a line of frames of which some are known.  A window is a stretch of it as long as those of training; what is
known in it is held, the rest is sampled, and is known from then on.  The next window begins so that it sees some of
these.  Sampling without given frames is one window with nothing known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fromnoise.actions import Doing, as_tensor
from fromnoise.denoise import Cached, Denoise, Held, acting
from fromnoise.given import Known
from fromnoise.machine import memory
from fromnoise.nets import Trunk
from fromnoise.nets.trunk import Learned, Relative
from fromnoise.random import HISTORY, fold, frame_noise
from fromnoise.sample import Autoregressive, Callback, FullSequence, SolveInfo, among, solve
from fromnoise.settings import Settings
from fromnoise.types import Condition, UserError


def windows(frames: int, length: int, overlap: int) -> list[range]:
    """Windows of ``length`` over so many frames, each ``overlap`` frames or more over the one before; one for 0."""
    if not overlap or frames <= length:
        return [range(frames)]
    starts = [*range(0, frames - length, length - overlap), frames - length]
    return [range(start, start + length) for start in starts]


@dataclass
class HistoryNoise:
    """The noise in which history is shown: of a frame always the same.  ``start``: the first frame of x."""

    seed: int
    first: int
    samples: int
    start: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        noise = frame_noise((self.samples, *x.shape[1:]), self.seed, self.first, self.start)
        return noise.repeat(len(x) // self.samples, 1, 1, 1, 1).to(x)


def usual_overlap(model: Any) -> int:
    """Half of the frames of training, or as many less as the autoencoder makes whole latents of; 1 at least."""
    frames = model.recipe.data.frames
    whole = [span.stop for span in model.system.latents.spans(frames)]
    return max([whole[0], *(count for count in whole if count <= frames // 2)])


def starting_noise(settings: Settings, shape: tuple[int, ...], length: int, overlap: int) -> Tensor | None:
    """Of a rollout, in which each frame has its own; None where one window is all."""
    if len(windows(shape[1], length, overlap)) == 1:
        return None
    return frame_noise(shape, settings.stream, settings.first)


def filled(model: Any, settings: Settings, noise: Tensor, known: Known | None, small: Tensor | None,
         callback: Callback | None) -> tuple[Tensor, SolveInfo]:
    """Latents ``[B, T, c, h, w]`` of one batch from their ``noise``, and how the solver went.

    model: a ``generate.Model``;  small: what the network is told of small pictures.
    """
    spans = windows(noise.shape[1], *model.window(settings))
    if len(spans) == 1:
        return Window(model, settings, spans[0], 0).solve(noise, known, small, callback)
    x = torch.zeros_like(noise) if known is None else known.values.to(noise).expand_as(noise).clone()
    mask = torch.zeros(len(x[0]), 1, 1, 1, dtype=torch.bool, device=x.device) if known is None else known.mask.clone()
    here, info = Known(x, mask), None
    for i, span in enumerate(spans):
        if bool(here.frames(span).mask.all()):
            continue
        told = None if small is None else small[:, span.start : span.stop]
        x[:, span.start : span.stop], info = Window(model, settings, span, i).solve(
            noise[:, span.start : span.stop], here.frames(span), told, callback)
        mask[span.start : span.stop] = True
    assert info is not None
    return x, info


@dataclass(frozen=True)
class Window:
    """A stretch of frames, the ``index``-th that is sampled."""

    model: Any
    settings: Settings
    span: range
    index: int

    def solve(self, noise: Tensor, known: Known | None, small: Tensor | None,
              callback: Callback | None) -> tuple[Tensor, SolveInfo]:
        """Its latents, as ``filled``."""
        settings, path = self.settings, self.model.recipe.path
        eps = HistoryNoise(int(fold(settings.stream, HISTORY)), settings.first, len(noise), self.span.start)
        doing, held = doing_of(self.model, settings, len(noise), self.span.start), self.held(known)

        def kept(net: Denoise) -> Denoise:
            return settings.keep.around(Cached(net, held) if held else net, path=path, eps=eps)

        around = partial(told_actions, self.model, settings, doing, kept)
        return self.run(self.model._told(settings, small, around), noise, known, callback)

    def held(self, known: Known | None) -> int:
        """How many frames it begins with that a causal network is to look at once."""
        if known is None or not remembers(self.model, self.settings):
            return 0
        return int((~known.whole).nonzero()[0])

    def run(self, denoise: Denoise, noise: Tensor, known: Known | None,
            callback: Callback | None) -> tuple[Tensor, SolveInfo]:
        """From ``noise`` to latents by ``denoise``."""
        settings, path, T = self.settings, self.model.recipe.path, noise.shape[1]
        held, given, schedule = torch.zeros(T, dtype=torch.bool), None, None
        if known is not None and settings.keep.clocked:
            held = known.whole.cpu()
        if known is not None:
            values = known.values.to(noise).expand_as(noise)
            parts = known.mask & ~held.to(noise.device)[:, None, None, None]
            if bool(parts.any()):
                denoise = settings.keep.of(denoise, values, parts[None], path)
            given = torch.where(held.to(noise.device)[:, None, None, None], values, 0.0) if bool(held.any()) else None
        if bool(held.any()) or not isinstance(settings.schedule, FullSequence):
            moving = int((~held).sum())
            schedule = lambda times: among(settings.schedule.matrix(times, moving), held.tolist())  # noqa: E731
        seed = int(fold(settings.stream, self.index)) if self.index else settings.stream
        return solve(lambda x, t: denoise(x, t, Condition()), noise, path=path, seed=seed, first=settings.first,
                     schedule=schedule, given=given, guidance=settings.guidance.strongest, callback=callback,
                     return_info=True, **self.model._clock(settings))


def doing_of(model: Any, settings: Settings, samples: int, start: int = 0) -> Doing | None:
    """What is done in the frames of ``settings``, those from ``start`` on; None where the model is told nothing."""
    acts = model.recipe.acts
    return Doing(as_tensor(settings.actions, acts), samples, start) if settings.actions else None


def told_actions(model: Any, settings: Settings, doing: Doing | None, around: Callable[[Denoise], Denoise],
                 net: Denoise) -> Denoise:
    """``net`` with what is put ``around`` it, told what is done."""
    denoise = around(net)
    return denoise if doing is None else acting(denoise, doing, model.recipe.acts, settings.action_guidance)


def remembers(model: Any, settings: Settings) -> bool:
    """Whether the frames that a window begins with and that are known are looked at once, and not with every step: a
    causal network can, unless what it is asked of them changes on the way."""
    net, guidance, recipe = model.recipe.net, settings.guidance, model.recipe
    constant = guidance.inert or (guidance.clean is None and guidance.interval == (0, 1) and guidance.guide is None
                                  and guidance.max_batch is None)
    return (isinstance(net, Trunk) and net.causal and not isinstance(net.positions, Learned) and constant
            and isinstance(settings.keep, Held) and settings.keep.guidance == 1 and settings.action_guidance == 1
            and not settings.experts and not recipe.train.self_conditioning and recipe.upsample.factor == 1)


# ---- what can be asked ----------------------------------------------------------------------------------


def check_clip(model: Any, settings: Settings) -> None:
    """UserError for a clip that the model cannot make."""
    usual = model.recipe.data.frames
    if usual == 1 and settings.frames > 1:
        raise UserError(f"{model.run or 'This model'} makes pictures, of one frame each (got {settings.frames}): name "
                        "a run that was trained on clips.")
    if usual == 1 and settings.overlap:
        raise UserError(f"{model.run or 'This model'} makes pictures, of one frame each, which have no overlap: leave "
                        f"it out (got {settings.overlap}).")
    try:
        length, overlap = model.window(settings)
    except UserError as why:
        raise UserError(f"An overlap of {settings.overlap} cannot be: {why}") from None
    if settings.overlap and (settings.overlap >= usual or overlap >= length):
        raise UserError(f"A window of {usual} frames knows fewer than that of those before it (overlap "
                        f"{settings.overlap}): choose an overlap from 1 to {usual - 1}.")
    if isinstance(settings.keep, Held) and settings.keep.guidance != 1 and model.recipe.train.self_conditioning:
        raise UserError("Guidance by history asks a network twice, and this one is told its own last answer "
                        "(train.self_conditioning): set keep.guidance to 1.")


def remarks(model: Any, settings: Settings) -> list[str]:
    """What to say of choices that change nothing, and of clocks that the model has not met in training."""
    trained, keep, usual = model.recipe.train.frames, settings.keep, model.recipe.sample
    together = isinstance(settings.schedule, FullSequence)
    told = bool(settings.given or settings.overlap)
    shown = model.recipe.net.told_frames > 0
    found = {
        f"This network is told frames that are finished (net.told_frames), and schedule {settings.schedule.kind} shows "
        "it others: it may fail (take autoregressive).":
            settings.frames > 1 and shown and not isinstance(settings.schedule, Autoregressive),
        f"overlap has no effect here: a clip of {settings.frames} frames is one window.":
            settings.overlap and settings.frames <= model.recipe.data.frames,
        f"schedule {settings.schedule.kind} has no effect here: there is one frame.":
            settings.frames == 1 and settings.schedule != usual.schedule and not together,
        f"keep {keep.kind} has no effect here: nothing is given.": keep != usual.keep and not told and together,
        f"This model was trained with one clock for all frames of a clip, and schedule {settings.schedule.kind} moves "
        "them apart: it may fail (train.frames.clock each).":
            settings.frames > 1 and trained.clock == "one" and not together and not shown,
        "This model was trained without given frames (train.frames), and may not heed them: try keep reconstructed.":
            settings.frames > 1 and told and keep.clocked and not trained.heeded and not shown,
    }
    return [sentence for sentence, so in found.items() if so]


# ---- room -----------------------------------------------------------------------------------------------

COPIES = 4  # of all frames: noise, latents, media, and their bytes on the way to a file
FEATURES = 24  # bytes for each feature of a token, half of what networks were seen to take in bfloat16


def check_room(model: Any, settings: Settings) -> None:
    """UserError where the frames asked for do not fit into the memory of this machine; model: a ``generate.Model``."""
    there, pixels = memory(), settings.size[0] * settings.size[1]
    need = 4 * COPIES * len(settings.prompts) * settings.frames * model.recipe.data.channels * pixels
    if need > there:
        raise UserError(f"{len(settings.prompts)} x {settings.frames} frames of {settings.size[1]}x{settings.size[0]} "
                        f"take {need / 2**30:,.0f} GiB, and this machine has {there / 2**30:,.0f}: ask for fewer, or "
                        "go on from the last frames of what was made (given, --extend).")
    if (need := working(model, settings)) > there:
        usual = model.recipe.data.frames
        count = min(settings.frames, usual) if settings.overlap else settings.frames
        apart = replace(settings, overlap=usual_overlap(model))
        fits = count > usual > 1 and working(model, apart) <= there
        how = f"make them window by window (--overlap {apart.overlap})" if fits else "ask for smaller ones (--size)"
        raise UserError(f"{count} {'frame' if count == 1 else 'frames'} of {settings.size[1]}x{settings.size[0]} at "
                        f"once would take {need / 2**30:,.0f} GiB in the network, and this machine has "
                        f"{there / 2**30:,.0f}: {how}.")


def working(model: Any, settings: Settings) -> int:
    """Bytes that a network works with at least for a window of one sample: features of all its tokens, and what
    attention holds of each pair of those that meet in it."""
    net, shape = model.recipe.net, model.noise_shape(settings)
    frames = max(len(span) for span in windows(shape[1], *model.window(settings)))
    places = shape[-2] * shape[-1] // (net.patch**2 if isinstance(net, Trunk) else 1)
    met = 1 if net.temporal.there else frames
    return FEATURES * frames * places * net.width + of_pair(model, met) * (met * places) ** 2


def of_pair(model: Any, frames: int) -> int:
    """Bytes for a pair of the tokens of so many frames in one attention."""
    net = model.recipe.net
    if not isinstance(net, Trunk):
        return 0  # its frames are apart
    if isinstance(net.positions, Relative):
        return 4 * net.attention.heads + 8  # the biases, and where they are looked up
    shown = net.mask == "causal" and frames > 1 and model.system.device.type != "cuda"
    return 5 if shown else 0  # who sees whom, and the same as numbers
