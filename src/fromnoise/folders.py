"""Folders in the layout of diffusers: model_index.json, and a folder with a config and weights for each component.

Weights are read from safetensors alone, in one file or in shards with an index; what can only be unpickled is
refused.  Tensors are mapped from the file and become the module's own, so a model is in memory once.
Names that stand in files are plain names: none of them leads out of the folder it stands in.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import Tensor

from fromnoise.config import read_json
from fromnoise.types import UserError

INDEX = "model_index.json"
CONFIGS = ("config.json", "scheduler_config.json")
STEMS = ("diffusion_pytorch_model", "model")  # as diffusers and transformers name their files
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack")


class Weights(dict[str, Tensor]):
    """Tensors by name, and where they were read; asking for one that is not there is a UserError."""

    def __init__(self, tensors: Mapping[str, Tensor], where: str):
        super().__init__(tensors)
        self.where = where

    def __missing__(self, key: str) -> Tensor:
        raise UserError(f'{self.where} has no tensor "{key}": the file is incomplete, or of another model than its '
                        "config says.")


@dataclass(frozen=True)
class Component:
    """One part of a pipeline: its class, the library that class is from, and its folder."""

    name: str
    library: str
    kind: str
    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """The JSON object of its config.  UserError where it has none, as tokenizers."""
        name = next((name for name in CONFIGS if (self.folder / name).is_file()), CONFIGS[0])
        return read_object(self.folder / name)

    def choice(self, variant: str | None = None) -> tuple[str, str | None]:
        """(stem, variant) of the files to read: of ``variant`` where there are such, else the plain ones.

        Where there are no plain ones either, the only variant there is.  UserError where there is nothing to choose.
        """
        for stem in STEMS:
            variants = self._variants(stem)
            chosen = variant if variant in variants else None if None in variants or len(variants) != 1 else variants[0]
            if chosen in variants:
                return stem, chosen
            if variants:
                raise UserError(f"{self.folder} holds weights only as {' and '.join(map(str, variants))}: choose one "
                                "of them as the variant.")
        raise UserError(self._no_weights())

    def files(self, variant: str | None = None) -> dict[Path, list[str]]:
        """Its safetensors files, and the tensors that an index says they hold.  UserError as for ``choice``."""
        return self._files_of(*self.choice(variant))

    def _variants(self, stem: str) -> list[str | None]:
        """The variants of which a file or an index is there, None for the plain one."""
        pattern = re.compile(rf"{stem}(?:\.(\w+))?(?:-\d+-of-\d+)?\.safetensors(?:\.index(?:\.(\w+))?\.json)?")
        names = sorted(path.name for path in self.folder.iterdir())
        return list(dict.fromkeys(m[1] or m[2] for name in names if (m := pattern.fullmatch(name))))

    def _files_of(self, stem: str, variant: str | None) -> dict[Path, list[str]]:
        middle = f".{variant}" if variant else ""
        whole = self.folder / f"{stem}{middle}.safetensors"
        if whole.is_file():
            return {whole: []}
        # diffusers puts the variant after "index", transformers before
        names = (f"{stem}.safetensors.index{middle}.json", f"{stem}{middle}.safetensors.index.json")
        index = next((self.folder / name for name in names if (self.folder / name).is_file()), None)
        if index is None:
            raise UserError(f"{self.folder} holds shards of weights but not their index ({names[0]}): copy it too.")
        table = read_object(index).get("weight_map")
        if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
            raise UserError(f'{index} is not an index of shards: it must have a "weight_map" from tensors to files.')
        found: dict[Path, list[str]] = {}
        for key, name in table.items():
            found.setdefault(inside(self.folder, name, index), []).append(key)
        for path in found:
            if not path.is_file():
                raise UserError(f"{index} names {path.name}, which is not there: the folder is incomplete.")
        return found

    def _no_weights(self) -> str:
        pickles = sorted(p.name for p in self.folder.iterdir() if p.suffix in PICKLES)
        if pickles:
            return (f"{self.folder} holds its weights as {pickles[0]}, a pickle, which can run code when it is opened "
                    "and is never opened here: where you trust it, open it in the library that wrote it and let "
                    "save_pretrained write it again as safetensors.")
        return f"{self.folder} has no weights ({STEMS[0]}.safetensors or {STEMS[1]}.safetensors)."

    def weights(self, variant: str | None = None, dtype: torch.dtype | None = None) -> Weights:
        """Every tensor by name, mapped from the files; floating ones in ``dtype`` where it is given.

        UserError where a file is missing or damaged, or does not hold what the index says.
        """
        files = self.files(variant)
        found = Weights({}, str(next(iter(files)) if len(files) == 1 else self.folder))
        for path, keys in files.items():
            tensors = read_tensors(path, dtype)
            lost = [key for key in keys if key not in tensors]
            if lost:
                raise UserError(f'{path} does not hold the tensor "{lost[0]}", which its index says it does: the '
                                "folder is incomplete.")
            found.update(tensors)
        return found


@dataclass(frozen=True)
class Pipeline:
    """A folder that a diffusers pipeline was saved to: its class, its parts and its own settings."""

    folder: Path
    kind: str
    components: dict[str, Component]
    settings: dict[str, Any] = field(default_factory=dict)

    def part(self, name: str) -> Component:
        """A component; UserError where the pipeline has none of that name, or its folder is not there."""
        if name not in self.components:
            raise UserError(f"{self.folder / INDEX} names no {name}: it has {', '.join(sorted(self.components))}.")
        part = self.components[name]
        if not part.folder.is_dir():
            raise UserError(f"{self.folder / INDEX} names the part {name}, but there is no folder {part.folder}: the "
                            "pipeline is incomplete.")
        return part


def open_pipeline(source: str | Path, variant: str | None = None, revision: str | None = None) -> Pipeline:
    """The pipeline in a folder, or of a hub id such as "owner/name", which is downloaded without its pickles.

    Only model_index.json is read here: a part that is never asked for may be missing.  UserError where the folder or
    the id is not there, or is in another layout.
    """
    folder = Path(source) if Path(source).is_dir() else download(str(source), variant, revision)
    if not (folder / INDEX).is_file():
        raise UserError(not_a_pipeline(folder))
    index = read_object(folder / INDEX)
    kind = index.get("_class_name")
    if not isinstance(kind, str):
        raise UserError(f'{folder / INDEX} does not say which pipeline this is: it has no "_class_name".')
    parts, settings = {}, {}
    for name, value in index.items():
        if name.startswith("_"):
            continue
        if isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value):
            library, part = value
            parts[name] = Component(name, library, part, inside(folder, name, folder / INDEX))
        elif not (isinstance(value, list) and value == [None, None]):
            settings[name] = value
    return Pipeline(folder, kind, parts, settings)


def open_component(folder: str | Path) -> Component:
    """A model saved on its own: a folder with config.json and weights.  UserError where it is not one."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    config = read_object(folder / CONFIGS[0])
    kind = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
    if not isinstance(kind, str):
        raise UserError(f'{folder / CONFIGS[0]} does not say which model this is: it has no "_class_name".')
    return Component(folder.name, "diffusers" if "_class_name" in config else "transformers", kind, folder)


