"""What happens in a clip in words, and the words read back."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fromnoise.data.universe.actions import ACTIONS, Action, MovingScenes
from fromnoise.data.universe.captions import Thing
from fromnoise.data.universe.scene import COLORS, SHAPES, SIZES

WHILE, BOUNCES = " while ", " and bounces"


@dataclass(frozen=True)
class Clause:
    """What one thing does, and whether it bounces on the way."""

    thing: Thing
    action: Action
    bounces: bool

    def __str__(self) -> str:
        return f"{self.thing} {self.action}{BOUNCES if self.bounces else ''}"


@dataclass(frozen=True)
class Story:
    """What every thing in a clip does."""

    clauses: tuple[Clause, ...]

    def __str__(self) -> str:
        """"a small red circle moves up left quickly and bounces while a large blue star stays"."""
        return WHILE.join(map(str, self.clauses))

    @property
    def things(self) -> tuple[Thing, ...]:
        return tuple(clause.thing for clause in self.clauses)


def stories(moving: MovingScenes) -> list[Story]:
    """What happens in each scene."""
    s = moving.scenes
    parts = (x.tolist() for x in (s.size, s.color, s.shape, moving.action, moving.bounces))
    return [Story(tuple(Clause(Thing(SIZES[a], COLORS[b], SHAPES[c]), ACTIONS[d], e)
                        for a, b, c, d, e in zip(*row, strict=True))) for row in zip(*parts, strict=True)]


_ACTION = {str(action): action for action in ACTIONS}
_WORDS = " ".join(f"({'|'.join(words)})" for words in (SIZES, COLORS, SHAPES, _ACTION))
_CLAUSE = re.compile(f"a {_WORDS}({BOUNCES})?")


def parse_story(caption: str) -> Story:
    """The story a caption tells.  ValueError where it is none of the universe's."""
    found = [_CLAUSE.fullmatch(part) for part in caption.split(WHILE)]
    if not all(found):
        raise ValueError(f'"{caption}" is not a story of the universe')
    return Story(tuple(Clause(Thing(m[1], m[2], m[3]), _ACTION[m[4]], bool(m[5])) for m in found if m))


def told() -> list[str]:
    """Captions that hold every word, for a tokenizer."""
    things = [Thing(s, c, k) for s in SIZES for c in COLORS for k in SHAPES]
    one = [Clause(things[i * 7 % len(things)], action, bool(i % 2)) for i, action in enumerate(ACTIONS * 8)]
    pairs = [Story((a, b)) for a, b in zip(one, reversed(one), strict=True)]
    return [str(s) for s in (*pairs, *(Story((clause,)) for clause in one))]
