"""Letters and digits in the typefaces that come with matplotlib: crisp at 32 px, captioned by style.

Every character exists in every style; one combination of character and style in ten is never trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fromnoise.config import spec
from fromnoise.media import from_uint8
from fromnoise.random import fold, uniforms
from fromnoise.types import Batch

CHARACTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ23456789")  # 0 and 1 are left out: they look like O and I
FAMILIES = ("sans", "serif", "mono")
STYLES = ("plain", "bold", "italic", "bold italic")
FILES = {
    "sans": ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    "serif": ("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    "mono": ("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
}
PHRASES = ("a {style}{family} {what} {character}", "{style}{family} {character}",
           "the {what} {character} in {style}{family}")
HELD_OUT = 10
VARIANTS = {"train": 8, "test": 4, "judge": 8}  # drawings of each combination, shifted and scaled a little
SUPERSAMPLING = 4


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

    def open(self, split: Literal["train", "test", "judge"]) -> GlyphSource:
        """Combinations to train on; those held out; or all of them, drawn anew, for a judge to learn from."""
        return GlyphSource(self.size, split)


class GlyphSource:
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

    def batch(self, indices: Sequence[int], keys: Sequence[int]) -> Batch:
        media = from_uint8(self.pixels[list(indices)][..., None])[:, None]
        text = [caption(self.combinations[i // self.variants], k % len(PHRASES))
                for i, k in zip(indices, keys, strict=True)]
        return Batch(media, text, list(indices))

    def prompts(self) -> list[str]:
        """Canonical captions worth showing: a spread over this split."""
        chosen = np.linspace(0, len(self.combinations) - 1, min(12, len(self.combinations))).astype(int)
        return [caption(self.combinations[i], 0) for i in chosen]


Combination = tuple[int, int, int]  # character, family, style


def combinations(split: str) -> list[Combination]:
    """The combinations of a split; "judge" has all of them."""
    every = [(c, f, s) for c in range(len(CHARACTERS)) for f in range(len(FAMILIES)) for s in range(len(STYLES))]
    return every if split == "judge" else [c for c in every if is_held_out(c) == (split == "test")]


def is_held_out(combination: Combination) -> bool:
    return int(fold(7, *combination)) % HELD_OUT == 0


def caption(combination: Combination, phrase: int) -> str:
    """Words for a combination: "a bold italic serif letter Q"."""
    character, family, style = combination
    name = CHARACTERS[character]
    return PHRASES[phrase].format(style="" if style == 0 else STYLES[style] + " ", family=FAMILIES[family],
                                  what="digit" if name.isdigit() else "letter", character=name)


_LABELS = {caption(c, phrase): c for c in combinations("judge") for phrase in range(len(PHRASES))}


@lru_cache(maxsize=6)
def _drawings(size: int, split: str) -> np.ndarray:
    """uint8 ``[combinations * V, size, size]``, dark on white."""
    import matplotlib
    from PIL import ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    variants, wide = VARIANTS[split], size * SUPERSAMPLING
    jitter = uniforms([int(fold(11, list(VARIANTS).index(split)))], len(combinations(split)) * variants * 3)
    jitter = jitter.reshape(-1, 3) * 2 - 1
    fonts: dict[tuple[int, int, int], ImageFont.FreeTypeFont] = {}
    drawings = []
    for i, (character, family, style) in enumerate(np.repeat(combinations(split), variants, axis=0).tolist()):
        points = round(wide * 0.78 * (1 + 0.05 * jitter[i, 2]))
        key = (family, style, points)
        if key not in fonts:
            fonts[key] = ImageFont.truetype(str(folder / f"{FILES[FAMILIES[family]][style]}.ttf"), points)
        drawings.append(_draw(CHARACTERS[character], fonts[key], wide, jitter[i, :2] * 0.04 * wide))
    return np.stack(drawings)


def _draw(character: str, font, wide: int, offset: np.ndarray) -> np.ndarray:
    """One character, centred by its box and then moved by ``offset`` pixels, averaged down to its size."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (wide, wide), 255)
    left, top, right, bottom = font.getbbox(character)
    place = ((wide - left - right) / 2 + offset[0], (wide - top - bottom) / 2 + offset[1])
    ImageDraw.Draw(image).text(place, character, fill=18, font=font)
    return np.asarray(image.reduce(SUPERSAMPLING))
