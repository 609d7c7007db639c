"""LoRAs on the command line: FILE or FILE:SCALE, as often as there are LoRAs.

What can be said against them without the model is said before it is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Annotated

import tyro

from fromnoise.settings import Adapter
from fromnoise.types import UserError

Loras = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


def files_and_scales(words: Iterable[str]) -> list[tuple[str, float]]:
    """("style.safetensors", 0.8) of "style.safetensors:0.8"; without a scale it is 1.  UserError for no such file."""
    from fromnoise.interop.lora import lora_file

    found = [file_and_scale(word) for word in words]
    for path, _ in found:
        lora_file(path)
    return found


def file_and_scale(word: str) -> tuple[str, float]:
    """One of them."""
    path, _, scale = word.rpartition(":")
    if not path or os.path.exists(word):  # a name may have a colon in it
        return word, 1.0
    try:
        return path, float(scale)
    except ValueError:
        if os.path.exists(path):
            raise UserError(f'--lora is a file, or FILE:SCALE with a number (got "{scale}" for {path}).') from None
        return word, 1.0


def those_of(loras: Iterable[Adapter], picture: str) -> list[tuple[str, float]]:
    """The files and scales that a picture was made with.  UserError where a file is gone or is another now."""
    from fromnoise.interop.lora import fingerprint

    for lora in loras:
        if not os.path.exists(lora.path):
            raise UserError(f"{picture} was made with the LoRA {lora.path}, which is no longer there: put it back, or "
                            "name another one with --lora.")
        if fingerprint(lora.path) != lora.sha256:
            raise UserError(f"{picture} was made with the LoRA {lora.path}, which has changed since: put the old one "
                            f"back, or take the new one with --lora {lora.path}:{lora.scale:g}.")
    return [(lora.path, lora.scale) for lora in loras]
