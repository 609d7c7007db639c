"""The user's own films as a data set of clips."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from fromnoise import films
from fromnoise.config import spec
from fromnoise.data.buckets import Size
from fromnoise.data.folder import Sought, discover, printable
from fromnoise.data.images import MIN_SIDE, Refused, cover
from fromnoise.data.pictures import fingerprint_of, listed, pool, split_files, tried
from fromnoise.files import disk_errors
from fromnoise.films import CLOSE, FilmFacts, NotAFilm, average_rate, film_facts, frames_of, nearest
from fromnoise.media import from_uint8
from fromnoise.random import uniforms
from fromnoise.types import Source, UserError

IN_MEMORY = 1024 * 2**20  # bytes of decoded frames that are kept
ON_DISK = 32 * 2**30  # bytes after these that are kept in temporary files; further clips are decoded as they are needed
FILMS = Sought("film", frozenset(films.SUFFIXES), "MP4, MOV, MKV, WebM, AVI, MPEG, GIF and WebP files can be used",
               frozenset({".wmv", ".flv", ".3gp", ".ogv", ".rm", ".vob", ".m2ts", ".mts"}), "MP4")

Keep = Literal["memory", "file", "no"]  # where the decoded frames of a film are kept


@spec
class Clips:
    """A folder of films, of which clips are cut; captioned as pictures are, or not at all."""

    kind: Literal["clips"] = "clips"
    root: str
    """The folder; sub-folders are searched too."""
    frames: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Frames of a clip."""
    fps: Annotated[float, Field(ge=0, le=1000)] = 8.0
    """Frames a second of a clip, whatever the film has; 0: one frame of the film after the other."""
    height: Annotated[int, Field(ge=8, le=4096)] = 48
    """Height in pixels, to which films are brought; what sticks out at the sides is cut."""
    width: Annotated[int, Field(ge=8, le=4096)] = 48
    """Width in pixels."""
    flip: bool = False
    """Mirror half of the clips at random; not for text, or anything with a left and a right."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the films kept for evaluation, chosen by file name; of fewer than 10 films, none."""
    caption_key: Annotated[str, Field(min_length=1)] = "text"
    """Field of metadata.jsonl or metadata.csv that holds the captions."""
    folder_names: bool = True
    """Sub-folders' names are the captions of films that have no other."""
    caption: str = ""
    """The caption of films that have no other at all."""

    channels = 3

    def open(self, split: Literal["train", "test"]) -> ClipSource:
        """Films to train on, or those held out.  UserError where the folder holds no usable film."""
        return ClipSource(self, split)

    def summary(self) -> Summary:
        """What is in the folder, and what was skipped and why.  UserError as for ``open``."""
        scan = scan_films(self)
        return Summary(self, scan, len(self.open("train")))


@dataclass(frozen=True)
class Reel:
    """A usable film.

    size: its own (width, height);  times: seconds ``[n]`` of its frames since the first;  fps: its own, on average;
    frames: uint8 ``[n, height, width, 3]`` at the size of clips, None where there was no room for them;  starts: how
    many of its frames, the first ones, a clip may begin with.
    """

    file: Path
    captions: tuple[str, ...]
    origin: str
    size: Size
    times: np.ndarray
    fps: float
    frames: np.ndarray | None
    starts: int


@dataclass(frozen=True)
class Scan:
    """The usable films of a folder, each decoded once."""

    root: Path
    reels: list[Reel]
    skipped: list[tuple[str, str]]


@dataclass(frozen=True)
class Summary:
    """A folder at a glance."""

    spec: Clips
    scan: Scan
    training: int

    def lines(self) -> list[str]:
        """Plain text; names may hold square brackets, so print it without markup."""
        reels, spec = self.scan.reels, self.spec
        widths, heights = zip(*(reel.size for reel in reels), strict=True)
        rates, seconds = [reel.fps for reel in reels], [float(reel.times[-1]) + 1 / reel.fps for reel in reels]
        slow = sum(rate < spec.fps * (1 - 1e-3) for rate in rates)
        origins = Counter(reel.origin for reel in reels)
        captions = ", ".join(f"{n} from {origin}" if origin != "none" else f"{n} without"
                             for origin, n in sorted(origins.items()))
        pace = f"{spec.fps:g} frames a second" if spec.fps else "the frames a second of each film"
        return [
            f"{len(reels)} films in {printable(spec.root)}: {self.training} to train on, "
            f"{len(reels) - self.training} held out",
            f"sizes: {min(widths)} to {max(widths)} wide, {min(heights)} to {max(heights)} high; {min(seconds):.1f} to "
            f"{max(seconds):.1f} seconds; {min(rates):.4g} to {max(rates):.4g} frames a second",
            f"clips: {spec.frames} frames of {spec.width}x{spec.height} at {pace}, from "
            f"{sum(reel.starts for reel in reels):,} places to begin"
            + (f"; {slow} of the films are slower, and some of their frames are there twice" if slow else ""),
            f"captions: {captions}",
            *listed(self.scan.skipped),
        ]


