"""The user's own pictures as a data set."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fromnoise.config import spec
from fromnoise.data.buckets import Size, assign, bucket_sizes
from fromnoise.data.folder import discover, printable
from fromnoise.data.images import Refused, cover, open_picture, picture_size
from fromnoise.media import from_uint8
from fromnoise.random import uniforms
from fromnoise.types import Source, UserError

IN_MEMORY = 512 * 2**20  # bytes of decoded pictures that are kept; the rest are decoded when they are needed
FEWEST = 4  # pictures below which a bucket of its own is not worth while
FEW = 10  # pictures below which none is held out
LISTED = 20  # skipped files that are named in the summary's text


@spec
class Folder:
    """A folder of pictures, captioned by text files, metadata or sub-folders, or not at all."""

    kind: Literal["folder"] = "folder"
    root: str
    """The folder; sub-folders are searched too."""
    resolution: Annotated[int, Field(ge=8, le=4096)] = 64
    """Pictures are brought to about resolution x resolution pixels."""
    multiple: Annotated[int, Field(ge=1, le=256)] = 8
    """Both sides become multiples of this, and at least this."""
    buckets: bool = True
    """Keep aspect ratios, by buckets of like size; without it pictures are cut square."""
    max_aspect: Annotated[float, Field(ge=1, le=8)] = 2.0
    """Longest aspect ratio of a bucket; longer pictures are cut."""
    flip: bool = False
    """Mirror half of the pictures at random; not for text, letters or anything with a left and a right."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share kept for evaluation, chosen by file name; of fewer than 10 pictures, none."""
    caption_key: Annotated[str, Field(min_length=1)] = "text"
    """Field of metadata.jsonl or metadata.csv that holds the captions."""
    folder_names: bool = True
    """Sub-folders' names are the captions of pictures that have no other."""

    channels = 3
    frames = 1

    @property
    def height(self) -> int:
        return max(self.multiple, round(self.resolution / self.multiple) * self.multiple)

    @property
    def width(self) -> int:
        return self.height

    def open(self, split: Literal["train", "test"]) -> PictureSource:
        """Pictures to train on, or those held out.  UserError where the folder holds no usable picture."""
        return PictureSource(self, split)

    def summary(self) -> Summary:
        """What is in the folder, and what was skipped and why.  UserError as for ``open``."""
        scan, training = scan_folder(self), len(self.open("train"))
        small = sum(w < bw or h < bh for (w, h), (bw, bh) in zip(scan.sizes, scan.buckets, strict=True))
        return Summary(
            root=printable(self.root), pictures=len(scan.files), training=training, held_out=len(scan.files) - training,
            sizes=scan.sizes, enlarged=small, buckets=dict(sorted(Counter(scan.buckets).items())),
            captions=dict(Counter(scan.origins)), skipped=scan.skipped,
        )


@dataclass(frozen=True)
class Summary:
    """A folder at a glance.

    sizes: (width, height) of every usable picture;  enlarged: how many are smaller than their bucket;
    buckets: {(width, height): pictures};  captions: {"text files" | "metadata" | "sub-folders" | "none": pictures};
    skipped: (name, reason) of every file, link and metadata row that is not used, safe to print.
    """

    root: str
    pictures: int
    training: int
    held_out: int
    sizes: list[Size]
    enlarged: int
    buckets: dict[Size, int]
    captions: dict[str, int]
    skipped: list[tuple[str, str]]

    def lines(self) -> list[str]:
        """Plain text; names may hold square brackets, so print it without markup."""
        widths, heights = zip(*self.sizes, strict=True)
        captions = ", ".join(f"{n} from {origin}" if origin != "none" else f"{n} without"
                             for origin, n in sorted(self.captions.items()))
        found = [
            f"{self.pictures} pictures in {self.root}: {self.training} to train on, {self.held_out} held out",
            f"sizes: {min(widths)} to {max(widths)} wide, {min(heights)} to {max(heights)} high"
            + (f"; {self.enlarged} are smaller than their bucket and are enlarged" if self.enlarged else ""),
            f"captions: {captions}",
            "buckets, width x height and pictures:",
        ]
        found += [f"  {f'{w}x{h}':>9} {n:>7}" for (w, h), n in self.buckets.items()]
        return found + listed(self.skipped)


