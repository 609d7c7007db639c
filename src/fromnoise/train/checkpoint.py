"""Checkpoints: a folder of safetensors that is whole or not there.

    checkpoints/step-000500/{weights,ema,optimizer}.safetensors, state.json, manifest.json

It is written under a temporary name, synced and renamed; the manifest, written last, holds the
SHA-256 of every file.  A folder whose manifest is missing or does not match is never read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fromnoise.files import disk_errors, sync

_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Checkpoint:
    """What a run goes on from: named tensors in named files, and a few plain values."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save_checkpoint(root: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint below ``root`` and delete all but the newest ``keep``.

    UserError when the disk refuses; earlier checkpoints are then untouched.
    """
    final = root / f"step-{checkpoint.step:06d}"
    temporary = root / f".tmp-{final.name}-{os.getpid()}"
    try:
        with disk_errors(final):
            sweep(root)
            temporary.mkdir(parents=True)
            for name, tensors in checkpoint.tensors.items():
                save_file({k: v.detach().contiguous() for k, v in tensors.items()}, temporary / f"{name}.safetensors")
            (temporary / "state.json").write_text(json.dumps(checkpoint.state))
            digests = {p.name: sha256(p) for p in sorted(temporary.iterdir())}
            for p in temporary.iterdir():
                os.chmod(p, 0o644)
                sync(p)
            (temporary / "manifest.json").write_text(json.dumps({"step": checkpoint.step, "sha256": digests}))
            sync(temporary / "manifest.json")
            sync(temporary)
            if final.exists():  # the same step saved again, after a stop between saving and going on
                shutil.rmtree(final)
            os.rename(temporary, final)
            sync(root)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for _, old in list_checkpoints(root)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_checkpoint(root: Path, report: Callable[[str], None] = lambda _: None) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None; ``report`` is told of each damaged one that was passed over."""
    for step, folder in list_checkpoints(root):
        if fault := damage(folder):
            report(f"Checkpoint {folder} is damaged ({fault}) and was passed over.")
            continue
        tensors = {p.stem: load_file(p) for p in folder.glob("*.safetensors")}
        return Checkpoint(step, tensors, json.loads((folder / "state.json").read_text()))
    return None


def list_checkpoints(root: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every finished checkpoint, newest first."""
    if not root.is_dir():
        return []
    found = [(int(m[1]), p) for p in root.iterdir() if (m := _NAME.fullmatch(p.name)) and p.is_dir()]
    return sorted(found, reverse=True)


def damage(folder: Path) -> str:
    """What is wrong with a checkpoint, or an empty string."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        for name, digest in manifest["sha256"].items():
            if sha256(folder / name) != digest:
                return f"{name} does not match its checksum"
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return "its manifest or one of its files is missing or unreadable"
    return ""


def sweep(root: Path) -> None:
    """Remove what a killed process left half-written."""
    if root.is_dir():
        for litter in root.glob(".tmp-step-*"):
            shutil.rmtree(litter, ignore_errors=True)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The state of optimisers as flat named tensors: "<optimiser>.<parameter>.<name>"."""
    flat = {}
    for i, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            flat |= {f"{i}.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    return flat


def laid_as(tensor: Tensor, like: Tensor) -> Tensor:
    """A copy of ``tensor`` that lies as ``like`` does: files know one order, and it can change the last bit."""
    return torch.empty_like(like, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def restore_optimizers(optimizers: list[torch.optim.Optimizer], flat: dict[str, Tensor]) -> None:
    """The inverse of ``optimizer_tensors``; what has the shape of a parameter lies in memory as it does."""
    for i, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in flat.items():
            which, index, name = key.split(".", 2)
            if int(which) == i:
                state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        for parameter, values in optimizer.state.items():
            for name, value in values.items():
                if value.shape == parameter.shape:
                    values[name] = laid_as(value, parameter)