# ---- looking through a folder ---------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def scan_films(spec: Clips) -> Scan:
    """Find every film and decode it once to know that it is whole; frames are kept in memory, then in temporary files.

    UserError where no film can be used.
    """
    if not spec.root:
        raise UserError("Which folder are the films in? Add --data and the folder: --data ./films.")
    root = Path(os.path.expanduser(spec.root))
    found = discover(root, spec.caption_key, spec.folder_names, FILMS)
    if any(file.suffix.lower() not in films.PICTURES for file in found.files):
        films.av()  # once for all, and not a reason to skip every film
    facts = list(pool().map(tried(_facts), [root / file for file in found.files]))
    room = accumulate(0 if isinstance(f, Refused) else f.frames * spec.height * spec.width * 3 for f in facts)
    disk = IN_MEMORY + min(ON_DISK, shutil.disk_usage(tempfile.gettempdir()).free // 2)

    def look(i: int, facts: FilmFacts, until: int) -> Reel:
        captions, origin = found.captions[i], found.origins[i]
        if not captions and spec.caption:
            captions, origin = (spec.caption,), "data.caption"
        if min(facts.width, facts.height) < MIN_SIDE:
            raise Refused(f"{facts.width}x{facts.height} pixels are too few")
        keep: Keep = "memory" if until <= IN_MEMORY else "file" if until <= disk else "no"
        times, frames = _decoded(root / found.files[i], spec, keep)
        fps = average_rate(times, facts.fps)
        return Reel(found.files[i], captions, origin, (facts.width, facts.height), times, fps, frames,
                    _starts(times, fps, spec))

    looks = [f if isinstance(f, Refused) else pool().submit(tried(look), i, f, until)
             for i, (f, until) in enumerate(zip(facts, room, strict=True))]
    done = [one if isinstance(one, Refused) else one.result() for one in looks]
    skipped = found.skipped + [(printable(str(file)), str(reel))
                               for file, reel in zip(found.files, done, strict=True) if isinstance(reel, Refused)]
    good = [reel for reel in done if isinstance(reel, Reel)]
    if not good:
        raise UserError(f"None of the {len(found.files)} film files in {printable(spec.root)} can be used (for example "
                        f"{skipped[-1][0]}: {skipped[-1][1]}).")
    return Scan(root, good, skipped)


def _facts(path: Path) -> FilmFacts:
    """What a film says of itself.  Raises Refused."""
    try:
        return film_facts(path)
    except NotAFilm as error:
        raise Refused(error.reason) from None


def _decoded(path: Path, spec: Clips, keep: Keep) -> tuple[np.ndarray, np.ndarray | None]:
    """(times, frames or None) of a film that is decoded to its end; a file goes with the last who looks at its frames.

    Raises Refused, and UserError where the disk refuses.
    """
    times, kept = [], []
    with disk_errors(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as file:
        try:
            for time, frame in frames_of(path, enough=_enough(spec)):
                times.append(time)
                if keep == "memory":
                    kept.append(_fitted(frame, spec))
                elif keep == "file":
                    file.write(_fitted(frame, spec).tobytes())
        except NotAFilm as error:
            raise Refused(error.reason) from None
        if keep == "file":
            file.flush()
            frames = np.memmap(file, np.uint8, "r", shape=(len(times), spec.height, spec.width, 3))
        else:
            frames = np.stack(kept) if kept else None
    return np.array(times), frames


def _starts(times: np.ndarray, fps: float, spec: Clips) -> int:
    """How many frames have a whole clip behind them, whose last frame is shown before the film is over.

    Raises Refused where none has.
    """
    if spec.fps:
        last = times + (spec.frames - 1) / spec.fps
        count = int((last <= times[-1] + 1 / (2 * fps) + CLOSE).sum())
    else:
        count = len(times) - spec.frames + 1
    if count < 1:
        pace = f" at {spec.fps:g} a second" if spec.fps else ""
        raise Refused(f"{len(times)} frames in {times[-1] + 1 / fps:.2f} s are too short for a clip of {spec.frames} "
                      f"frames{pace}")
    return count


def _enough(spec: Clips) -> int:
    """Pixels on the short side that are decoded, as of pictures: Lanczos does the rest."""
    return 3 * max(spec.height, spec.width)


def _fitted(frame: np.ndarray, spec: Clips) -> np.ndarray:
    """uint8 ``[height, width, 3]``: a frame scaled until it covers the size of clips, and cut at the centre."""
    if frame.shape[:2] == (spec.height, spec.width):
        return frame
    return cover(Image.fromarray(frame), spec.width, spec.height)


# ---- clips ----------------------------------------------------------------------------------------------------------


class ClipSource(Source):
    """One split of a scanned folder; an example is a film, of which each key cuts another clip.

    A film counts as much as any other, however long it is.  ``held_out``: whether the test split is apart from the
    training split, as for pictures.
    """

    versions = 0  # every beginning of a clip is one: too many to keep

    def __init__(self, spec: Clips, split: Literal["train", "test"]):
        self.spec, self.scan = spec, scan_films(spec)
        train, test = split_files([reel.file for reel in self.scan.reels], spec.held_out)
        self.held_out = bool(test)
        self.reels = [self.scan.reels[i] for i in (test if split == "test" and test else train)]

    @property
    def fingerprint(self) -> str:
        """A hash of the files: their names, sizes and dates."""
        return fingerprint_of(self.scan.root, [reel.file for reel in self.reels])

    @property
    def captions(self) -> list[str]:
        """Every phrasing that occurs in this split; the empty one where there are none."""
        return sorted({text for reel in self.reels for text in reel.captions}) or [""]

    @property
    def groups(self) -> list[range]:
        return [range(len(self))]

    def __len__(self) -> int:
        return len(self.reels)

    def choose(self, indices: Sequence[int], keys: Sequence[int]) -> tuple[list[int], list[str]]:
        """(twice the frame that a clip begins with, and 1 more where it is mirrored; its phrasing)."""
        draws, reels = uniforms(keys, 3), [self.reels[i] for i in indices]
        starts = [int(u * reel.starts) for reel, u in zip(reels, draws[:, 0], strict=True)]
        mirrored = ((draws[:, 1] < 0.5) & self.spec.flip).astype(int).tolist()
        text = [p[int(u * len(p))] if (p := reel.captions) else "" for reel, u in zip(reels, draws[:, 2], strict=True)]
        return [2 * start + m for start, m in zip(starts, mirrored, strict=True)], text

    def pictures(self, indices: Sequence[int], versions: Sequence[int]) -> Tensor:
        """Clips ``[B, frames, 3, height, width]``.

        UserError where a film that is decoded on demand has gone since training started.
        """
        pairs = [(self.reels[i], version // 2) for i, version in zip(indices, versions, strict=True)]
        media = from_uint8(np.stack(list(pool().map(lambda pair: self._clip(*pair), pairs))))
        mirrored = torch.tensor(versions) % 2 == 1
        return torch.where(mirrored.view(-1, 1, 1, 1, 1), media.flip(-1), media) if mirrored.any() else media

    def rates(self, indices: Sequence[int]) -> Tensor | None:
        if self.spec.frames == 1:
            return None
        return torch.tensor([self.spec.fps or self.reels[i].fps for i in indices])

    def _clip(self, reel: Reel, start: int) -> np.ndarray:
        """uint8 ``[frames, height, width, 3]`` of the clip that begins with the frame ``start`` of a film."""
        wanted = frames_in(reel.times, start, self.spec)
        if reel.frames is not None:
            return reel.frames[wanted]
        found: dict[int, np.ndarray] = {}
        try:
            begin, end = map(float, reel.times[wanted[[0, -1]]])
            for time, frame in frames_of(self.scan.root / reel.file, begin, end, _enough(self.spec)):
                if (i := int(nearest(reel.times, np.array([time]))[0])) in wanted:
                    found[i] = _fitted(frame, self.spec)
            return np.stack([found[i] for i in wanted])
        except (UserError, KeyError):
            raise UserError(f"{printable(str(reel.file))} in {printable(str(self.scan.root))} was read before training "
                            "started, but now it cannot be.  Put it back, or train anew without it.") from None

    def prompts(self) -> list[str]:
        """Up to eight captions, those that occur most; the empty one where there are none."""
        counts = Counter(reel.captions[0] for reel in self.reels if reel.captions)
        return [text for text, _ in counts.most_common(8)] or [""]


def frames_in(times: np.ndarray, start: int, spec: Clips) -> np.ndarray:
    """Which frames of a film whose frames are shown at ``times`` are in the clip that begins with frame ``start``."""
    steps = np.arange(spec.frames)
    return nearest(times, times[start] + steps / spec.fps) if spec.fps else start + steps
