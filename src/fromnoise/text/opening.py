"""Encoders that others trained, opened from a folder: which systems they are of, their models and their tokenizers.

A folder is that of a pipeline of diffusers (``model_index.json`` and a folder for each part), one with the parts alone
(``text_encoder``, ``tokenizer``, ``text_encoder_2``, ...), or that of a single encoder with its tokenizer.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fromnoise.folders import (
    CONFIGS,
    INDEX,
    PICKLES,
    Component,
    Pipeline,
    download,
    open_component,
    open_pipeline,
    read_object,
)
from fromnoise.text.families import FAMILIES, PIPELINES, Family
from fromnoise.text.towers import Tower, Towers
from fromnoise.types import UserError

SAFE: dict[str, Any] = {"trust_remote_code": False}  # no code of a folder is run, and nobody is asked whether
HALVES = {"T5GemmaEncoder": ("transformers.models.t5gemma.modeling_t5gemma", "encoder")}  # module, part of the config
INSTALL = "pip install 'fromnoise[diffusers]'"


def text_of(pipeline: Pipeline) -> Towers:
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
        towers = (replace(towers[0], attend_padding=False),)
    if pipeline.kind == "StableDiffusion3Pipeline" and len(towers) < len(spec.towers):
        return replace(spec, towers=towers, zeros=_place_of_t5(pipeline, towers))
    towers = (replace(towers[0], beside=False), *towers[1:])  # the first that is there
    zeros = pipeline.kind == "StableDiffusionXLPipeline" and pipeline.settings.get("force_zeros_for_empty_prompt", True)
    return replace(spec, towers=towers, empty="zeros" if zeros else "encoded")


def _place_of_t5(pipeline: Pipeline, towers: tuple[Tower, ...]) -> tuple[int, int]:
    """(tokens, features) of the zeros that SD3's network reads without T5.  UserError where it lacks a CLIP."""
    *clips, t5 = FAMILIES["sd3"].towers
    if towers != tuple(clips):
        raise UserError(f"{pipeline.folder} lacks one of the CLIPs that SD3's network reads.")
    return t5.max_length or 0, int(pipeline.part("transformer").config["joint_attention_dim"])


def family_of(folder: Path) -> Family:
    """The family that the encoders of a folder are of.  UserError where that cannot be told."""
    if (folder / INDEX).is_file():
        kind = open_pipeline(folder).kind
        if kind not in PIPELINES:
            raise UserError(f"How {kind} ({folder / INDEX}) reads prompts is not known here: name a --text.family.")
        return PIPELINES[kind]
    if (folder / "text_encoder_2").is_dir():
        raise UserError(f"{folder} holds several encoders and no {INDEX} that says of which system: name it with "
                        "--text.family.")
    kind = part_of(folder, FAMILIES["lm"].towers[0].model).kind
    return "clip" if kind.startswith("CLIPText") else "t5" if "T5" in kind else "lm"


def rule_of(folder: Path, family: Family) -> Towers:
    """How a family reads prompts, and a pipeline of it in this folder, which may lack some of its encoders."""
    if (folder / INDEX).is_file():
        pipeline = open_pipeline(folder)
        if PIPELINES.get(pipeline.kind) == family:
            return text_of(pipeline)
    return FAMILIES[family]


def parts_of(folder: Path, towers: Sequence[Tower]) -> list[tuple[Component, Component]]:
    """(encoder, tokenizer) of each tower.  UserError naming the folder or the file that is not there."""
    found = []
    for tower in towers:
        model = part_of(folder, tower.model)
        place = folder / tower.tokenizer
        place = place if place.is_dir() else model.folder
        if not any((place / name).is_file() for name in TOKENIZERS):
            raise UserError(f"There is no tokenizer in {folder / tower.tokenizer}"
                            + ("" if place == folder / tower.tokenizer else f" or beside the encoder in {place}")
                            + f" (tokenizer.json, tokenizer_config.json, ...), which {model.kind} "
                            "needs: copy it there.")
        found.append((model, Component(tower.tokenizer, "transformers", "tokenizer", place)))
    return found


TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")


def part_of(folder: Path, name: str) -> Component:
    """An encoder inside a folder, or the folder itself where it is that of one encoder."""
    place = folder / name
    if not place.is_dir() and name == "text_encoder" and (folder / CONFIGS[0]).is_file():
        place = folder
    if not place.is_dir():
        raise UserError(f"{folder} holds no text encoder {name}: there is neither a folder {place} nor "
                        f"{folder / CONFIGS[0]}." if name == "text_encoder" else
                        f"{folder} holds no text encoder {name}: there is no folder {place}.")
    part = open_component(place)
    return replace(part, kind=ENCODERS.get(part.kind, part.kind))


