"""Classes by their names: the text of a model that knows classes and no sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from fromnoise.config import nearest, spec
from fromnoise.types import Condition, UserError


@spec
class Labels:
    """A vector for each class, and one for no class."""

    kind: Literal["labels"] = "labels"
    names: Annotated[tuple[str, ...], Field(min_length=1)]
    """What each class is called, several names divided by commas."""
    width: Annotated[int, Field(gt=0)]
    """Length of the vectors."""

    def build(self) -> LabelEncoder:
        return LabelEncoder(self)


class LabelEncoder(nn.Module):
    """Names or numbers of classes to a Condition with pooled vectors ``[B, width]``."""

    def __init__(self, spec: Labels):
        super().__init__()
        self.spec = spec
        self.table = nn.Parameter(0.02 * torch.randn(len(spec.names) + 1, spec.width))  # the last row is no class
        self.numbers = {name.strip(): i for i, names in enumerate(spec.names) for name in names.split(",")}

    def number(self, text: str) -> int:
        """The class that a text names, by name or number; no class for the empty text.  UserError for what is none."""
        text = text.strip()
        if not text:
            return len(self.spec.names)
        if text in self.numbers:
            return self.numbers[text]
        if text.isdecimal() and int(text) < len(self.spec.names):
            return int(text)
        raise UserError(f'"{text[:80]}" is not a class of this model, which are the numbers 0 to '
                        f"{len(self.spec.names) - 1} and their names. {_hint(text, self.numbers)}".rstrip())

    def encode(self, texts: Sequence[str], negative: bool = False) -> Condition:
        """The condition of ``texts``."""
        return Condition(pooled=self.table[[self.number(text) for text in texts]])

    def cut(self, text: str) -> str | None:
        """Nothing of a name is ever cut."""
        return None

    def count_cut(self, texts: Sequence[str]) -> int:
        return 0


def _hint(text: str, names: dict[str, int]) -> str:
    hint = nearest(text, names)
    return hint if hint.startswith("Did") or len(names) <= 20 else ""
