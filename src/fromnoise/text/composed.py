"""Prompts that are joined: "a red circle AND a blue square NOT a triangle"."""

from __future__ import annotations

import re
from itertools import zip_longest


def parts(prompt: str) -> tuple[list[str], list[str]]:
    """(what is wanted, what is excluded) of a prompt, split at the capital words AND and NOT.

    A prompt that begins with NOT wants nothing in particular: its first text is the empty one.
    """
    first, *rest = re.split(r"\b(AND NOT|AND|NOT)\b", prompt)
    texts: dict[bool, list[str]] = {False: [first.strip()], True: []}
    for word, text in zip(rest[::2], rest[1::2], strict=True):
        texts[word.endswith("NOT")].append(text.strip())
    return texts[False], texts[True]


def composed(prompts: list[str], null: str = "") -> tuple[list[str], list[tuple[list[str], float]]]:
    """(the first text of every prompt, the further texts of all prompts with their weight of 1 or -1).

    Prompts with fewer texts are filled up with ``null``, the unconditional text, whose difference from itself adds
    nothing (Liu et al. 2022, whose product of models this is).
    """
    wanted, excluded = zip(*map(parts, prompts), strict=True)
    first, *more = zip_longest(*wanted, fillvalue=null)
    return list(first), [*((list(texts), 1.0) for texts in more),
                         *((list(texts), -1.0) for texts in zip_longest(*excluded, fillvalue=null))]
