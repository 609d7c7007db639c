"""Latents of the training data, encoded once and kept in shards, so that training never encodes.

    latent-cache/<key>/cache.json, 000-0-000000.safetensors, ...       (group, version, number)

The key is a hash of all that the latents depend on: the autoencoder's weights and spec, the data and the format.  Each
shard is whole or not there, so that what was killed is completed, and several runs may use one folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fromnoise.config import to_dict
from fromnoise.data.wrapped import First, Stills, Wrapped
from fromnoise.files import disk_errors, replacing, write_text
from fromnoise.recipe import AnyRecipe, Recipe
from fromnoise.system import System
from fromnoise.train.lock import locked
from fromnoise.types import Batch, Encoded, Source

FORMAT = 1
FOLDER = "latent-cache"
BYTES = 8 * 2**20  # of a shard: no more is lost when encoding is killed


@dataclass(frozen=True)
class Shard:
    """A file with the latents of some examples of one size, in one version."""

    path: Path
    members: np.ndarray
    version: int

    def read(self) -> dict[str, Tensor] | None:
        """Its tensors ``[n, t, c, h, w]``, mapped and not read; None where it is not there, or damaged."""
        try:
            with safe_open(self.path, "pt") as file:
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None
        return found if all(len(t) == len(self.members) for t in found.values()) else None


class LatentCache:
    """The latents of a source by an autoencoder, below the folder ``root``."""

    def __init__(self, root: Path, system: System, source: Source):
        self.system, self.source = system, source
        self.dtype = getattr(torch, system.recipe.encoding.dtype)
        self.about = describe(system, source)
        self.folder = root / hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()[:20]
        self.shards: list[Shard] = []
        self.place = np.zeros((source.versions, len(source), 2), dtype=np.int64)  # (shard, row) of each example
        for number, group in enumerate(source.groups):
            self._lay_out(number, np.asarray(group))
        self.mapped: dict[int, dict[str, Tensor]] = {}

    def _lay_out(self, number: int, group: np.ndarray) -> None:
        """Cut a group, whose pictures have one size, into shards."""
        rows = max(1, BYTES // self._bytes(int(group[0])))
        for version in range(self.source.versions):
            for i in range(0, len(group), rows):
                members = group[i : i + rows]
                self.place[version, members] = np.stack([np.full(len(members), len(self.shards)),
                                                         np.arange(len(members))], axis=1)
                name = f"{number:03d}-{version}-{i // rows:06d}.safetensors"
                self.shards.append(Shard(self.folder / name, members, version))

    def _bytes(self, example: int) -> int:
        """Room that the latents of an example take."""
        _, T, _, H, W = self.source.pictures([example], [0]).shape
        latents, both = self.system.latents, 1 + self.system.recipe.encoding.draw
        places = latents.latent_frames(T) * (H // latents.factor) * (W // latents.factor)
        return places * latents.channels * self.dtype.itemsize * both

    def fill(self, progress: Callable[[int, int], None] = lambda done, total: None,
             message: Callable[[str], None] = lambda text: None) -> None:
        """Encode what is missing; where another process does so already, wait for it.

        progress: told how many pictures of how many are there.  UserError where the disk refuses.
        """
        missing = [shard for shard in self.shards if shard.read() is None]
        if not missing:
            return
        with locked(self.folder, lambda: message(f"Another process encodes into {self.folder}: waiting for it.")):
            write_text(self.folder / "cache.json", json.dumps(self.about, indent=2, ensure_ascii=False) + "\n")
            total = sum(len(shard.members) for shard in self.shards)
            done = total - sum(len(shard.members) for shard in missing)
            progress(done, total)
            for shard in missing:
                if shard.read() is None:  # another process may have made it meanwhile
                    self._write(shard)
                done += len(shard.members)
                progress(done, total)

    def _write(self, shard: Shard) -> None:
        parts: list[Encoded] = []
        _, T, _, H, W = self.source.pictures([int(shard.members[0])], [0]).shape
        width = self.system.at_once(H, W, T)
        for i in range(0, len(shard.members), width):
            some = shard.members[i : i + width].tolist()
            media = self.source.pictures(some, [shard.version] * len(some)).to(self.system.device)
            parts.append(self.system.encode(media).map(lambda x: x.to("cpu", self.dtype)))
        tensors = {"mean": torch.cat([part.mean for part in parts])}
        if self.system.recipe.encoding.draw:
            tensors["logvar"] = torch.cat([part.logvar for part in parts if part.logvar is not None])
        with disk_errors(shard.path), replacing(shard.path) as temporary:
            save_file(tensors, temporary)

    def rows(self, indices: Sequence[int], versions: Sequence[int]) -> Encoded:
        """The latents of examples of one size, in float32."""
        shards, rows = self.place[list(versions), list(indices)].T
        found: dict[str, Tensor] = {}
        for number in np.unique(shards).tolist():
            here = np.flatnonzero(shards == number)
            for name, tensor in self._map(number).items():
                out = found.setdefault(name, torch.empty(len(indices), *tensor.shape[1:]))
                out[here] = tensor[rows[here]].float()
        return Encoded(**found)

    def _map(self, number: int) -> dict[str, Tensor]:
        """The tensors of a shard, each file opened once."""
        if number not in self.mapped:
            found = self.shards[number].read()
            if found is None:
                raise RuntimeError(f"{self.shards[number].path} has gone, or is damaged")
            self.mapped[number] = found
        return self.mapped[number]


def training_source(recipe: AnyRecipe) -> Source:
    """The examples to train on: of a latent model, as many as encoding.examples asks for; films or stills of them."""
    source: Source = recipe.data.open("train")
    if not isinstance(recipe, Recipe):
        return source
    count, stills = recipe.encoding.examples if recipe.latent else 0, recipe.train.stills
    source = First(source, count) if count else source
    return Stills(source, stills) if stills and recipe.data.frames > 1 else source


def describe(system: System, source: Source) -> dict[str, Any]:
    """All that the latents depend on, and how they are kept."""
    recipe = system.recipe
    return {"format": FORMAT, "autoencoder": recipe.encoding.sha256, "latents": to_dict(recipe.latents),
            "data": to_dict(recipe.data), "fingerprint": source.fingerprint, "examples": len(source),
            "draw": recipe.encoding.draw, "dtype": recipe.encoding.dtype}


def never_cached(source: Source, unbounded: bool) -> str:
    """Why the latents of a source cannot be kept; "" where they can."""
    if unbounded:
        return ("These data have no end, so each step encodes its own: --encoding.examples 20000 would train on so "
                "many, whose latents are kept.")
    return "" if source.versions else "Every step cuts its own clips, so each encodes its own: no latents are kept."


def cached_latents(system: System, source: Source, out: Path, progress: Callable[[int, int], None],
                   message: Callable[[str], None]) -> LatentSource:
    """The source of a run in ``out`` with latents in the place of pictures; those that are missing are encoded."""
    cache = LatentCache(Path(system.recipe.encoding.folder or out.parent / FOLDER), system, source)
    cache.fill(progress, message)
    return LatentSource(source, cache)


class LatentSource(Wrapped):
    """A source whose pictures were encoded before: its batches hold latents, and captions as they come by key."""

    def __init__(self, source: Source, cache: LatentCache):
        super().__init__(source)
        self.cache = cache

    def batch(self, indices: Sequence[int], keys: Sequence[int]) -> Batch:
        versions, text = self.choose(indices, keys)
        latents = self.cache.rows(indices, versions)
        empty = torch.empty(*latents.mean.shape[:2], 0, 0, 0)
        return Batch(empty, text, list(indices), latents, self.rates(indices), self.actions(indices),
                     self.rewards(indices), self.ends(indices))
