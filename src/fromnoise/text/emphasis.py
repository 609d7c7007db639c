"""Weights of words inside a prompt: "a (red:1.3) circle, [faint]", in the syntax that web UIs made common.

    (words)        1.1 times;  ((words)) 1.21 times, and so on
    [words]        divided by 1.1
    (words:1.3)    1.3 times; inside other brackets their weights multiply
    \\( \\) \\[ \\]    the brackets themselves

A bracket that is never closed reaches to the end, and one that was never opened stands for itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

STEP = 1.1
_TOKEN = re.compile(r"\\[()\[\]\\]|\(|\[|:\s*([+-]?\d+(?:\.\d+)?|[+-]?\.\d+)\s*\)|\)|\]|[^\\()\[\]:]+|.", re.DOTALL)


def emphasis(prompt: str) -> tuple[str, list[float]]:
    """(the prompt without its brackets, a weight for every character of it)."""
    text, weights = "", []
    opened: list[tuple[str, int]] = []  # (bracket, where it stands), the innermost last

    def close(bracket: str, factor: float) -> bool:
        if not opened or opened[-1][0] != bracket:
            return False
        start = opened.pop()[1]
        weights[start:] = [weight * factor for weight in weights[start:]]
        return True

    for found in _TOKEN.finditer(prompt):
        token, number = found[0], found[1]
        if token in "([":
            opened.append((token, len(text)))
            continue
        if number is not None and close("(", float(number)):
            continue
        if (token == ")" and close("(", STEP)) or (token == "]" and close("[", 1 / STEP)):
            continue
        literal = token[1:] if len(token) == 2 and token[0] == "\\" else token
        text += literal
        weights += [1.0] * len(literal)
    while opened:
        close(opened[-1][0], STEP if opened[-1][0] == "(" else 1 / STEP)
    return text, weights


def of_tokens(weights: Sequence[float], spans: Sequence[tuple[int, int]], text: str) -> list[float]:
    """The weight of every token: the mean over its characters, spaces left out; 1 where it stands for none of them."""
    found = []
    for start, end in spans:
        inside = [weights[i] for i in range(start, min(end, len(weights))) if not text[i].isspace()]
        found.append(sum(inside) / len(inside) if inside else 1.0)
    return found


def weighted(text: Tensor, weights: Tensor) -> Tensor:
    """Features ``[B, L, D]`` times the weights of their tokens ``[B, L]``, of the same mean size as before.

    Web UIs keep the mean of the features; after a normalisation that is a quotient of two numbers near zero, so what is
    kept here is the mean of their absolute values.  Texts whose weights are all 1 are not touched.
    """
    said = (weights != 1).any(1)
    loud = text * weights[..., None].to(text)
    size = text.abs().mean((1, 2), keepdim=True) / loud.abs().mean((1, 2), keepdim=True).clamp(min=1e-12)
    return torch.where(said[:, None, None], loud * size, text)
