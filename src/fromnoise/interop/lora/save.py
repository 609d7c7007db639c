"""The change between two runs as a LoRA, in the layout of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from fromnoise.files import disk_errors, replacing
from fromnoise.interop.lora.file import NAMES, Factors
from fromnoise.interop.lora.places import Place
from fromnoise.interop.rules import give
from fromnoise.types import UserError

EMBEDDINGS = ("class_embedding.weight",)  # matrices that are no linear maps


@dataclass(frozen=True)
class Difference:
    """A change as factors, by the names of the peer's weights.

    kept: the share of the squared change that they hold.  The rest is what the rank cuts off, and all changes of
    biases, gains and tables, which no LoRA holds.
    """

    layers: Mapping[str, Factors]
    kept: float


@torch.no_grad()
def difference(place: Place, before: Mapping[str, Tensor], after: Mapping[str, Tensor], rank: int) -> Difference:
    """The change from ``before`` to ``after``, two state dicts of one network of ours, in factors of ``rank``.

    Of all matrices of that rank the truncated singular value decomposition is nearest (Eckart and Young 1936).
    UserError where nothing changed that a LoRA holds.
    """
    layers: dict[str, Factors] = {}
    total = kept = 0.0
    for rule in place.rules:
        old, new = (give({name: state[name] for name in rule.ours}, [rule]) for state in (before, after))
        for name, was in old.items():
            change = new[name].to(torch.promote_types(was.dtype, torch.float32)) - was
            total += float(change.double().square().sum())
            if holds(name, change) and bool(change.any()):
                layers[name], share = truncated(change, rank)
                kept += share
    if not layers:
        raise UserError("There is no change between the two that a LoRA could hold: no linear map or convolution "
                        "differs.")
    return Difference(layers, kept / total)


def holds(name: str, change: Tensor) -> bool:
    """Whether a LoRA may change a weight: a linear map, or a convolution that mixes channels."""
    return name.endswith(".weight") and name not in EMBEDDINGS and change.ndim in (2, 4) and change.shape[1] > 1


def truncated(change: Tensor, rank: int) -> tuple[Factors, float]:
    """The nearest factors, the singular values shared between them, and the squared change they hold.

    Layers with fewer singular values are filled up with zeros: where ranks differ, readers take a layer's from any
    other whose name is the end of its own.
    """
    u, s, v = torch.linalg.svd(change.flatten(1), full_matrices=False)
    u, s, v = u[:, :rank], s[:rank], v[:rank]
    empty = rank - len(s)
    down = F.pad(s.sqrt()[:, None] * v, (0, 0, 0, empty)).unflatten(1, change.shape[1:])
    up = F.pad(u * s.sqrt(), (0, empty)).unflatten(1, (rank, *(1 for _ in change.shape[2:])))
    return Factors(down, up), float(s.double().square().sum())


def write_lora(folder: str | Path, place: Place, layers: Mapping[str, Factors]) -> Path:
    """Write factors, by the names of the peer's weights, to a file that diffusers' ``load_lora_weights`` reads.

    What multiplies ``up @ down`` goes into ``up``: alpha is then the rank, as readers take it where none is said.
    """
    component = "unet" if place.kind.startswith("UNet") else "transformer"
    tensors: dict[str, Tensor] = {}
    for name, factors in layers.items():
        stem = f"{component}.{name.removesuffix('.weight')}"
        tensors[f"{stem}.lora_A.weight"] = factors.down.contiguous()
        tensors[f"{stem}.lora_B.weight"] = (factors.factor * factors.up).contiguous()
    path = Path(folder) / NAMES[0]
    with disk_errors(path), replacing(path) as temporary:
        save_file(tensors, temporary, {"format": "pt"})
    return path
