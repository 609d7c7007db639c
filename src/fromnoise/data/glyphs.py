"""Letters and digits in the typefaces that come with matplotlib: crisp at 32 px, captioned by style.

Every character exists in every style; one combination of character and style in ten is never trained on.
At 32 px some characters are the same drawing in sans and in mono: ``readings`` says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from fromnoise.config import spec
from fromnoise.media import from_uint8
from fromnoise.random import fold, uniforms
from fromnoise.types import Source

CHARACTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ23456789")  # 0 and 1 are left out: they look like O and I
FAMILIES = ("sans", "serif", "mono")
STYLES = ("plain", "bold", "italic", "bold italic")
FILES = {
    "sans": ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    "serif": ("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    "mono": ("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
}
PHRASES = ("{article} {style}{family} {what} {character}", "{style}{family} {character}",
           "the {what} {character} in {style}{family}")
HELD_OUT = 10
VARIANTS = {"train": 8, "test": 16, "judge": 8, "reference": 16}  # drawings of a combination, each moved and scaled
SUPERSAMPLING = 4
ALIKE = 0.1  # difference of aspect ratios below which sans and mono are one drawing at this size


@spec
class Glyphs:
    """Letters and digits in three typefaces and four styles."""

    kind: Literal["glyphs"] = "glyphs"
    size: Annotated[int, Field(ge=16, le=256)] = 32
    """Side of the picture in pixels."""

    channels = 1
    frames = 1

    @property
    def height(self) -> int:
        return self.size

    @property
    def width(self) -> int:
        return self.size

    @property
    def classes(self) -> dict[str, Sequence[str]]:
        """What a classifier of this data tells apart."""
        return {"character": CHARACTERS, "family": FAMILIES, "style": STYLES}

    def label(self, caption: str) -> tuple[int, ...]:
        """(character, family, style) that a caption of this data names."""
        return _LABELS[caption]

    def readings(self, caption: str) -> tuple[tuple[int, ...], ...]:
        """Every label that a right picture of the caption may be given; two where sans and mono look alike."""
        character, family, style = label = self.label(caption)
        sans, mono = FAMILIES.index("sans"), FAMILIES.index("mono")
        if family not in (sans, mono) or not look_alike(character, style):
            return (label,)
        return (label, (character, mono if family == sans else sans, style))

    def open(self, split: Literal["train", "test", "judge", "reference"]) -> GlyphSource:
        """Combinations to train on; those held out; or all of them, drawn anew, for a judge to learn from.

        reference: the held-out ones drawn once more, which neither model nor judge has seen: the yardstick for
        generated pictures.
        """
        return GlyphSource(self.size, split)


class GlyphSource(Source):
    """Drawings of one split, made once and kept in memory.  Example i is drawing i % V of combination i // V."""

    def __init__(self, size: int, split: str):
        self.combinations = combinations(split)
        self.variants = VARIANTS[split]
        self.pixels = _drawings(size, split)

    @property
    def captions(self) -> list[str]:
        return [caption(c, phrase) for c in combinations("judge") for phrase in range(len(PHRASES))]

    @property
    def groups(self) -> list[range]:
        return [range(len(self))]

    def __len__(self) -> int:
        return len(self.pixels)

    def choose(self, indices: Sequence[int], keys: Sequence[int]) -> tuple[list[int], list[str]]:
        text = [caption(self.combinations[i // self.variants], k % len(PHRASES))
                for i, k in zip(indices, keys, strict=True)]
        return [0] * len(text), text

    def pictures(self, indices: Sequence[int], versions: Sequence[int]) -> Tensor:
        return from_uint8(self.pixels[list(indices)][..., None])[:, None]

    def prompts(self) -> list[str]:
        """Canonical captions worth showing: a spread over this split."""
        chosen = np.linspace(0, len(self.combinations) - 1, min(12, len(self.combinations))).astype(int)
        return [caption(self.combinations[i], 0) for i in chosen]


Combination = tuple[int, int, int]  # character, family, style


def combinations(split: str) -> list[Combination]:
    """The combinations of a split; "judge" has all of them."""
    every = [(c, f, s) for c in range(len(CHARACTERS)) for f in range(len(FAMILIES)) for s in range(len(STYLES))]
    return every if split == "judge" else [c for c in every if is_held_out(c) == (split != "train")]


def is_held_out(combination: Combination) -> bool:
    return int(fold(7, *combination)) % HELD_OUT == 0


def caption(combination: Combination, phrase: int) -> str:
    """Words for a combination: "a bold italic serif letter Q"."""
    character, family, style = combination
    name = CHARACTERS[character]
    article = "an" if STYLES[style].startswith("i") else "a"
    return PHRASES[phrase].format(article=article, style="" if style == 0 else STYLES[style] + " ",
                                  family=FAMILIES[family], what="digit" if name.isdigit() else "letter", character=name)


_LABELS = {caption(c, phrase): c for c in combinations("judge") for phrase in range(len(PHRASES))}


@cache
def look_alike(character: int, style: int) -> bool:
    """Whether a character alone cannot tell sans from mono: DejaVu draws both with nearly one
    outline, and what is left to see is its width over its height."""

    def aspect(family: str) -> float:
        left, top, right, bottom = _font(family, style, 800).getbbox(CHARACTERS[character])
        return (right - left) / (bottom - top)

    return abs(aspect("mono") / aspect("sans") - 1) < ALIKE


@lru_cache(maxsize=256)
def _font(family: str, style: int, points: int):
    import matplotlib
    from PIL import ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / f"{FILES[family][style]}.ttf"), points)


@lru_cache(maxsize=8)
def _drawings(size: int, split: str) -> np.ndarray:
    """uint8 ``[combinations * V, size, size]``, dark on white."""
    variants, wide = VARIANTS[split], size * SUPERSAMPLING
    jitter = uniforms([int(fold(11, list(VARIANTS).index(split)))], len(combinations(split)) * variants * 3)
    jitter = jitter.reshape(-1, 3) * 2 - 1
    drawings = []
    for i, (character, family, style) in enumerate(np.repeat(combinations(split), variants, axis=0).tolist()):
        points = round(wide * 0.78 * (1 + 0.05 * jitter[i, 2]))
        font = _font(FAMILIES[family], style, points)
        drawings.append(_draw(CHARACTERS[character], font, wide, jitter[i, :2] * 0.04 * wide))
    return np.stack(drawings)


def _draw(character: str, font, wide: int, offset: np.ndarray) -> np.ndarray:
    """One character, centred by its box and then moved by ``offset`` pixels, averaged down to its size."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (wide, wide), 255)
    left, top, right, bottom = font.getbbox(character)
    place = ((wide - left - right) / 2 + offset[0], (wide - top - bottom) / 2 + offset[1])
    ImageDraw.Draw(image).text(place, character, fill=18, font=font)
    return np.asarray(image.reduce(SUPERSAMPLING))
