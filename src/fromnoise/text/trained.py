"""A small text encoder that is trained along with the picture model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fromnoise.blocks import Block, RelativeBias, mean_text, norm, word_shift
from fromnoise.config import spec
from fromnoise.text.emphasis import of_tokens, weighted
from fromnoise.text.tokenizers import BPETokenizer, ByteTokenizer, Tokenizer, cut, tokenize
from fromnoise.types import Condition, UserError

REACH = 8  # words further apart than this share one bias


@spec
class Trained:
    """A transformer over bytes or BPE tokens, trained along with the picture model.

    What a sentence says lies in the order of its words ("a red circle above a blue square"), and a picture
    model asks for little else at first than which words there are.  So order is made easy to find: every
    word meets its neighbours in ``word_shift``, and heads start out preferring different offsets.
    """

    kind: Literal["trained"] = "trained"
    tokenizer: Literal["bytes", "bpe"] = "bpe"
    """bytes, or bpe: a byte-pair encoding learned from the captions."""
    vocabulary: Annotated[int, Field(ge=258, le=65536)] = 512
    """Largest number of BPE tokens."""
    max_length: Annotated[int, Field(ge=2, le=4096)] = 64
    """Tokens read of a prompt; what is longer is cut, and said."""
    width: Annotated[int, Field(gt=0)] = 96
    """Features of a token."""
    depth: Annotated[int, Field(ge=0)] = 1
    """Transformer layers of the encoder."""
    heads: Annotated[int, Field(gt=0)] = 4
    """Attention heads."""

    @property
    def pooled_width(self) -> int:
        """Features of the pooled text, the mean of its words."""
        return self.width

    def resolved(self) -> Trained:
        """Nothing has to be looked up."""
        return self

    def learn_tokenizer(self, captions: Iterable[str]) -> Tokenizer:
        """The tokenizer these captions call for."""
        return ByteTokenizer() if self.tokenizer == "bytes" else BPETokenizer.learn(captions, self.vocabulary)

    def load_tokenizer(self, json: str) -> Tokenizer:
        """The tokenizer that was saved with a run."""
        return ByteTokenizer() if self.tokenizer == "bytes" else BPETokenizer(json)

    def build(self, tokenizer: Tokenizer) -> TextEncoder:
        """The encoder; UserError where the heads do not divide the width."""
        if self.width % self.heads:
            raise UserError(f"text.width {self.width} is not a multiple of text.heads {self.heads}.")
        return TextEncoder(self, tokenizer)


class TextEncoder(nn.Module):
    """Tokens ``[B, L]`` to a Condition with features ``[B, L, D]``."""

    def __init__(self, spec: Trained, tokenizer: Tokenizer):
        super().__init__()
        self.spec, self.tokenizer = spec, tokenizer
        self.embedding = nn.Embedding(tokenizer.vocabulary, spec.width)
        self.position = nn.Parameter(torch.zeros(spec.max_length, spec.width))
        self.offset_bias = RelativeBias(spec.heads, (REACH,), start="random")
        self.blocks = nn.ModuleList(Block(spec.width, spec.heads) for _ in range(spec.depth))
        nn.init.normal_(self.embedding.weight, std=0.5)
        nn.init.normal_(self.position, std=0.5)

    @property
    def width(self) -> int:
        """Features of a token."""
        return self.spec.width

    @property
    def pooled_width(self) -> int:
        """Features of the pooled text."""
        return self.spec.pooled_width

    @property
    def window(self) -> int:
        """Tokens that are read of a prompt."""
        return self.spec.max_length

    @property
    def learned(self) -> str:
        """What was learned of captions and is kept with the weights: the tokenizer."""
        return self.tokenizer.to_json()

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Tokens and mask ``[B, L]`` on the encoder's device; no mask where every token is real."""
        tokens, mask = tokenize(self.tokenizer, texts, self.spec.max_length)
        device = self.position.device
        return tokens.to(device), None if bool(mask.all()) else mask.to(device)

    def cut(self, text: str) -> str | None:
        """How a prompt that is too long is cut, or None."""
        return cut(self.tokenizer, text, self.spec.max_length)

    def count_cut(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than what is read."""
        return sum(len(self.tokenizer.encode(text)) >= self.spec.max_length for text in texts)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Condition:
        x = self.embedding(tokens) + self.position[: tokens.shape[1]]
        bias = self.offset_bias(torch.arange(tokens.shape[1], device=tokens.device)[:, None]).to(x.dtype)
        if mask is not None:  # nobody looks at padding; every row has START to look at
            bias = bias + torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, float("-inf"))[:, None, None, :]
        for block in self.blocks:
            x = block(x, bias=bias, mix=lambda y: word_shift(y, mask))
        text = norm(x)
        return Condition(text=text, mask=mask, pooled=mean_text(text, mask))

    def encode(self, texts: Sequence[str], weights: Sequence[Sequence[float]] | None = None) -> Condition:
        """Texts to their condition.  weights: of every character (``emphasis``); the pooled text is without them."""
        condition = self(*self.tokenize(texts))
        if weights is None or condition.text is None:
            return condition
        values = torch.ones(condition.text.shape[:2])
        for row, text, weight in zip(values, texts, weights, strict=True):
            tokens = of_tokens(weight, self.tokenizer.spans(text), text)[: len(row) - 1]
            row[1 : 1 + len(tokens)] = torch.tensor(tokens)  # after START
        return replace(condition, text=weighted(condition.text, values.to(condition.text)))

    def fits(self, text: str) -> bool:
        """Whether the whole text is read."""
        return len(self.tokenizer.encode(text)) < self.spec.max_length

    def check_windows(self) -> None:
        """Any text can be read in windows."""