# Of models that do more than read, the part that reads.
ENCODERS = {"T5ForConditionalGeneration": "T5EncoderModel", "UMT5ForConditionalGeneration": "UMT5EncoderModel",
            "T5Model": "T5EncoderModel", "CLIPModel": "CLIPTextModelWithProjection"}


def config_of(part: Component) -> dict[str, Any]:
    """What an encoder's config says of what reads text."""
    return part.config.get(HALVES.get(part.kind, ("", "text_config"))[1]) or part.config


def tokens_of(tokenizer: Component) -> int | None:
    """Tokens that a tokenizer reads of a text, where its files say."""
    path = tokenizer.folder / "tokenizer_config.json"
    return read_object(path).get("model_max_length") if path.is_file() else None


def depth_of(part: Component) -> int:
    """Layers of an encoder, as its config has them.  UserError where it does not say."""
    config = config_of(part)
    found = config.get("num_hidden_layers") or config.get("num_layers")
    if not isinstance(found, int):
        raise UserError(f"{part.folder / CONFIGS[0]} does not say how many layers it has: name them with text.layers.")
    return found


def download_encoders(name: str) -> Path:
    """The encoders of a hub id, without the rest of its pipeline.  UserError where they cannot be had."""
    index = download(name, wanted=(INDEX, CONFIGS[0]))
    inner = [f"{room}*/{end}" for room in ("text_encoder", "tokenizer") for end in READ]
    return download(name, wanted=(INDEX, *inner) if (index / INDEX).is_file() else READ)


READ = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")  # nothing that is unpickled


def fingerprint(parts: Sequence[tuple[Component, Component]]) -> str:
    """SHA-256 over the files of encoders and tokenizers: their names and bytes, whatever the folder is called."""
    sha = hashlib.sha256()
    for part in {part.folder: part for pair in parts for part in pair}.values():
        for path in sorted(part.folder.iterdir()):
            if path.is_file() and path.suffix not in (*PICKLES, ".md", "") and not path.name.startswith("."):
                with path.open("rb") as file:
                    sha.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return sha.hexdigest()


def load_encoder(part: Component, variant: str | None = None, dtype: torch.dtype | None = None) -> nn.Module:
    """A model of transformers from its safetensors.  UserError where it is of no such class, or cannot be opened."""
    cls = class_of(part)
    _, chosen = part.choice(variant)
    part.files(variant)  # no shard is missing, and none lies elsewhere
    with _explained(part), without_bars(), torch.random.fork_rng(devices=[]):  # draws of a run do not depend on it
        half: dict[str, Any] = {}
        if part.kind in HALVES and HALVES[part.kind][1] in part.config:
            whole = transformers().AutoConfig.from_pretrained(part.folder, local_files_only=True, **SAFE)
            half = {"config": getattr(whole, HALVES[part.kind][1])}
        model, report = cls.from_pretrained(part.folder, use_safetensors=True, local_files_only=True, variant=chosen,
                                            dtype=dtype or "auto", output_loading_info=True, **half, **SAFE)
    missing = sorted(report["missing_keys"])
    if missing:
        lost = "1 tensor is" if len(missing) == 1 else f"{len(missing)} tensors are"
        raise UserError(f"{part.folder} does not fit its config: {lost} missing, the first {missing[0]}.")
    return model


def load_tokenizer(part: Component) -> Any:
    """A tokenizer of transformers.  UserError where it cannot be opened."""
    library = transformers()
    with _explained(part):
        tokenizer = library.AutoTokenizer.from_pretrained(part.folder, local_files_only=True, **SAFE)
    if tokenizer.pad_token is None:  # language models that were never trained on batches of sentences
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def class_of(part: Component) -> Any:
    """The class of an encoder.  UserError where it is not a model of transformers."""
    library = transformers()
    module = importlib.import_module(HALVES[part.kind][0]) if part.kind in HALVES else library
    cls = getattr(module, part.kind, None) if part.library == "transformers" else None
    if not isinstance(cls, type) or not issubclass(cls, library.PreTrainedModel):
        raise UserError(f"{part.folder} is of the class {part.library}.{part.kind}, which is not a model of "
                        "transformers: it is not opened.")
    return cls


def transformers() -> Any:
    """The library.  UserError naming the extra where it is not installed."""
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
