"""model.safetensors: the averaged weights to use; in its header the tokenizer, the words learned and a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fromnoise.files import disk_errors, replacing
from fromnoise.types import UserError

NAME = "model.safetensors"
KEY = "fromnoise"


def save_weights(run: Path, tensors: dict[str, Tensor], tokenizer: str, step: int, words: Sequence[str] = ()) -> None:
    """Write the weights atomically.  words: those of the captions, where they are few enough to be kept."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    header = {"tokenizer": tokenizer, "step": step, "words": list(words)}
    header["sha256"] = digest(tensors, header)
    # One entry: safetensors writes several in any order, and the same run is to give the same file.
    with disk_errors(run / NAME), replacing(run / NAME) as temporary:
        save_file(tensors, temporary, metadata={KEY: json.dumps(header, sort_keys=True)})


def load_weights(run: Path) -> tuple[dict[str, Tensor], str, int, tuple[str, ...]]:
    """(tensors, tokenizer, step, words of the captions).  UserError where they are missing, damaged or not finite."""
    path = run / NAME
    if not path.is_file():
        raise UserError(f"{run} has no weights ({NAME}): train it first, or choose another run folder.")
    again = "copy it again, or train again to write it from the newest checkpoint."
    try:
        with safe_open(path, "pt") as file:
            entries = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as e:
        raise UserError(f"{path} is damaged ({str(e).splitlines()[0]}): {again}") from None
    if KEY not in entries and "tokenizer" in entries:
        raise UserError(f"{path} was written by an older fromnoise: train again into another folder.")
    try:
        header = json.loads(entries[KEY])
        if header.pop("sha256") != digest(tensors, header):
            raise ValueError
        tokenizer, step = str(header["tokenizer"]), int(header["step"])
        words = tuple(map(str, header.get("words", ())))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path} is damaged (its checksum does not match): {again}") from None
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
        raise UserError(f"{path} holds weights that are not finite numbers: go back to an earlier checkpoint.")
    return tensors, tokenizer, step, words


def digest(tensors: dict[str, Tensor], header: dict[str, Any]) -> str:
    """SHA-256 over the rest of the header, and names, shapes and bytes of the tensors, in the order of the names."""
    sha = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        t = tensors[name]
        sha.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        sha.update(memoryview(t.contiguous().reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
    return sha.hexdigest()
