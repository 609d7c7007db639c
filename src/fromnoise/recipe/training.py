"""How a model is trained: the fields of ``train`` and ``encoding``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fromnoise.config import Short, spec
from fromnoise.latents import EndToEnd
from fromnoise.process import Frames
from fromnoise.terms import Contrastive, Direction, Dispersive, Repa

Average = Annotated[float, Field(ge=0, lt=1)]


@spec
class Optimizer:
    """How weights move: AdamW everywhere, or Muon on matrices and AdamW on the rest."""

    matrices: Literal["muon", "adamw"] = "muon"
    """What updates the matrices inside the blocks; everything else uses AdamW."""
    lr: Annotated[float, Field(gt=0)] = 2e-3
    """Learning rate of AdamW."""
    muon_lr: Annotated[float, Field(gt=0)] = 0.02
    """Learning rate of Muon."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay of both."""
    betas: tuple[Average, Average] = (0.9, 0.99)
    """AdamW's averages of gradients and squared gradients."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient; a larger one is scaled down."""
    warmup: Annotated[int, Field(ge=0)] = 50
    """Steps over which the rates rise from zero."""
    cooldown: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Last part of training over which the rates fall linearly to zero."""
    decay_after: Annotated[int, Field(ge=0)] = 0
    """Steps after which the rates fall as 1 / sqrt(steps) (EDM2, eq. 67); 0: they hold until the cool-down."""
    base_width: Annotated[int, Field(ge=0)] = 0
    """Width of the network for which the rates were chosen: at another net.width they follow muP; 0: no such rule."""


@spec
class Schedule:
    """How long, with what, and what is kept."""

    steps: Annotated[int, Field(gt=0)] = 1000
    """Optimiser steps."""
    batch: Annotated[int, Field(gt=0)] = 64
    """Examples a step."""
    optimizer: Optimizer = Optimizer()
    ema: Annotated[float, Field(gt=0, lt=0.28)] = 0.1
    """Width of the power-function average of the weights, relative to the training length (EDM2's sigma_rel)."""
    snapshots: Annotated[int, Field(ge=0)] = 0
    """Snapshots of two averages that are kept, evenly over training, from which `fromnoise ema` makes one of any
    width; each takes twice the space of the weights."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto takes a GPU where there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Autocast of the network; auto is bfloat16 on GPUs that have it and float32 elsewhere."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 measures which number is fastest and keeps it for the run."""
    checkpoint_every: Annotated[int, Field(gt=0)] = 250
    """Steps between checkpoints, to which a stopped run returns."""
    keep: Annotated[int, Field(ge=1)] = 2
    """Checkpoints kept."""
    preview_every: Annotated[int, Field(ge=0)] = 250
    """Steps between preview pictures; 0 for none."""
    tracker: Literal["none", "tensorboard"] = "none"
    """Where metrics go besides metrics.jsonl."""


@spec
class Encoding:
    """The trained autoencoder in front of the model, and the latents that are kept of its data."""

    source: str = ""
    """The folder its weights were read from: a run of ours or an autoencoder of diffusers; --latents sets it."""
    sha256: str = ""
    """Of these weights, which are kept in the run: the folder is read only when a run starts."""
    draw: bool = False
    """Train on draws of the latents' distribution, new ones in each step, and not on its mean."""
    examples: Annotated[int, Field(ge=0)] = 0
    """How many examples to train on, of data without end; 0 for all, which cannot be kept and are encoded anew."""
    cached: bool = True
    """Encode the data once and keep the latents, where the data have an end."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """In which latents are kept; bfloat16 takes half the room and is right to three digits."""
    folder: str = ""
    """Where latents are kept; by default latent-cache beside the run, which runs share."""


@spec
class Start:
    """The weights that training begins with, where they are not random: the run is a branch of another."""

    run: str = ""
    """A run folder whose averaged weights are taken, of the same network, or of one that is the same but for layers
    along time (net.temporal): those begin as the identity, and the image model is inflated to films."""
    sha256: str = ""
    """Of these weights, which are read only when the run starts; it sets this itself."""


@spec
class Training(Schedule):
    """How long, with what, and what is kept; and what a diffusion model is told on the way."""

    start: Annotated[Start, Short("run")] = Start()

    only: Literal["all", "temporal"] = "all"
    """What is trained: all that is learned, or the layers along time alone, while the image model that train.start
    names stays as it is."""
    text_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of captions replaced by the empty text, which classifier-free guidance needs."""
    action_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of actions that are not told, each frame's by itself, which guidance on actions needs."""
    outcomes: Annotated[float, Field(ge=0)] = 0.1
    """Weight of what is foretold of rewards and ends (net.outcomes) beside the loss of denoising."""
    self_conditioning: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of steps in which the network is told its own estimate of x0, as it then is in sampling (Analog Bits)."""
    stills: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of steps in which single frames take the place of films, as pictures (joint image and video training)."""
    frames: Frames = Frames()
    repa: Repa = Repa()
    dispersive: Dispersive = Dispersive()
    contrastive: Contrastive = Contrastive()
    direction: Direction = Direction()
    end_to_end: Annotated[EndToEnd, Short("lr")] = EndToEnd()


TERMS = ("repa", "dispersive", "contrastive", "direction")  # fields of Training that are added to the loss
