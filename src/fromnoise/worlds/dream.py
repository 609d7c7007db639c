"""A model that is causal in time, stepped frame by frame without end.

    x_n  =  solve(noise(seed, n)  |  actions up to n, frames before n)        one to four evaluations of the network
    ring <- what the network sees of x_n at the noise level of history        one more, which commits the frame

or without the look more, where what the last of the others saw is kept: an unfinished frame, at the noise level of that
evaluation, which is cheaper and tells the frames to come less.

What a frame sees of those before it lies in a ring (``blocks.ring``), so that frames cost the same for ever: keys and
values of a trunk, or of a U-Net that is told its last frames these themselves.  Genie 2, Oasis and Self-Forcing (Huang
et al. 2025) roll out so, and DIAMOND (Alonso et al. 2024); the noise on history is Diffusion Forcing's (Chen et al.
2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from fromnoise.blocks import Ring, packable, packed, recalling
from fromnoise.data.episodes import Episodes
from fromnoise.data.episodes.actions import Actions, Discrete, MultiBinary, Unsaid
from fromnoise.denoise import Held
from fromnoise.generate import Model
from fromnoise.machine import memory
from fromnoise.nets import Trunk, TrunkNet, UNet, UNetNet
from fromnoise.nets.trunk import Outcome, foretelling
from fromnoise.random import HISTORY, fold, normal
from fromnoise.sample import run, table_of
from fromnoise.system import autocast
from fromnoise.types import Condition, UserError
from fromnoise.weights import digest
from fromnoise.worlds.state import State


@dataclass(frozen=True)
class Stepped:
    """What a step shows of every row: frame ``[rows, C, H, W]`` in [-1, 1], float32 on the CPU;  reward: ``[rows]``
    float, the expected one, and ended: ``[rows]`` bool, whether the world more likely ended with the frame than not;
    None where the model foretells neither."""

    frame: Tensor
    reward: Tensor | None = None
    ended: Tensor | None = None


class Dream:
    """A world model that is stepped: rows are independent worlds.

    context: frames that the next one sees, as many as in training unless given, and no others where they are told as
    channels;  sink: how many of these are the first of the world, which are never forgotten;  steps, solver: as in the
    recipe unless given, which a solver that was tuned for the run has its own number of;  history: noise level at which
    frames are remembered, as sample.keep has it unless given;  guidance: scale of guidance on actions, as in the recipe
    unless given;  prompt: what a model that reads a text is told;  commit: clean, or last: what is remembered of a
    frame is what its last evaluation saw, and rewards and ends are foretold from that;  precision: auto, float32 or
    bfloat16, of the network's large products, as in training unless given.  The weights are taken as they are now; on a
    CPU those of a trunk are copied, arranged for its products.

    Noise of frame n of a row is a function of (seed of the row, n), so that worlds in a batch, or begun again, are the
    same to rounding.  UserError for a model that cannot be stepped.
    """

    def __init__(self, model: Model, *, context: int = 0, sink: int = 0, steps: int = 0, guidance: float | None = None,
                 history: float | None = None, solver: str = "", prompt: str = "", precision: str = "",
                 commit: str = "clean"):
        check_steppable(model)
        self.model, recipe, data = model, model.recipe, model.recipe.data
        told = recipe.net.told_frames
        if told and (context not in (0, told) or sink):
            raise UserError(f"This network is told the {told} frames before each (net.told_frames): leave context and "
                            "sink out.")
        if context < 0:
            raise UserError(f"context is how many frames the next one sees, at least 1 (got {context}).")
        self.context, self.sink = context or told or data.frames - 1, sink
        if not 0 <= sink <= self.context:
            raise UserError(f"The first {sink} frames are among the {self.context} that a frame sees: choose a sink "
                            f"from 0 to {self.context}, or a longer context.")
        settings = model.settings(prompt, steps=steps or None, solver=solver or None, seed=0)
        keep = recipe.sample.keep
        usual = keep.history if isinstance(keep, Held) else 0.0
        self.history = usual if history is None else history
        if not 0 <= self.history <= 1:
            raise UserError(f"history is a noise level from 0 to 1 (got {self.history:g}).")
        if commit not in ("clean", "last"):
            raise UserError(f'A frame is committed clean, or as the last evaluation saw it (last) (got "{commit}").')
        if commit == "last" and told:
            raise UserError("This network remembers frames themselves (net.told_frames), which takes no look: leave "
                            "commit clean.")
        self.guidance, self.looks_again = guided(model, guidance), commit == "clean"
        self.size, self.channels, self.fps = settings.size, data.channels, recipe.fps
        self.actions = actions_of(model)
        self.shape = model.noise_shape(settings)[2:]
        check_room(recipe.net, self.context, self.shape)
        self.plan = table_of(recipe.path, self.shape, **model._clock(settings))
        self.level = torch.tensor(self.history, dtype=torch.float64)
        self.precision = precision or recipe.train.precision
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise UserError(f'A precision is auto, float32 or bfloat16 (got "{precision}").')
        half, device = self.precision == "bfloat16", model.system.device
        self.packed = packable(device) and isinstance(recipe.net, Trunk)  # else autocast sees to the precision
        self.denoiser = model.system.denoiser
        if self.packed:
            self.denoiser = packed(self.denoiser, torch.bfloat16 if half else torch.float32)
            recalling(self.denoiser)
        with torch.inference_mode():
            self.condition = model._heard([prompt], settings)

    # ---- steps --------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def begin(self, frames: Tensor, actions: Tensor | None, seeds: Sequence[int]) -> State:
        """Worlds that go on from ``frames`` ``[rows, T, C, H, W]`` in [-1, 1], T >= 1.

        actions: ``[rows, T]`` or ``[rows, T, A]``, what led to each frame, -1 or NaN for none; None for none at all;
        seeds: of the noise of each row.  UserError for frames of another size.
        """
        self.check_begin(frames, seeds)
        acted = None if actions is None else checked_actions(self.actions, actions, frames.shape[:2])
        system = self.model.system
        latents = system.encode(frames.to(system.device)).mean
        state = State(Ring(len(frames), self.context - self.sink, self.sink), [int(seed) for seed in seeds])
        for i in range(frames.shape[1]):
            self.commit(state, latents[:, i : i + 1], self.told(state, None if acted is None else acted[:, i : i + 1]))
        return state

    @torch.inference_mode()
    def step(self, state: State, actions: Tensor | None = None) -> Stepped:
        """The next frame of every row, and ``state`` moved on to it.

        actions: ``[rows]`` or ``[rows, A]``, what leads to it, -1 or NaN where that is not told; None for none at all.
        UserError for what cannot be done.
        """
        acted = None if actions is None else checked_actions(self.actions, actions, (len(state),))[:, None]
        told = self.told(state, acted)
        latents, outcome = self.made(state, told)
        if self.looks_again:
            outcome = self.commit(state, latents, told)
        else:
            state.ring.advance()
        frame = self.model.system.latents.decode(latents)[:, 0].float().clamp(-1, 1).cpu()
        if outcome is None:
            return Stepped(frame)
        return Stepped(frame, outcome.rewards[:, 0].cpu(), outcome.ended[:, 0].cpu() > 0.5)

    def made(self, state: State, told: Condition) -> tuple[Tensor, Outcome | None]:
        """The latents ``[rows, 1, c, h, w]`` of the next frame, and what the last look, whose keys lie in the ring,
        foretells of it."""
        network, untold = self.denoiser, replace(told, actions=None)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            if self.guidance == 1:
                return network(x, t, told, cache=state.ring).float()
            w = network(x, t, untold, cache=state.ring).float()  # this frame's action; those before were told theirs
            d = network(x, t, told, cache=state.ring).float()  # last, since what it saw may be what is remembered
            return w + self.guidance * (d - w)

        with self.autocast(), foretelling(self.net.outcomes) as said:
            x = run(self.plan, denoise, self.plan.begin(self.noise(state)), lambda stage, _: self.noise(state, stage))
        return x, said[-1] if said else None

    def commit(self, state: State, latents: Tensor, told: Condition) -> Outcome | None:
        """Look at a finished frame once, as history is shown, and keep what was seen; what is foretold of it."""
        seen = latents
        if self.history:
            seeds = fold(state.seeds, HISTORY)
            eps = normal(fold(seeds, state.passed), self.shape)[:, None].to(latents)
            seen = self.model.recipe.path.add_noise(latents, eps, self.level.to(latents))
        with self.autocast(), foretelling(self.net.outcomes) as said:
            self.denoiser.remember(seen, self.level, told, state.ring)
        state.ring.advance()
        return said[0] if said else None

    def noise(self, state: State, *stage: int) -> Tensor:
        """Standard normal noise of the next frame of each row, to start from or to be added at a stage of the way."""
        drawn = normal(fold(state.seeds, state.passed, *stage), self.shape)[:, None]
        return drawn.to(self.model.system.device)

    def told(self, state: State, actions: Tensor | None = None) -> Condition:
        """What the network is told of the next frame; actions: ``[rows, 1]`` or ``[rows, 1, A]``."""
        told = expanded(self.condition, len(state))
        return replace(told, actions=None if actions is None else actions.to(self.model.system.device))

    @property
    def net(self) -> TrunkNet | UNetNet:
        return cast(TrunkNet | UNetNet, self.denoiser.net)

    def autocast(self):
        return nullcontext() if self.packed else autocast(self.model.system.device, self.precision)

    @cached_property
    def identity(self) -> str:
        """Of which world a state is: a hash of the weights, and of what is seen of the past."""
        weights = {name: tensor.cpu() for name, tensor in self.model.system.state_dict().items()}
        return digest(weights, {"context": self.context, "sink": self.sink})

    # ---- checks -------------------------------------------------------------------------------------------------

    def check_begin(self, frames: Tensor, seeds: Sequence[int]) -> None:
        """UserError for frames that no world begins with."""
        wanted = (self.channels, *self.size)
        if frames.ndim != 5 or frames.shape[2:] != wanted or not frames.shape[1] or not frames.is_floating_point():
            raise UserError(f"A world begins with frames [rows, T, {', '.join(map(str, wanted))}] in [-1, 1] (got "
                            f"{frames.dtype} {list(frames.shape)}).")
        if len(seeds) != len(frames):
            raise UserError(f"Every row has a seed: give {len(frames)} (got {len(seeds)}).")


def expanded(told: Condition, count: int) -> Condition:
    """One row as so many."""
    return told.map(lambda part: part.expand(count, *part.shape[1:]))


def actions_of(model: Model) -> Actions | None:
    """What can be done in its worlds; None for a model that is told no actions."""
    data = model.recipe.data
    known = data.actions if model.recipe.net.reads_actions and isinstance(data, Episodes) else None
    return None if isinstance(known, Unsaid) else known


def guided(model: Model, scale: float | None) -> float:
    """The scale of guidance on actions, as in the recipe unless given.  UserError where there can be none."""
    recipe = model.recipe
    if scale is None:
        return recipe.sample.action_guidance if recipe.net.reads_actions else 1.0
    if not math.isfinite(scale):
        raise UserError(f"The scale of guidance on actions is a number, 1 for none (got {scale}).")
    if scale != 1 and not (recipe.net.reads_actions and recipe.train.action_dropout):
        raise UserError("Guidance on actions compares a frame that is told its action with one that is not, which this "
                        "model has not learned (net.actions, train.action_dropout): leave guidance out.")
    return scale


def checked_actions(known: Actions | None, actions: Tensor, shape: Sequence[int]) -> Tensor:
    """``actions``, one for each of ``shape``, long or float.  UserError for what cannot be done."""
    if known is None:
        raise UserError("This model is told no actions (net.actions): leave them out.")
    actions = torch.as_tensor(actions)
    whole = (*shape, *known.shape)
    if actions.shape != torch.Size(whole):
        raise UserError(f"An action is {known}: give actions {list(whole)} (got {list(actions.shape)}).")
    none = actions == -1 if isinstance(known, Discrete) else actions.isnan()
    if isinstance(known, Discrete):
        can = (actions >= 0) & (actions < known.n) & (actions.long() == actions)
    elif isinstance(known, MultiBinary):
        can = (actions == 0) | (actions == 1)
    else:
        can = (actions >= torch.tensor(known.low)) & (actions <= torch.tensor(known.high))
    if not bool((can | none).all()):
        raise UserError(f"An action is {known} (got {actions[~(can | none)][0].item():g}).")
    return actions.long() if isinstance(known, Discrete) else actions.float()


def check_room(net: Trunk | UNet, context: int, shape: Sequence[int]) -> None:
    """UserError where keys and values of the frames held, of latents ``[..., h, w]``, do not fit into memory."""
    if not isinstance(net, Trunk):
        return  # its few frames are told as channels
    layers = net.meets // max(net.temporal.every, 1)
    need, there = 2 * 4 * layers * net.width * (context + 1) * math.prod(shape[-2:]) // net.patch**2, memory()
    if need > there:
        raise UserError(f"A context of {context:,} frames takes {need / 2**30:,.0f} GiB in each world, and this "
                        f"machine has {there / 2**30:,.0f}: ask for fewer, or leave it as it was in training.")


def check_steppable(model: Model) -> None:
    """UserError with the reason why a model cannot be stepped frame by frame."""
    recipe, who = model.recipe, model.run or "This model"
    if recipe.data.frames < 2:
        raise UserError(f"{who} makes pictures, which have no next frame: name a run that was trained on clips.")
    if not recipe.net.causal:
        how = ("--net.temporal.every 1 --net.temporal.causal, or --net.mask causal" if isinstance(recipe.net, Trunk)
               else "--net.told-frames 4")
        raise UserError(f"{who} cannot be stepped: its frames see those to come, or none. Train with {how}.")
    if model.system.latents.time_factor != 1:
        raise UserError(f"{who} cannot be stepped: its autoencoder makes one latent of "
                        f"{model.system.latents.time_factor} frames. Use one of pictures.")
    if recipe.train.self_conditioning or recipe.upsample.factor > 1 or recipe.net.image_channels:
        raise UserError(f"{who} cannot be stepped: it is told pictures beside its frames (train.self_conditioning, "
                        "upsample.factor, net.image_channels).")
