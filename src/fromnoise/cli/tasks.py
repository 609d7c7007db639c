"""The tasks of a clip on the command line: which files stand where, what they are in, and what is to be made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch

from fromnoise.cli.frames import Wanted, read_frames
from fromnoise.given import Given
from fromnoise.sample import Callback, Progress
from fromnoise.types import UserError


@dataclass(frozen=True)
class Task:
    """The files of a command, by its options.

    first, last: frames;  extend, extend_back: clips that are gone on from, or led up to;  clip: one that is slowed down
    by a whole factor (slow), or whose pixels are made anew where a mask is white (inside).
    """

    first: str | None = None
    last: str | None = None
    extend: str | None = None
    extend_back: str | None = None
    clip: str | None = None
    slow: int | None = None
    inside: str | None = None

    @property
    def named(self) -> bool:
        """Whether any is."""
        return self != Task()

    def check(self) -> None:
        """UserError for options that lack or exclude each other."""
        if (self.clip is None) != (self.slow is None and self.inside is None):
            raise UserError("--clip is a clip to slow down (--slow 2), or of which a part is made anew (--inside "
                            "mask.png): give it together with one of these.")
        if self.clip is not None and (self.first or self.last or self.extend or self.extend_back):
            raise UserError("--clip gives all its frames: leave out --first, --last, --extend and --extend-back.")
        for one, other in (("first", "extend"), ("last", "extend_back")):
            if getattr(self, one) and getattr(self, other):
                raise UserError(f"--{one} and --{other.replace('_', '-')} are for the same frames: give one of them.")

    def given(self, wanted: Wanted, frames: int | None) -> tuple[Given, int | None]:
        """(what is given, the number of frames of the clip, None for the usual one)."""
        self.check()
        if self.clip is not None:
            return self.of_clip(self.clip, wanted, frames)
        before = [read_frames(word, wanted) for word in (self.first, self.extend) if word]
        after = [read_frames(word, wanted) for word in (self.last, self.extend_back) if word]
        if any(word and len(read[0]) > 1 for word, read in ((self.first, before), (self.last, after))):
            raise UserError("--first and --last are one picture each: for a clip say --extend or --extend-back.")
        ahead, behind = sum(map(len, before)), sum(map(len, after))
        if len({part.shape[-2:] for part in (*before, *after)}) > 1:
            raise UserError("The files that are given have frames of different sizes: bring them to one.")
        return Given(torch.cat([*before, *after]), [*range(ahead), *range(-behind, 0)]), frames

    def of_clip(self, word: str, wanted: Wanted, frames: int | None) -> tuple[Given, int]:
        """The same of --clip, whose frames are slowed down as they follow each other."""
        wanted = wanted if self.slow is None else replace(wanted, fps=0.0)
        clip = read_frames(word, wanted)
        step = self.slow or 1
        places, total = range(0, step * len(clip), step), step * (len(clip) - 1) + 1
        known = None
        if self.inside is not None:
            known = (read_frames(self.inside, replace(wanted, channels=1)) <= 0)[:, 0]
        return Given(clip, places, known), frames or total


def counting(say: Callable[[str], None]) -> Callback:
    """Says of each window of a rollout that it is made."""
    made = count(1)

    def tell(progress: Progress) -> None:
        if progress.step == progress.steps:
            say(f"Window {next(made)} is made.")

    return tell


def task_of(args: Any) -> Task:
    """That of the arguments of ``fromnoise sample``."""
    return Task(**{name: getattr(args, name) for name in Task.__dataclass_fields__})
