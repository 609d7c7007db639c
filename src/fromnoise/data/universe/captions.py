"""Scenes in words, and words read back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fromnoise.data.universe.scene import COLORS, RELATIONS, SHAPES, SIZES, Scenes


@dataclass(frozen=True, order=True)
class Thing:
    """One object as a sentence names it."""

    size: str
    color: str
    shape: str

    def __str__(self) -> str:
        return f"a {self.size} {self.color} {self.shape}"


@dataclass(frozen=True)
class Sentence:
    """Things, and how each lies to the next."""

    things: tuple[Thing, ...]
    relations: tuple[str, ...] = ()

    def __str__(self) -> str:
        """"a small red circle above a large blue square, which is left of a small green star"."""
        text = str(self.things[0])
        for i, (relation, thing) in enumerate(zip(self.relations, self.things[1:], strict=True)):
            text += f"{', which is' if i else ''} {relation} {thing}"
        return text


def sentences(scenes: Scenes) -> list[Sentence]:
    """What each scene shows."""
    parts = (scenes.size, scenes.color, scenes.shape, scenes.relation)
    return [Sentence(tuple(_THINGS[s][c][k] for s, c, k in zip(size, color, shape, strict=True)),
                     tuple(RELATIONS[r] for r in relation))
            for size, color, shape, relation in zip(*(p.tolist() for p in parts), strict=True)]


_THINGS = [[[Thing(s, c, k) for k in SHAPES] for c in COLORS] for s in SIZES]


def parse(caption: str) -> Sentence:
    """The sentence a caption stands for.  ValueError where it is none of the universe's."""
    words = caption.replace(", which is", "").replace("left of", "left_of").replace("right of", "right_of").split()
    things, relations = [], []
    for i in range(0, len(words), 5):
        article, *described = words[i : i + 4]
        if article != "a" or len(described) != 3:
            raise ValueError(f'"{caption}" is not a sentence of the universe')
        thing = Thing(*described)
        if thing.size not in SIZES or thing.color not in COLORS or thing.shape not in SHAPES:
            raise ValueError(f'"{caption}" is not a sentence of the universe')
        things.append(thing)
        relations += [w.replace("_", " ") for w in words[i + 4 : i + 5]]
    if not things or len(relations) != len(things) - 1 or not set(relations) <= set(RELATIONS):
        raise ValueError(f'"{caption}" is not a sentence of the universe')
    return Sentence(tuple(things), tuple(relations))


def vocabulary() -> list[str]:
    """Captions that hold every word, for a tokenizer."""
    pairs = [Sentence((Thing(s, c, k), Thing(s, c, k)), (r,)) for s in SIZES for c in COLORS for k in SHAPES
             for r in RELATIONS]
    three = Thing("small", "red", "circle")
    return [str(p) for p in pairs] + [str(Sentence((three,) * 3, (r, "above"))) for r in RELATIONS] * 12


def kinds(things: tuple[Thing, ...]) -> np.ndarray:
    """The integers of ``scene.is_held_out``."""
    return np.array([(COLORS.index(t.color) * len(SHAPES) + SHAPES.index(t.shape)) * 2 + SIZES.index(t.size)
                     for t in things])