def not_a_pipeline(folder: Path) -> str:
    """What a folder is that is no pipeline, in a sentence."""
    single = [p.name for p in sorted(folder.iterdir()) if p.suffix in (".safetensors", *PICKLES)]
    sentence = f"{folder} is not in the layout of diffusers: it has no {INDEX}"
    if (folder / CONFIGS[0]).is_file():
        return f"{sentence}, only {CONFIGS[0]}, so it is one part of a pipeline and not a whole one."
    if single:
        return f"{sentence}, only {single[0]}: diffusers' from_single_file and save_pretrained convert such a file."
    return f"{sentence}."


# ---- files -----------------------------------------------------------------------------------------------


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; UserError where it is missing, damaged or something else."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise UserError(f"{path} must hold a JSON object, and it holds {type(data).__name__}.")
    return data


def inside(folder: Path, name: str, where: Path) -> Path:
    """``folder / name`` for a plain name; UserError for one that could lead elsewhere.

    By the letters alone: the files of a hub cache are links to where they are kept.
    """
    if not name or name in (".", "..") or any(c in name for c in "/\\:\0"):
        raise UserError(f'{where} names "{name[:80]}", which is not a plain file name: it is not followed.')
    return folder / name


def read_tensors(path: Path, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The tensors of one safetensors file, mapped; UserError where it is damaged."""
    from safetensors import SafetensorError, safe_open

    def cast(t: Tensor) -> Tensor:
        return t.to(dtype) if dtype is not None and t.is_floating_point() else t

    try:
        with safe_open(path, "pt") as file:
            return {key: cast(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as e:
        raise UserError(f"{path} is damaged or incomplete ({str(e).splitlines()[0]}): copy it again.") from None


# ---- the hub ---------------------------------------------------------------------------------------------

WANTED = ("*.json", "*/*.json", "*/*.txt", "*/*.model", "*/*.jinja", "*/*.safetensors")  # nothing that is unpickled


def reachable(seconds: float = 3.0) -> bool:
    """Whether the hub answers.  Its own client would go on trying for half a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    address = urlsplit(constants.ENDPOINT)
    if address.scheme in getproxies():  # then only the proxy knows
        return True
    try:
        socket.create_connection((address.hostname or "", address.port or 443), seconds).close()
    except OSError:
        return False
    return True


def whereabouts(name: str) -> dict[str, Any]:
    """What transformers is told beside the name of a model, a folder or a hub id: not to ask a hub that is away.

    UserError, at once, where it is then nowhere to be had.
    """
    if Path(name).is_dir():
        return {"local_files_only": True}
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return {}
    try:
        cached = isinstance(try_to_load_from_cache(name, CONFIGS[0]), str)
    except HFValidationError:
        raise UserError(f"There is no folder {name}, and it cannot be a hub id.") from None
    away = not reachable()
    if away and not cached:
        raise UserError(f"{name} cannot be had: it is no folder, as a hub id it is not cached here, and the hub cannot "
                        "be reached. Go online once, or name a folder that holds it.")
    return {"local_files_only": away}


def download(name: str, variant: str | None = None, revision: str | None = None,
             wanted: Sequence[str] = WANTED) -> Path:
    """The local folder of a hub id, its ``wanted`` files downloaded where they are not cached yet.

    UserError where it cannot be had.
    """
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"There is no folder {name}, and it is not a hub id such as owner/name.")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise UserError(f"There is no folder {name}; to take it from the hub, pip install huggingface_hub.") from None
    other = [] if variant else ["*.fp16*.safetensors*", "*.bf16*.safetensors*", "*.non_ema*.safetensors*"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(wanted), ignore_patterns=other,
                                      local_files_only=not reachable()))
    except HFValidationError:
        raise UserError(f"There is no folder {name}, and it cannot be a hub id.") from None
    except LocalEntryNotFoundError:
        raise UserError(f"There is no folder {name}; as a hub id it is not cached here, and the hub cannot be "
                        "reached: go online once, or name a folder.") from None
    except HfHubHTTPError as e:
        raise UserError(f"The hub does not give {name} ({' '.join(str(e).split())[:160]}): it may not exist, or need "
                        "an agreement and a login.") from None
    except OSError as e:
        raise UserError(f"{name} could not be downloaded ({' '.join(str(e).split())[:160]}): go online, or name a "
                        "folder.") from None