def listed(skipped: Sequence[tuple[str, str]]) -> list[str]:
    """Lines that name what was skipped, and why."""
    if not skipped:
        return []
    found = [f"skipped {len(skipped)}:", *(f"  {name}: {reason}" for name, reason in skipped[:LISTED])]
    return found + ([f"  and {len(skipped) - LISTED} more"] if len(skipped) > LISTED else [])


@dataclass(frozen=True)
class Scan:
    """The usable pictures of a folder, each decoded once.

    pixels: uint8 ``[3, h, w]`` at the size of the bucket, None for those that memory had no room for.
    """

    root: Path
    files: list[Path]
    captions: list[tuple[str, ...]]
    origins: list[str]
    sizes: list[Size]
    buckets: list[Size]
    pixels: list[np.ndarray | None]
    skipped: list[tuple[str, str]]

    def pictures(self, members: Sequence[int]) -> np.ndarray:
        """uint8 ``[n, 3, h, w]`` at the size of the bucket, which all must share."""
        rows = [self.pixels[m] for m in members]
        if any(row is None for row in rows):
            rows = list(pool().map(self._again, members))
        return np.stack(rows)  # type: ignore[arg-type]

    def _again(self, member: int) -> np.ndarray:
        if (kept := self.pixels[member]) is not None:
            return kept
        try:
            return decode(self.root / self.files[member], self.buckets[member])
        except Refused as reason:
            name = printable(str(self.files[member]))
            raise UserError(f"{name} in {printable(str(self.root))} was read before training started, but now it "
                            f"cannot be: {reason}.  Put it back, or train anew without it.") from None


@lru_cache(maxsize=2)
def scan_folder(spec: Folder) -> Scan:
    """Find every picture, sort it into a bucket by its header, and decode it once to know that it is whole.

    Decoded pictures are kept up to IN_MEMORY bytes.  UserError where no picture can be used.
    """
    if not spec.root:
        raise UserError("Which folder are the pictures in? Add --data and the folder: --data ./photos.")
    root = Path(os.path.expanduser(spec.root))
    found = discover(root, spec.caption_key, spec.folder_names)
    refused: dict[int, str] = {}
    sizes = dict(enumerate(pool().map(tried(picture_size), [root / f for f in found.files])))
    refused |= {i: str(s) for i, s in sizes.items() if isinstance(s, Refused)}
    good = [i for i in sizes if i not in refused]
    square = [(spec.width, spec.height)]
    choices = bucket_sizes(spec.resolution, spec.multiple, spec.max_aspect) if spec.buckets else square
    buckets = dict(zip(good, assign([sizes[i] for i in good], choices, FEWEST), strict=True))
    room = dict(zip(good, accumulate(3 * w * h for w, h in buckets.values()), strict=True))

    def look(i: int) -> np.ndarray | None:
        pixels = decode(root / found.files[i], buckets[i])
        return pixels if room[i] <= IN_MEMORY else None

    pixels = dict(zip(good, pool().map(tried(look), good), strict=True))
    refused |= {i: str(p) for i, p in pixels.items() if isinstance(p, Refused)}
    good = [i for i in good if i not in refused]
    skipped = found.skipped + [(printable(str(found.files[i])), refused[i]) for i in sorted(refused)]
    if not good:
        raise UserError(f"None of the {len(found.files)} picture files in {printable(spec.root)} can be used (for "
                        f"example {skipped[-1][0]}: {skipped[-1][1]}).")

    def of(column: Any) -> list[Any]:
        return [column[i] for i in good]

    return Scan(root=root, files=of(found.files), captions=of(found.captions), origins=of(found.origins),
                sizes=of(sizes), buckets=of(buckets), pixels=of(pixels), skipped=skipped)


def decode(path: Path, size: Size) -> np.ndarray:
    """uint8 ``[3, h, w]`` of a file, covering (width, height) = ``size``.  Raises Refused.

    Large pictures come from the gate at no less than three times the size: Lanczos does the rest, and
    the result can hardly be told from Lanczos all the way.
    """
    return np.ascontiguousarray(cover(open_picture(path, enough=3 * max(size)), *size).transpose(2, 0, 1))


def tried(function: Callable) -> Callable:
    """The function with Refused returned instead of raised."""
    def asked(*args):
        try:
            return function(*args)
        except Refused as reason:
            return reason
    return asked


