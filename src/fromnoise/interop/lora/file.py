"""A LoRA as its file has it: two factors for each layer that it adapts.

LoRA (Hu et al. 2022, arXiv 2106.09685, section 4.1) adds (alpha / r) B A to a weight, B ``[out, r]`` and A ``[r, in]``.
Files call A and B ``lora_A`` and ``lora_B`` (peft), ``lora.down`` and ``lora.up`` (diffusers) or ``lora_down`` and
``lora_up`` (kohya).  Alpha stands beside them (kohya), in the file's metadata (diffusers) or in a file of its own
(peft); where it is not said it is r.  With rsLoRA (arXiv 2312.03732) the factor is alpha / sqrt(r).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, FiniteFloat, ValidationError
from torch import Tensor

from fromnoise.folders import PICKLES, read_object, read_tensors
from fromnoise.types import UserError

NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")  # as diffusers and peft call their files
CONFIG, NOTE = "adapter_config.json", "lora_adapter_metadata"  # where peft and diffusers write the settings
SIDE = re.compile(r"(?P<layer>.+?)(?:\.lora_(?P<letter>[AB])(?:\.[^.]+)?"
                  r"|[._]lora(?:_linear_layer)?[._](?P<way>down|up))\.weight")


@dataclass(frozen=True)
class Factors:
    """What is added to one layer: ``up @ down`` times ``factor``.

    down: ``[r, in]`` or, of a convolution, ``[r, in, height, width]``;  up: ``[out, r]`` or ``[out, r, 1, 1]``.
    """

    down: Tensor
    up: Tensor
    factor: float = 1.0

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def delta(self, like: Tensor) -> Tensor:
        """The change of the weight, in the shape, on the device and in the numbers of ``like``."""
        up, down = (x.to(like).flatten(1) for x in (self.up, self.down))
        return (self.factor * (up @ down)).reshape(like.shape)

    def fits(self, shape: torch.Size) -> bool:
        """Whether the layer's weight may be of this shape; a 1x1 convolution is a linear map."""
        sizes = (self.up.shape[0], *self.down.shape[1:])
        return without_ones(sizes) == without_ones(shape)


