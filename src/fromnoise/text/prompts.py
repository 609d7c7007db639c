"""Prompts as people write them: with weights of words, and longer than what an encoder reads at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from fromnoise.text.emphasis import emphasis
from fromnoise.types import Condition, UserError


def read_prompts(encoder: Any, prompts: Sequence[str], weighted: bool = False, long: bool = False,
                 **told: Any) -> Condition:
    """The condition of ``prompts``, as ``encoder`` gives it.

    weighted: brackets weigh words (``emphasis``);  long: a prompt is read in windows, one after the other, each as a
    prompt of its own (``windows``), and the pooled vector is that of the first.  UserError where the encoder cannot.
    """
    if not (weighted or long):
        return encoder.encode(prompts, **told)
    if not hasattr(encoder, "check_windows"):
        raise UserError("This model reads no sentences, so words have no weights and there is nothing to read on: "
                        "leave out weighted and long.")
    texts, weights = zip(*((emphasis(p) if weighted else (p, [1.0] * len(p))) for p in prompts), strict=True)
    if not long:
        return encoder.encode(texts, weights=weights, **told)
    encoder.check_windows()
    spans = [windows(encoder.fits, text) for text in texts]
    if max(map(len, spans)) == 1:
        return encoder.encode(texts, weights=weights, **told)
    rows = []
    for text, weight, places in zip(texts, weights, spans, strict=True):
        parts = [encoder.encode([text[a:b]], weights=[weight[a:b]], **told) for a, b in places]
        rows.append(after_each_other(parts))
    return Condition.cat(rows)


def windows(fits: Callable[[str], bool], text: str) -> list[tuple[int, int]]:
    """Where the windows of a text begin and end: each as many words as fit, or of a word that does not, as much."""
    found, start = [], 0
    ends = [match.end() for match in re.finditer(r"\S+", text)] or [len(text)]
    while start < ends[-1]:
        fitting = [end for end in ends if end > start and fits(text[start:end])]
        end = fitting[-1] if fitting else next(e for e in range(ends[-1], start, -1)
                                               if e == start + 1 or fits(text[start:e]))
        found.append((start, end))
        start = end + len(text[end:]) - len(text[end:].lstrip())
    return found or [(0, len(text))]


def after_each_other(parts: Sequence[Condition]) -> Condition:
    """Conditions of one text's windows joined along the sequence."""
    texts = [part.text for part in parts if part.text is not None]
    masks = [text.new_ones(text.shape[:2], dtype=torch.bool) if part.mask is None else part.mask
             for part, text in zip(parts, texts, strict=True)]
    return Condition(text=torch.cat(texts, 1), mask=torch.cat(masks, 1), pooled=parts[0].pooled)