@lru_cache(maxsize=1)
def pool() -> ThreadPoolExecutor:
    """Threads that decode: Pillow frees the interpreter while it does."""
    return ThreadPoolExecutor(min(16, os.cpu_count() or 4), thread_name_prefix="pictures")


class PictureSource(Source):
    """One split of a scanned folder.

    ``groups`` are its buckets: pictures of one size, which alone may share a batch.  Every picture is in
    exactly one group; a group may be smaller than a batch.
    ``held_out`` tells whether the test split is apart from the training split; where it is not (fewer than
    ten pictures, or ``held_out=0``) both hold every picture, so that there is always something to compare with.
    """

    def __init__(self, spec: Folder, split: Literal["train", "test"]):
        self.spec, self.scan = spec, scan_folder(spec)
        train, test = split_files(self.scan.files, spec.held_out)
        self.held_out = bool(test)
        self.members = test if split == "test" and test else train
        self.versions = 2 if spec.flip else 1

    @property
    def fingerprint(self) -> str:
        """A hash of the files: their names, sizes and dates."""
        return fingerprint_of(self.scan.root, [self.scan.files[m] for m in self.members])

    @property
    def captions(self) -> list[str]:
        """Every phrasing that occurs in this split; the empty one where there are none."""
        return sorted({text for m in self.members for text in self.scan.captions[m]}) or [""]

    @property
    def groups(self) -> list[list[int]]:
        groups: dict[Size, list[int]] = {}
        for i, member in enumerate(self.members):
            groups.setdefault(self.scan.buckets[member], []).append(i)
        return [groups[size] for size in sorted(groups)]

    def __len__(self) -> int:
        return len(self.members)

    def choose(self, indices: Sequence[int], keys: Sequence[int]) -> tuple[list[int], list[str]]:
        """(1 where a picture is mirrored, its phrasing)."""
        draws = uniforms(keys, 2)
        phrasings = [self.scan.captions[self.members[i]] for i in indices]
        text = [p[int(u * len(p))] if p else "" for p, u in zip(phrasings, draws[:, 1], strict=True)]
        return ((draws[:, 0] < 0.5) & self.spec.flip).astype(int).tolist(), text

    def pictures(self, indices: Sequence[int], versions: Sequence[int]) -> Tensor:
        """Pictures ``[B, 1, 3, h, w]`` of one group.

        UserError where a picture that is decoded on demand has gone since training started.
        """
        media = from_uint8(np.moveaxis(self.scan.pictures([self.members[i] for i in indices]), 1, -1))[:, None]
        if not any(versions):
            return media
        return torch.where(torch.tensor(versions).bool().view(-1, 1, 1, 1, 1), media.flip(-1), media)

    def prompts(self) -> list[str]:
        """Up to eight captions, those that occur most; the empty one where there are none."""
        counts = Counter(self.scan.captions[m][0] for m in self.members if self.scan.captions[m])
        return [text for text, _ in counts.most_common(8)] or [""]


def fingerprint_of(root: Path, files: Sequence[Path]) -> str:
    """A hash of the names, sizes and dates of files below a folder."""
    stats = [(str(file), (root / file).stat()) for file in files]
    named = "\0".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
    return hashlib.sha256(named.encode("utf-8", "surrogateescape")).hexdigest()


def split_files(files: Sequence[Path], share: float) -> tuple[list[int], list[int]]:
    """Indices to train on and, by the hash of their names, those held out: about ``share``, or none of a few.

    cat.jpg and cat.png hash alike, and two forms of one picture never lie on both sides.
    """
    hashes = np.array([_hash(file.with_suffix("")) for file in files])
    if not share or len(files) < FEW:
        return list(range(len(files))), []
    apart = min(len(files) - 1, max(1, round(share * len(files))))
    order = np.sort(hashes)
    test = hashes <= order[apart - 1]
    if test.all():
        test = hashes < order[-1]
    return np.flatnonzero(~test).tolist(), np.flatnonzero(test).tolist()


def _hash(path: Path) -> int:
    """A number that depends on a file's path below the root alone."""
    return int.from_bytes(hashlib.sha256(os.fsencode(path.as_posix())).digest()[:7], "big")