@dataclass(frozen=True)
class Lora:
    """The factors of each layer, by the file's own names;  where: the file they are from;  sha256: of what it says."""

    where: str
    layers: Mapping[str, Factors]
    sha256: str = ""


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(out, in, *kernel) without a kernel that is one point."""
    return tuple(shape[:2]) if all(n == 1 for n in shape[2:]) else tuple(shape)


# ---- reading -----------------------------------------------------------------------------------------------------


def read_lora(source: str | Path) -> Lora:
    """The LoRA in a safetensors file, or in the folder that peft or diffusers saved it to.

    UserError for a pickle, for a file with something else in it, and for kinds other than plain LoRA (DoRA, LoKr, ...).
    """
    path = lora_file(source)
    tensors = read_tensors(path)
    settings = read_settings(path)
    sides: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        layer, side = side_of(key, path)
        numbers = tensor.is_floating_point() or side == "alpha"  # kohya's alpha may be an integer
        if not numbers or not bool(tensor.float().isfinite().all()):
            raise UserError(f"{path} is damaged: its tensor {key} holds something else than finite numbers.")
        sides.setdefault(layer, {})[side] = tensor
    if not sides:
        raise UserError(f"{path} holds no tensors.")
    layers = {layer: factors(layer, found, settings, path) for layer, found in sides.items()}
    return Lora(str(path), layers, fingerprint(path))


def fingerprint(source: str | Path) -> str:
    """The SHA-256 of all that ``read_lora`` reads of a source, and of nothing else."""
    path = lora_file(source)
    found = hashlib.sha256()
    for file in (path, *settings_beside(path)):
        with open(file, "rb") as stream:
            hashlib.file_digest(stream, lambda: found)
    return found.hexdigest()


def lora_file(source: str | Path) -> Path:
    """The safetensors file that is meant.  UserError where there is none, or it is a pickle."""
    path = Path(source)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".safetensors", *PICKLES))
        chosen = [p for name in NAMES for p in files if p.name == name] or [p for p in files if p.suffix not in PICKLES]
        if len(chosen) > 1 and chosen[0].name not in NAMES:
            raise UserError(f"{path} holds several files ({chosen[0].name}, {chosen[1].name}): name the one you mean.")
        path = (chosen or files or [path])[0]
    if path.suffix in PICKLES:
        raise UserError(f"{path} is a pickle, which can run code when it is opened and is never opened here: take the "
                        "LoRA as safetensors.")
    if not path.is_file():
        raise UserError(f"There is no LoRA at {path}: name a safetensors file, or the folder of one.")
    return path


def side_of(key: str, path: Path | str) -> tuple[str, str]:
    """(layer, "down", "up" or "alpha") of a tensor.  UserError where it is neither."""
    if "magnitude_vector" in key or "dora_scale" in key:
        raise UserError(f"{path} is a DoRA ({key}), which also rescales the weights it is added to; only plain LoRA is "
                        "known here.")
    found = SIDE.fullmatch(key)
    if key.endswith(".alpha"):
        layer, side = key.removesuffix(".alpha"), "alpha"
    elif found:
        layer, side = found["layer"], found["way"] or {"A": "down", "B": "up"}[found["letter"]]
    else:
        raise UserError(f"{path} is not a plain LoRA: its tensor {key} is neither the lower nor the upper factor of a "
                        "layer, nor its alpha.")
    return layer.replace(".processor.", "."), side


def factors(layer: str, found: Mapping[str, Tensor], settings: Mapping[str, Settings], path: Path) -> Factors:
    """The two factors of a layer.  UserError where one is missing or they do not meet."""
    for side in ("down", "up"):
        if side not in found:
            raise UserError(f"{path} is incomplete: it has no {side} factor for {layer}.")
    down, up = found["down"], found["up"]
    if {up.ndim, down.ndim} - {2, 4} or not down.shape[0] or up.shape[1:].numel() != down.shape[0]:
        raise UserError(f"{path} is damaged: the factors of {layer} are {list(down.shape)} and {list(up.shape)}, which "
                        "do not meet in one rank.")
    if "alpha" in found:
        if found["alpha"].numel() != 1:
            raise UserError(f"{path} is damaged: the alpha of {layer} is not one number.")
        return Factors(down, up, float(found["alpha"]) / down.shape[0])
    prefix = next((p for p in settings if p and layer.startswith(f"{p}.")), "")
    name = layer.removeprefix(f"{prefix}.").removeprefix("base_model.model.")
    return Factors(down, up, settings[prefix].factor(name, down.shape[0]) if prefix in settings else 1.0)


# ---- the settings beside it --------------------------------------------------------------------------------------


class Settings(BaseModel):
    """What of peft's configuration says how strong a LoRA is."""

    peft_type: str = "LORA"
    lora_alpha: FiniteFloat | None = None
    alpha_pattern: dict[str, FiniteFloat] = {}
    use_rslora: bool = False
    use_dora: bool = False

    def factor(self, layer: str, rank: int) -> float:
        """What ``up @ down`` of a layer is multiplied by."""
        named = (alpha for name, alpha in self.alpha_pattern.items()
                 if f"^{layer}" == name or f".{layer}".endswith(f".{name}"))
        alpha = next(named, self.lora_alpha)
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def settings_beside(path: Path) -> list[Path]:
    """The file of peft's settings, where there is one."""
    beside = path.parent / CONFIG
    return [beside] if path.name == NAMES[1] and beside.is_file() else []


def read_settings(path: Path) -> dict[str, Settings]:
    """The settings of each component (``unet``, ``text_encoder``, ...), that of "" of all others."""
    from safetensors import safe_open

    if beside := settings_beside(path):
        data, where = read_object(beside[0]), str(beside[0])
    else:
        with safe_open(path, "pt") as file:
            note, where = (file.metadata() or {}).get(NOTE, "{}"), f"the note {NOTE} in {path}"
        try:
            data = json.loads(note)
        except (ValueError, RecursionError):
            data = None
    grouped: dict[str, dict[str, Any]] = {}
    for key, value in data.items() if isinstance(data, dict) else ():
        prefix, _, name = key.rpartition(".")
        grouped.setdefault(prefix, {})[name] = value
    try:
        settings = {prefix: Settings.model_validate(values) for prefix, values in grouped.items()}
    except ValidationError as e:
        settings, data = {}, None
        where = f"{where} ({e.errors()[0]['msg']})"
    if not isinstance(data, dict):
        raise UserError(f"{where} does not hold the settings of a LoRA.")
    for each in settings.values():
        if each.peft_type != "LORA" or each.use_dora:
            raise UserError(f"{path} is of the kind {'DoRA' if each.use_dora else each.peft_type}; only plain LoRA is "
                            "known here.")
        if any(not re.fullmatch(r"\^?[\w.]+", name) for name in each.alpha_pattern):
            raise UserError(f"{where} names layers by a pattern in alpha_pattern; only plain names are known here.")
    return settings
