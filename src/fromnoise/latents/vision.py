"""Image encoders that others trained, frozen, through transformers: pictures to features of patches."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.folders import whereabouts
from fromnoise.types import UserError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Family:
    """How one kind of encoder is spoken to.

    name: its class;  norm: its last norm;  told: what it is asked for besides;  first: tokens before the patches, but
    for registers.
    """

    name: str
    norm: str
    told: dict[str, Any]
    first: int


DINO = Family("Dinov2Model", "layernorm", {}, 1)
SIGLIP = Family("SiglipVisionModel", "post_layernorm", {"interpolate_pos_encoding": True}, 0)
FAMILIES = {  # by the model_type of a config
    "dinov2": DINO, "dinov2_with_registers": Family("Dinov2WithRegistersModel", "layernorm", {}, 1),
    "siglip_vision_model": SIGLIP, "siglip": SIGLIP,
    "vit_mae": Family("ViTMAEModel", "layernorm", {"interpolate_pos_encoding": True}, 1),
}


class VisionEncoder:
    """Pictures ``[N, 3, H, W]`` in [-1, 1] to features ``[N, D, h, w]`` of patches, each with mean 0 and variance 1.

    Zheng et al. 2025 take gain and bias from the encoder's last norm, and so does this.
    """

    def __init__(self, model: nn.Module, family: Family, mean: tuple[float, ...], std: tuple[float, ...]):
        config: Any = model.config
        self.model, self.family, self.mean, self.std = model.requires_grad_(False).eval(), family, mean, std
        self.width, self.patch = int(config.hidden_size), int(config.patch_size)
        self.first = family.first + getattr(config, "num_register_tokens", 0)
        last = last_norm(model, family)
        last.weight.data.fill_(1)
        last.bias.data.zero_()
        if hasattr(config, "mask_ratio"):
            config.mask_ratio = 0.0

    def __call__(self, pictures: Tensor, grid: tuple[int, int]) -> Tensor:
        """Features on a grid of ``(h, w)`` patches, to which pictures are resized."""
        size, told = (grid[0] * self.patch, grid[1] * self.patch), dict(self.family.told)
        x = pictures.expand(-1, 3, -1, -1)
        x = x if x.shape[2:] == size else F.interpolate(x, size, mode="bicubic")
        if hasattr(self.model.config, "mask_ratio"):  # the order in which patches are kept, of which none is lost
            told["noise"] = torch.arange(grid[0] * grid[1], device=x.device, dtype=x.dtype).expand(len(x), -1)
        tokens = self.model(self.normalised(x), **told).last_hidden_state[:, self.first :]
        return tokens.transpose(1, 2).unflatten(2, grid)

    def normalised(self, x: Tensor) -> Tensor:
        """Pictures in [-1, 1] as encoders take them."""
        mean, std = self.statistics(x)
        return ((x + 1) / 2 - mean) / std

    def pictures(self, x: Tensor) -> Tensor:
        """The inverse of ``normalised``."""
        mean, std = self.statistics(x)
        return (x * std + mean) * 2 - 1

    def statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, std) ``[C, 1, 1]`` of pictures in [0, 1]; of one channel the mean over three."""
        found = (like.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        mean, std = (value.mean(0, keepdim=True) if like.shape[1] == 1 else value for value in found)
        return mean, std


def load_vision(model: str) -> VisionEncoder:
    """The encoder in a folder, or of a hub id, from safetensors alone.

    UserError where it is not there, is of no kind that is known here, or transformers is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise UserError("A representation autoencoder needs transformers: pip install 'fromnoise[features]'.") from None
    told = whereabouts(model)
    try:
        kind = transformers.PretrainedConfig.get_config_dict(model, **told)[0].get("model_type")
        family = FAMILIES.get(str(kind))
        if family is None:
            raise UserError(f"The encoder {model} is of the kind {kind}, which is not known here: it must be one of "
                            f"{', '.join(FAMILIES)}.")
        net, report = getattr(transformers, family.name).from_pretrained(
            model, use_safetensors=True, output_loading_info=True, trust_remote_code=False, **told)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"The encoder {model} cannot be opened ({reason}): name a folder or a hub id with safetensors."
                        ) from None
    missing = sorted(key for key in report["missing_keys"] if f"{family.norm}." not in key and "pooler." not in key)
    if missing:
        raise UserError(f"The encoder {model} does not fit its config: {len(missing)} tensors are missing, the first "
                        f"{missing[0]}.")
    return VisionEncoder(net, family, *_normalisation(model, told))


def last_norm(model: nn.Module, family: Family) -> Any:
    """The norm after all blocks, which some versions of transformers hold one module deeper."""
    return next(module for name, module in model.named_modules() if name.rpartition(".")[2] == family.norm)


def _normalisation(model: str, told: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of pictures in [0, 1] by the encoder's preprocessor_config.json, or ImageNet's where it has none."""
    from transformers.utils.hub import cached_file

    path = cached_file(model, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False,
                       _raise_exceptions_for_connection_errors=False, **told)  # type: ignore[arg-type]
    if path is None:
        return IMAGENET
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    return tuple(config["image_mean"]), tuple(config["image_std"])
