"""Which words a model was trained on, so that a prompt with others can be told apart."""

from __future__ import annotations

import re
from collections.abc import Iterable

MOST = 20_000  # words of a vocabulary that is kept; of a larger one nothing is said


def words_of(texts: Iterable[str]) -> tuple[str, ...]:
    """The words in the texts, sorted; nothing where there are very many."""
    found = sorted({word for text in texts for word in _words(text)})
    return tuple(found) if len(found) <= MOST else ()


def unseen(texts: Iterable[str], known: Iterable[str]) -> str | None:
    """A sentence on the words of ``texts`` that are not ``known``, or None; None too where nothing is known."""
    known = set(known)
    new = list(dict.fromkeys(word for text in texts for word in _words(text) if word not in known))
    if not new or not known:
        return None
    named = ", ".join(f'"{word}"' for word in new[:6]) + (", ..." if len(new) > 6 else "")
    return f"No caption of the training had {named}: what comes of {'it' if len(new) == 1 else 'them'} is chance."


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)
