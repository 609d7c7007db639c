"""Text to integers: UTF-8 bytes, or a byte-level BPE learned from the captions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

PAD, START = 0, 1


class Tokenizer(Protocol):
    vocabulary: int

    def encode(self, text: str) -> list[int]:
        """Tokens of one text, without START and without padding."""
        ...

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where in the text each of these tokens begins and ends, in characters."""
        ...

    def to_json(self) -> str:
        """What rebuilds it, empty where nothing was learned."""
        ...


class ByteTokenizer:
    """Every UTF-8 byte is a token: nothing to learn, no word unknown."""

    vocabulary = 258

    def encode(self, text: str) -> list[int]:
        return [b + 2 for b in text.encode("utf-8")]

    def spans(self, text: str) -> list[tuple[int, int]]:
        return [(i, i + 1) for i, letter in enumerate(text) for _ in letter.encode("utf-8")]

    def to_json(self) -> str:
        return ""


class BPETokenizer:
    """Byte-level byte-pair encoding through the ``tokenizers`` library."""

    def __init__(self, json: str):
        from tokenizers import Tokenizer as Backend

        self._backend = Backend.from_str(json)
        self.vocabulary = self._backend.get_vocab_size()

    @classmethod
    def learn(cls, captions: Iterable[str], vocabulary: int) -> BPETokenizer:
        """Merges learned from ``captions``; fewer than ``vocabulary`` tokens where the text has no more."""
        from tokenizers import Tokenizer as Backend
        from tokenizers import decoders, models, pre_tokenizers, trainers

        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=max(vocabulary, 258), special_tokens=["<pad>", "<start>"], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        backend.train_from_iterator(captions, trainer)
        return cls(backend.to_str())

    def encode(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids if text else []

    def spans(self, text: str) -> list[tuple[int, int]]:
        return self._backend.encode(text, add_special_tokens=False).offsets if text else []

    def to_json(self) -> str:
        return self._backend.to_str()


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> tuple[Tensor, Tensor]:
    """Tokens ``[B, L]`` and mask ``[B, L]`` (True where real); L is the longest text here, at most ``max_length``.

    Every text begins with START, so the empty text, which stands for "unconditional", is one token.
    """
    rows = [[START, *tokenizer.encode(text)][:max_length] for text in texts]
    length = max(map(len, rows))
    tokens = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return tokens, torch.arange(length) < lengths[:, None]


def cut(tokenizer: Tokenizer, text: str, max_length: int) -> str | None:
    """A sentence on what of ``text`` is not read because it is too long, or None when it fits."""
    return cut_sentence(lambda part: len(tokenizer.encode(part)) + 1, text, max_length)


def cut_sentence(count: Callable[[str], int], text: str, max_length: int) -> str | None:
    """The sentence of ``cut`` for anything that counts tokens, those it adds included."""
    if count(text) <= max_length:
        return None
    low, high = 0, len(text)
    while low < high:  # the longest prefix that fits
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(text[:middle]) <= max_length else (low, middle - 1)
    return (f"The prompt has {count(text)} tokens but the text encoder reads {max_length}: "
            f'it was cut after "...{text[:low][-40:]}".')
