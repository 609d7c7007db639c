"""The user's own pictures as a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from fromnoise.config import spec
from fromnoise.data.buckets import Size, assign, bucket_sizes
from fromnoise.data.folder import Found, discover
from fromnoise.data.images import Refused, cover, open_picture
from fromnoise.media import from_uint8
from fromnoise.random import uniforms
from fromnoise.types import Batch, UserError

IN_MEMORY = 512 * 2**20  # bytes of decoded pictures that are kept; larger sets are decoded when they are needed
FEWEST = 4  # pictures below which a bucket of its own is not worth while
FEW = 10  # pictures below which none is held out


@spec
class Folder:
    """A folder of pictures, captioned by text files, metadata or sub-folders, or not at all."""

    kind: Literal["folder"] = "folder"
    root: str
    """The folder."""
    resolution: Annotated[int, Field(ge=8, le=4096)] = 64
    """Pictures are brought to about resolution x resolution pixels."""
    multiple: Annotated[int, Field(ge=1, le=256)] = 8
    """Both sides become multiples of this."""
    buckets: bool = True
    """Keep aspect ratios, by buckets of like size; without it pictures are cut square."""
    max_aspect: Annotated[float, Field(ge=1, le=8)] = 2.0
    """Longest aspect ratio of a bucket; longer pictures are cut."""
    flip: bool = False
    """Mirror half of the pictures at random; not for text, letters or faces with a parting."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share kept for evaluation; of fewer than 10 pictures, none."""

    channels = 3
    frames = 1

    @property
    def height(self) -> int:
        return max(self.multiple, round(self.resolution / self.multiple) * self.multiple)

    @property
    def width(self) -> int:
        return self.height

    def open(self, split: Literal["train", "test"]) -> PictureSource:
        """Pictures to train on, or those held out."""
        return PictureSource(self, split)

    def summary(self) -> Summary:
        """What is in the folder, and what was skipped and why."""
        scan = scan_folder(self)
        return Summary(self.root, len(scan.files), len(self.open("train")), scan.sizes, dict(Counter(scan.buckets)),
                       scan.found.origins, scan.skipped)


@dataclass(frozen=True)
class Summary:
    """A folder at a glance."""

    root: str
    pictures: int
    training: int
    sizes: list[Size]
    buckets: dict[Size, int]
    captions: dict[str, int]
    skipped: list[tuple[str, str]]

    def lines(self) -> list[str]:
        widths, heights = zip(*self.sizes, strict=True)
        captions = ", ".join(f"{n} from {origin}" if origin != "none" else f"{n} without"
                             for origin, n in self.captions.items())
        found = [
            f"{self.pictures} pictures in {self.root}, {self.training} to train on; "
            f"{min(widths)}x{min(heights)} to {max(widths)}x{max(heights)} pixels",
            f"captions: {captions}",
            "buckets: " + ", ".join(f"{w}x{h}: {n}" for (w, h), n in sorted(self.buckets.items())),
        ]
        if self.skipped:
            found.append(f"skipped {len(self.skipped)}:")
            found += [f"  {name}: {reason}" for name, reason in self.skipped[:20]]
            found += [f"  and {len(self.skipped) - 20} more"] if len(self.skipped) > 20 else []
        return found


@dataclass(frozen=True)
class Scan:
    """A folder whose every picture has been opened once."""

    found: Found
    files: list[Path]
    captions: list[tuple[str, ...]]
    sizes: list[Size]
    buckets: list[Size]
    skipped: list[tuple[str, str]]
    pixels: list[np.ndarray] | None

    def picture(self, i: int) -> np.ndarray:
        """uint8 ``[h, w, 3]`` at its bucket's size."""
        return self.pixels[i] if self.pixels is not None else _decode(self.files[i], self.buckets[i])


@lru_cache(maxsize=4)
def scan_folder(spec: Folder) -> Scan:
    """Open every picture, learn its size, sort it into a bucket, and keep it where all fit in memory.

    UserError where no picture can be used.
    """
    root = Path(spec.root).expanduser()
    found = discover(root)
    with ThreadPoolExecutor() as pool:
        looked = list(pool.map(_size_or_reason, found.files))
    good = [i for i, look in enumerate(looked) if not isinstance(look, str)]
    skipped = found.skipped + [(str(found.files[i].relative_to(root)), look)
                               for i, look in enumerate(looked) if isinstance(look, str)]
    if not good:
        name, reason = skipped[0]
        raise UserError(f"None of the {len(found.files)} pictures in {root} can be used (such as {name}: {reason}).")
    sizes = [looked[i] for i in good]
    square = [(spec.width, spec.height)]
    choices = bucket_sizes(spec.resolution, spec.multiple, spec.max_aspect) if spec.buckets else square
    buckets = assign(sizes, choices, FEWEST)  # type: ignore[arg-type]
    files = [found.files[i] for i in good]
    pixels = None
    if sum(3 * w * h for w, h in buckets) <= IN_MEMORY:
        with ThreadPoolExecutor() as pool:
            pixels = list(pool.map(_decode, files, buckets))
    return Scan(found, files, [found.captions[i] for i in good], sizes, buckets, skipped, pixels)  # type: ignore[arg-type]


class PictureSource:
    """One split of a scanned folder; ``groups`` are its buckets."""

    def __init__(self, spec: Folder, split: str):
        self.spec, self.scan = spec, scan_folder(spec)
        count = len(self.scan.files)
        by_name = uniforms([_hash(f.name) for f in self.scan.files], 1)[:, 0]
        kept = max(1, round(spec.held_out * count)) if spec.held_out and count >= FEW else 0
        held_out = set(np.argsort(by_name, kind="stable")[:kept].tolist())
        wanted = held_out if split == "test" and kept else set(range(count)) - held_out
        self.members = sorted(wanted)

    @property
    def captions(self) -> list[str]:
        return sorted({text for texts in self.scan.captions for text in texts}) or [""]

    @property
    def groups(self) -> list[list[int]]:
        groups: dict[Size, list[int]] = {}
        for i, member in enumerate(self.members):
            groups.setdefault(self.scan.buckets[member], []).append(i)
        return [groups[size] for size in sorted(groups)]

    def __len__(self) -> int:
        return len(self.members)

    def batch(self, indices: Sequence[int], keys: Sequence[int]) -> Batch:
        members = [self.members[i] for i in indices]
        media = from_uint8(np.stack([self.scan.picture(m) for m in members]))[:, None]
        draws = uniforms(keys, 2)
        if self.spec.flip:
            mirrored = torch.from_numpy(draws[:, 0] < 0.5).view(-1, 1, 1, 1, 1)
            media = torch.where(mirrored, media.flip(-1), media)
        phrasings = [self.scan.captions[m] for m in members]
        text = [p[int(u * len(p))] if p else "" for p, u in zip(phrasings, draws[:, 1], strict=True)]
        return Batch(media, text, list(indices))

    def prompts(self) -> list[str]:
        """The captions that occur most, or the empty one."""
        counts = Counter(texts[0] for texts in self.scan.captions if texts)
        return [text for text, _ in counts.most_common(8)] or [""]


def _size_or_reason(path: Path) -> Size | str:
    try:
        return open_picture(path).size
    except Refused as reason:
        return str(reason)


def _decode(path: Path, size: Size) -> np.ndarray:
    try:
        return cover(open_picture(path), *size)
    except Refused as reason:
        raise UserError(f"{path} could be read before training but now {reason}.") from None


def _hash(name: str) -> int:
    """A number that depends on a file's name alone."""
    import hashlib

    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
