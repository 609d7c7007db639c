"""The text encoders of a pipeline's folder, read as that pipeline reads prompts."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fromnoise.interop.assemble import count
from fromnoise.interop.files import Component, Pipeline
from fromnoise.text.families import FAMILIES
from fromnoise.text.frozen import Frozen, FrozenEncoder, Tower
from fromnoise.text.labels import Labels
from fromnoise.types import UserError

PIPELINES = {  # classes of diffusers, and whose rule they follow
    "StableDiffusionPipeline": "sd", "StableDiffusionXLPipeline": "sdxl", "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux1", "Flux2Pipeline": "flux2", "Flux2KleinPipeline": "flux2_klein",
    "ZImagePipeline": "z_image", "QwenImagePipeline": "qwen_image", "PixArtAlphaPipeline": "pixart_alpha",
    "PixArtSigmaPipeline": "pixart_sigma", "SanaPipeline": "sana",
    "Lumina2Pipeline": "lumina2", "PRXPipeline": "prx",
}
HALVES = {"T5GemmaEncoder": ("transformers.models.t5gemma.modeling_t5gemma", "encoder")}  # module, part of the config
SAFE: dict[str, Any] = {"trust_remote_code": False}  # no code of a folder is run, and nobody is asked whether
INSTALL = "pip install 'fromnoise[diffusers]'"


def text_of(pipeline: Pipeline) -> Frozen:
    """How a pipeline reads prompts; towers that its folder was saved without are left out.

    UserError for a pipeline that is not known here, or one without any text encoder.
    """
    if pipeline.kind not in PIPELINES:
        raise UserError(f"How {pipeline.kind} reads prompts is not known here: it must be one of "
                        f"{', '.join(sorted(PIPELINES))}.")
    spec = FAMILIES[PIPELINES[pipeline.kind]]
    towers = tuple(tower for tower in spec.towers if tower.model in pipeline.components)
    if not towers:
        raise UserError(f"{pipeline.folder} was saved without its text encoders ({spec.towers[0].model}).")
    if pipeline.kind == "StableDiffusionPipeline" and pipeline.part("text_encoder").config.get("use_attention_mask"):
        towers = (dataclasses.replace(towers[0], attend_padding=False),)
    if pipeline.kind == "StableDiffusion3Pipeline" and len(towers) < len(spec.towers):
        return dataclasses.replace(spec, towers=towers, zeros=_place_of_t5(pipeline, towers))
    towers = (dataclasses.replace(towers[0], beside=False), *towers[1:])  # the first that is there
    zeros = pipeline.kind == "StableDiffusionXLPipeline" and pipeline.settings.get("force_zeros_for_empty_prompt", True)
    return dataclasses.replace(spec, towers=towers, empty="zeros" if zeros else "encoded")


def _place_of_t5(pipeline: Pipeline, towers: tuple[Tower, ...]) -> tuple[int, int]:
    """(tokens, features) of the zeros that SD3's network reads without T5.  UserError where it lacks a CLIP."""
    *clips, t5 = FAMILIES["sd3"].towers
    if towers != tuple(clips):
        raise UserError(f"{pipeline.folder} lacks one of the CLIPs that SD3's network reads.")
    return t5.max_length or 0, int(pipeline.part("transformer").config["joint_attention_dim"])


def labels_of(pipeline: Pipeline, classes: int, width: int) -> Labels:
    """The classes of a pipeline that has no text (DiT), by the names its folder gives them, else by their numbers."""
    names = pipeline.settings.get("id2label") or {}
    return Labels(names=tuple(str(names.get(str(i), i)) for i in range(classes)), width=width)


def load_text(pipeline: Pipeline, variant: str | None = None, dtype: torch.dtype | None = None) -> FrozenEncoder:
    """The text encoders of a pipeline.  UserError where one cannot be opened."""
    spec = text_of(pipeline)
    return spec.build([(load_encoder(pipeline.part(tower.model), variant, dtype),
                        load_tokenizer(pipeline.part(tower.tokenizer))) for tower in spec.towers])


def load_encoder(part: Component, variant: str | None = None, dtype: torch.dtype | None = None) -> nn.Module:
    """A model of transformers from its safetensors.  UserError where it is of no such class, or cannot be opened."""
    cls = _class_of(part)
    _, chosen = part.choice(variant)
    part.files(variant)  # no shard is missing, and none lies elsewhere
    with _explained(part), without_bars():
        half: dict[str, Any] = {}
        if part.kind in HALVES and HALVES[part.kind][1] in part.config:
            whole = _transformers().AutoConfig.from_pretrained(part.folder, local_files_only=True, **SAFE)
            half = {"config": getattr(whole, HALVES[part.kind][1])}
        model, report = cls.from_pretrained(part.folder, use_safetensors=True, local_files_only=True, variant=chosen,
                                            dtype=dtype or "auto", output_loading_info=True, **half, **SAFE)
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(f"{part.folder} does not fit its config: {count(missing)} missing, the first "
                        f"{missing[0]}.")
    return model


def load_tokenizer(part: Component) -> Any:
    """A tokenizer of transformers.  UserError where it cannot be opened."""
    transformers = _transformers()
    with _explained(part):
        return transformers.AutoTokenizer.from_pretrained(part.folder, local_files_only=True, **SAFE)


def _class_of(part: Component) -> Any:
    transformers = _transformers()
    module = importlib.import_module(HALVES[part.kind][0]) if part.kind in HALVES else transformers
    cls = getattr(module, part.kind, None) if part.library == "transformers" else None
    if not isinstance(cls, type) or not issubclass(cls, transformers.PreTrainedModel):
        raise UserError(f"{part.folder} is of the class {part.library}.{part.kind}, which is not a model of "
                        "transformers: it is not opened.")
    return cls


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise UserError(f"The text encoders of others need transformers: {INSTALL}.") from None
    return transformers


@contextmanager
def without_bars() -> Iterator[None]:
    """Within, transformers draws no bars while it reads and writes."""
    from transformers.utils import logging

    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()


@contextmanager
def _explained(part: Component) -> Iterator[None]:
    """What goes wrong within while a part is read, as a sentence."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{part.folder} cannot be opened as {part.kind} ({reason}).") from None
