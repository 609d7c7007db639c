"""The frames in a file that is given: a picture, a film, or a sheet of samples as fromnoise saves them.

A sheet is brought back to the size of samples by averages and cut where its gaps are, and a film to their frames a
second by the times of its frames.  What was chosen on the way is said.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fromnoise.data.images import Refused, open_picture
from fromnoise.films import PICTURES, SUFFIXES, Film, average_rate, film_facts, frames_of
from fromnoise.given import pixels
from fromnoise.types import UserError

SHEET_GAP = 2  # pixels between the tiles of a sheet, which are white
WHITE = 0.8  # what white is at least in a film, which may be coded with losses
SQUARE, EDGES = 0.25, 0.01  # pixels of an enlarged film are off by so much in this share of the places at most


@dataclass(frozen=True)
class Wanted:
    """What frames are read for: samples of so many channels, of size (height, width), and of fps frames a second.

    size: None takes frames as they are;  fps: 0 takes them one after the other;  say: is told what was chosen.
    """

    channels: int = 3
    size: tuple[int, int] | None = None
    fps: float = 0.0
    say: Callable[[str], None] = lambda sentence: None


def read_frames(word: str | Path, wanted: Wanted) -> Tensor:
    """The frames ``[T, C, H, W]`` in [-1, 1] of one sample in a file: FILE, or FILE:2 for its second.

    Those of another size than the samples come as they are.  UserError for a file that cannot be read, or that shows
    fewer samples.
    """
    path, number = file_and_number(str(word))
    if path.is_dir():
        raise UserError(f"{path} cannot be used: it is a folder, not a picture or a film.")
    frames, count = film_frames(path, number, wanted) if is_film(path) else strip_frames(path, number, wanted)
    if number is not None and not 1 <= number <= count:
        raise UserError(f"{path} shows {count} {'sample' if count == 1 else 'samples'}, and there is no {number}: say "
                        f"{path}:1{f' to {path}:{count}' if count > 1 else ''}.")
    if number is None and count > 1:
        wanted.say(f"{path} shows {count} samples, and the first is taken (of the others, {path}:2 is the second).")
    return frames


def file_and_number(word: str) -> tuple[Path, int | None]:
    """("clip.mp4", 2) of "clip.mp4:2"; None of a word that is a file, whose name may have a colon in it."""
    path, _, number = word.rpartition(":")
    if path and number.isdecimal() and not os.path.exists(word):
        return Path(path), int(number)
    return Path(word), None


def is_film(path: Path) -> bool:
    """Whether a file is a film by its name, and of those that may be pictures too, an animation."""
    suffix = path.suffix.lower()
    return suffix in SUFFIXES and (suffix not in PICTURES or film_facts(path).frames > 1)


def strip_frames(path: Path, number: int | None, wanted: Wanted) -> tuple[Tensor, int]:
    """(one row of the frames in a picture, how many rows there are)."""
    try:
        media = pixels(open_picture(path), wanted.channels)
    except Refused as why:
        raise UserError(f"{path} cannot be used: {why}.") from None
    sheet = None if wanted.size is None else sheet_of(media, *wanted.size)
    if sheet is None:
        return media[None], 1
    rows = sheet.tiles(media).unflatten(0, (sheet.rows, sheet.columns))
    return rows[row_of(number, sheet.rows)], sheet.rows


def film_frames(path: Path, number: int | None, wanted: Wanted) -> tuple[Tensor, int]:
    """(the frames of one of the samples side by side in a film, how many there are)."""
    times, frames, sheet, count = [], [], None, 1
    for time, frame in frames_of(path):
        media = pixels(Image.fromarray(frame), wanted.channels)
        if not frames and wanted.size is not None:
            sheet = sheet_of(media, *wanted.size, film=True)
            if sheet is None:
                return media[None], 1  # of another size, however many follow
            count = sheet.shown(media)
        frames.append(media if sheet is None else sheet.tiles(media)[row_of(number, count)])
        times.append(time)
    rate = average_rate(np.array(times), film_facts(path).fps)
    film = Film(torch.stack(frames).numpy(), np.array(times), rate)
    return torch.from_numpy(at_rate(path, film, wanted).frames), count


def row_of(number: int | None, count: int) -> int:
    """The index of a number that counts from 1; the first where it is not there, which is for others to say."""
    return number - 1 if number is not None and 1 <= number <= count else 0


def at_rate(path: Path, film: Film, wanted: Wanted) -> Film:
    """A film at the frames a second of the samples; as it is where each frame is off by less than half of one."""
    late = film.times * wanted.fps - np.arange(len(film.times))
    if not wanted.fps or float(np.abs(late).max()) < 0.5:
        return film
    found = film.at(wanted.fps)
    wanted.say(f"{path} shows {film.fps:.4g} frames a second on average and samples have {wanted.fps:.4g}: "
               f"{len(found.times)} frames are taken for its {len(film.times)}, at each moment the nearest"
               f"{', some of them twice' if film.fps < wanted.fps else ''}.")
    return found


# ---- sheets -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sheet:
    """Tiles of ``height`` x ``width`` in rows and columns, ``gap`` pixels apart and then enlarged by ``factor``."""

    height: int
    width: int
    factor: int
    gap: int
    rows: int
    columns: int

    def small(self, media: Tensor) -> Tensor:
        """``[C, H', W']`` before it was enlarged, by averages.  In float64, in which those of equal pixels are these.

        What an .mp4 has beyond the sheet, whose sides are even, is left out.
        """
        high, wide = (self.factor * (count * (side + self.gap) - self.gap)
                      for count, side in ((self.rows, self.height), (self.columns, self.width)))
        return F.avg_pool2d(media[:, :high, :wide].double()[None], self.factor)[0].float()

    def tiles(self, media: Tensor) -> Tensor:
        """``[rows columns, C, height, width]``."""
        small, step = self.small(media), (self.height + self.gap, self.width + self.gap)
        cut = small.unfold(1, self.height, step[0]).unfold(2, self.width, step[1])  # [C, rows, columns, h, w]
        return cut.permute(1, 2, 0, 3, 4).flatten(0, 1)

    @property
    def several(self) -> bool:
        return self.rows * self.columns > 1

    def parted(self, media: Tensor, lowest: float) -> bool:
        """Whether what lies between the tiles is white, and something else is not."""
        small = self.small(media)
        rows, columns = (torch.arange(count) % (side + self.gap) >= side
                         for count, side in zip(small.shape[-2:], (self.height, self.width), strict=True))
        between = rows[:, None] | columns
        return bool((small[:, between] >= lowest).all()) and not bool((small[:, ~between] >= lowest).all())

    def square(self, media: Tensor) -> bool:
        """Whether each of its pixels is a square, but for what a lossy film makes of the edges of some."""
        small = self.small(media)
        squares = small.repeat_interleave(self.factor, 1).repeat_interleave(self.factor, 2)
        off = (squares - media[:, : squares.shape[1], : squares.shape[2]]).abs().amax(0) > SQUARE
        return float(off.float().mean()) <= EDGES

    def shown(self, media: Tensor) -> int:
        """How many tiles there are before those at the end that are white."""
        white = (self.tiles(media).flatten(1) >= WHITE).all(1).tolist()
        return len(white) if all(white) else len(white) - white[::-1].index(False)


def sheet_of(media: Tensor, height: int, width: int, film: bool = False) -> Sheet | None:
    """How a picture ``[C, H', W']`` shows tiles of a size; None where it does not.

    It may be one tile, larger by a whole factor, several with white gaps, which then are what is large, or a strip
    without gaps, which no film is.
    """
    high, wide = media.shape[-2:]
    found = list(layouts(high, wide, height, width, film))
    several = [sheet for sheet in found if sheet.gap and sheet.several and sheet.parted(media, WHITE if film else 1.0)]
    exact = [sheet for sheet in several if sheet.square(media)]
    one = [sheet for sheet in found if not sheet.several]
    strips = [sheet for sheet in found if not sheet.gap and sheet.rows == 1 and not film]
    return next(iter([*exact, *one, *several, *strips]), None)


def layouts(high: int, wide: int, height: int, width: int, film: bool) -> Iterator[Sheet]:
    """The sheets of tiles of a size that have ``high`` x ``wide`` pixels, those with the largest tiles first.

    A film may have a row and a column more than the sheet.
    """
    for y, x in product((0, 1)[: 1 + film], repeat=2):
        for factor, gap in product(range(min(high // height, wide // width), 0, -1), (SHEET_GAP, 0)):
            rows, below = divmod(high - y + gap * factor, (height + gap) * factor)
            columns, beside = divmod(wide - x + gap * factor, (width + gap) * factor)
            if rows and columns and not below and not beside:
                yield Sheet(height, width, factor, gap, rows, columns)
