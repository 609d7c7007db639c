"""``load`` a pipeline that diffusers saved: text, schedule, network and autoencoder, put together as one of our models.

What is particular to a pipeline (usual steps and guidance, the numbers its network is told) is one row of ``MANNERS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fromnoise.config import nearest
from fromnoise.denoise import CFG, Guidance, Normed
from fromnoise.folders import Component, Pipeline, open_pipeline
from fromnoise.interop import unet
from fromnoise.interop.assemble import assemble
from fromnoise.interop.autoencoder import load_latents
from fromnoise.interop.encoders import labels_of, load_text
from fromnoise.interop.published import (
    Elsewhere,
    NoText,
    Published,
    PublishedDenoiser,
    PublishedModel,
    PublishedSystem,
    Untold,
)
from fromnoise.interop.rules import Rule, take
from fromnoise.interop.schedules import Schedule, schedule_of
from fromnoise.interop.transformers import FAMILIES
from fromnoise.latents import Pixels
from fromnoise.nets import Trunk, UNet
from fromnoise.process import Objective
from fromnoise.recipe import Sampling, Training
from fromnoise.system import resolve_device
from fromnoise.types import UserError


@dataclass(frozen=True)
class Manner:
    """How a pipeline is used unless one says otherwise.

    guidance: in our convention u + s (c - u);  numbers: what the network is told beside the text.
    """

    steps: int
    guidance: float = 1.0
    numbers: str = ""
    method: CFG | Normed = field(default_factory=CFG)

    @property
    def usual(self) -> Guidance:
        return Guidance(scale=self.guidance, method=self.method)


MANNERS = {
    "DDIMPipeline": Manner(50),
    "DDPMPipeline": Manner(1000),
    "DiTPipeline": Manner(50, 4.0),
    "Flux2KleinPipeline": Manner(50, 4.0),
    "Flux2Pipeline": Manner(50, 4.0, "guidance"),
    "FluxPipeline": Manner(28, 3.5, "guidance"),
    "Lumina2Pipeline": Manner(30, 4.0, method=Normed(patch=None)),
    "PRXPipeline": Manner(28, 4.0),
    "PixArtAlphaPipeline": Manner(20, 4.5, "size_aspect"),
    "PixArtSigmaPipeline": Manner(20, 4.5, "size_aspect"),
    "QwenImagePipeline": Manner(50, method=Normed(patch=2)),
    "SanaPipeline": Manner(20, 4.5),
    "StableDiffusion3Pipeline": Manner(28, 7.0),
    "StableDiffusionPipeline": Manner(50, 7.5),
    "StableDiffusionXLPipeline": Manner(50, 5.0, "size_crop"),
    "ZImagePipeline": Manner(50, 6.0),  # there c + s (c - u) with s = 5
}
WIDTHS = ("joint_attention_dim", "caption_channels", "cap_feat_dim", "context_in_dim")  # of text features, by family
UNTOLD = ("DDIMPipeline", "DDPMPipeline")


def load_pipeline(source: str | Path, device: str = "auto", variant: str | None = None,
                  dtype: torch.dtype | None = None) -> PublishedModel:
    """The model in a folder that diffusers saved, or of a hub id.

    variant: of the weight files ("fp16");  dtype: of the weights, by default float32 on a CPU and as they are stored
    elsewhere.  UserError naming what is missing, wrong, or not known here.
    """
    where = resolve_device(device)
    dtype = dtype or (torch.float32 if where.type == "cpu" else None)
    pipeline = open_pipeline(source, variant)
    manner, scheduler, part = manner_of(pipeline), pipeline.part("scheduler"), network_part(pipeline)
    schedule = schedule_of(scheduler.kind, scheduler.config, pipeline.kind)
    latents = load_latents(pipeline.part("vae"), variant, dtype) if "vae" in pipeline.components else None
    net, text = network(pipeline, part, None if latents is None else latents.channels, variant, dtype)
    recipe = recipe_of(pipeline, part, schedule, manner, net.spec, text, latents)
    body = latents if latents is not None else Pixels().build(recipe.data.channels)
    system = PublishedSystem(recipe, text, body, PublishedDenoiser(net.eval().requires_grad_(False), schedule))
    return PublishedModel(system.to(where), schedule, pipeline, manner.numbers)


def usual_guidance(source: str | Path) -> Guidance:
    """The guidance of a pipeline unless one says otherwise; weights are not read.  UserError as ``load_pipeline``."""
    return manner_of(open_pipeline(source)).usual


def manner_of(pipeline: Pipeline) -> Manner:
    """How a pipeline is used.  A model that was distilled is not guided, unless it is told a scale."""
    if pipeline.kind not in MANNERS:
        raise UserError(f"{pipeline.kind} is not known here. {nearest(pipeline.kind, MANNERS)}")
    manner, spec = MANNERS[pipeline.kind], spec_of(network_part(pipeline))
    numbers = manner.numbers if told(spec, manner.numbers) else ""
    distilled = pipeline.settings.get("is_distilled") or (manner.numbers == "guidance" and not numbers)
    return replace(manner, numbers=numbers, guidance=1.0 if distilled else manner.guidance)


def network_part(pipeline: Pipeline) -> Component:
    """The part of a pipeline that is its network."""
    return pipeline.part("unet" if "unet" in pipeline.components else "transformer")


def spec_of(part: Component) -> Trunk | UNet:
    """The network of a part in our terms.  UserError where it has none."""
    with explained(str(part.folder)):
        return unet.read_config(part.config).spec if part.name == "unet" else trunk_of(part)


def trunk_of(part: Component) -> Trunk:
    """The same of a transformer."""
    if part.kind not in FAMILIES:
        raise UserError(f"the transformer {part.kind} is not known here. {nearest(part.kind, FAMILIES)}")
    spec = FAMILIES[part.kind].spec(part.config)
    # the autoencoder of Flux 2 has laid neighbours into channels already
    return replace(spec, patch=1) if part.kind == "Flux2Transformer2DModel" else spec


def network(pipeline: Pipeline, part: Component, channels: int | None, variant: str | None,
            dtype: torch.dtype | None) -> tuple[Any, nn.Module]:
    """The network of a pipeline with its weights, and what reads its prompts."""
    weights, config = part.weights(variant, dtype), part.config
    with explained(weights.where):
        if part.name == "unet":
            peer = unet.read_config(config)
            made = assemble(lambda: peer.spec.build(peer.channels, peer.text_width), unet.to_ours(weights, config),
                            weights.where)
            return made, NoText() if pipeline.kind in UNTOLD else load_text(pipeline, variant, dtype)
        spec, family = trunk_of(part), FAMILIES[part.kind]
        rules, theirs = list(family.rules(spec, config)), list(family.told(config))
        elsewhere = {name for rule in theirs for name in rule.theirs} | set(family.tables)
        tensors = take({k: v for k, v in weights.items() if k not in elsewhere}, rules)
        width = next((config[name] for name in WIDTHS if config.get(name)), None)
        pooled = config.get("pooled_projection_dim") or (spec.width if theirs else None)
        made = assemble(lambda: spec.build(channels or config["in_channels"], width, pooled), tensors, weights.where)
    return made, classes(pipeline, config, spec.width, theirs, weights) if theirs else \
        load_text(pipeline, variant, dtype)


def classes(pipeline: Pipeline, config: Mapping[str, Any], width: int, rules: list[Rule], weights) -> nn.Module:
    """The encoder of classes, whose table stands among the weights of the network."""
    table = take({name: weights[name] for rule in rules for name in rule.theirs}, rules)
    labels = labels_of(pipeline, len(table["table"]) - 1, width)
    return assemble(labels.build, table, weights.where)


def told(spec: Trunk | UNet, numbers: str) -> bool:
    """Whether the network has a place for these numbers."""
    if isinstance(spec, Trunk):
        return spec.time.numbers == numbers
    return numbers == "size_crop" and spec.numbers == 6


def recipe_of(pipeline: Pipeline, part: Component, schedule: Schedule, manner: Manner, net: Trunk | UNet,
              text: nn.Module, latents: Any) -> Published:
    """The published model in the terms of a recipe."""
    factor = 1 if latents is None else latents.factor
    side = part.config.get("sample_size") or pipeline.settings.get("default_sample_size", 1024) // factor
    rows, columns = (side, side) if isinstance(side, int) else side
    return Published(
        name=Path(pipeline.folder).name or pipeline.kind, source=str(pipeline.folder), net=net, path=schedule.path,
        data=Elsewhere(height=rows * factor, width=columns * factor,
                       channels=3 if latents is not None else part.config.get("in_channels", 3)),
        text=getattr(text, "spec", Untold()), latents=Pixels() if latents is None else latents.spec,
        objective=Objective(prediction=schedule.prediction, loss=schedule.prediction),
        train=Training(precision="float32"),
        sample=Sampling(solver=schedule.solver, steps=manner.steps, guidance=manner.usual))


class explained:
    """Within, what is wrong with weights is said together with where they are."""

    def __init__(self, where: str):
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, UserError) and self.where not in str(error):
            raise UserError(f"{self.where}: {error}") from None
