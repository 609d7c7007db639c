"""Text encoders that others trained, frozen: CLIP, T5 and language models through transformers.

A system reads a prompt with one or more *towers*.  How each does it are settings that do not depend on each other:
what the prompt is wrapped in, how many tokens are read and what stands for the missing ones, which layers answer,
whether padding is seen by the encoder and handed on to the network, and whether there is one vector for the whole text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fromnoise.config import spec
from fromnoise.text.emphasis import of_tokens, weighted
from fromnoise.text.hidden import hidden_states, pooled_vector
from fromnoise.text.tokenizers import cut_sentence
from fromnoise.types import Condition, UserError

Weights = Sequence[Sequence[float]] | None
MARK = "\ue000"  # of no prompt: where in a template the prompt stands


@spec
class Tower:
    """One encoder with its tokenizer, and the rule by which a prompt is read."""

    model: str = "text_encoder"
    """Folder of the encoder, inside that of the pipeline."""
    tokenizer: str = "tokenizer"
    """Folder of its tokenizer."""
    # what is read
    lower: bool = False
    """Prompts are made lower case, and spaces around them taken away."""
    template: str = ""
    """What prompts are put into, at {}."""
    bare: bool = False
    """Prompts to be guided away from are not put into the template."""
    instruction: str = ""
    """What stands before prompts to be followed; of its tokens only the first is handed on."""
    chat: bool = False
    """Prompts are put into the tokenizer's own chat template, as the words of the user."""
    system: str = ""
    """The system message of the chat."""
    answer: bool = True
    """The chat ends where the model would begin to answer."""
    thinking: bool | None = None
    """Whether the chat template is told to let the model think; None tells it nothing."""
    special_tokens: bool = True
    """The tokenizer adds its own first and last tokens."""
    max_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens read of a prompt, those of the template's beginning not counted; by default the tokenizer's own."""
    fill: bool = True
    """Every prompt is padded to ``max_length``, and not only to the longest among them."""
    side: Literal["left", "right"] | None = None
    """Where padding stands; by default as the tokenizer has it."""
    # what is answered
    attend_padding: bool = False
    """The encoder treats padding as words."""
    layers: tuple[int, ...] = (-1,)
    """Hidden states that are handed on, 0 the embeddings and -1 the last; none where only pooled is used."""
    combine: Literal["beside", "mean", "mix"] = "beside"
    """Several layers are laid side by side, or each is normalised and all are averaged: evenly, or as learned (mix)."""
    final_norm: bool = True
    """The last hidden state is taken after the model's final normalisation."""
    drop: Annotated[int, Field(ge=0)] = 0
    """Tokens at the beginning that are not handed on: those of a template."""
    padding: Literal["kept", "masked", "removed"] = "kept"
    """Padding is handed on as words are, with a mask, or not at all."""
    pooled: bool = False
    """One vector for the whole text is handed on too."""
    beside: bool = False
    """Features stand beside those of the tower before, token by token, and not after them."""


@spec
class Towers:
    """Frozen encoders and how their answers are joined.

    Features of towers that stand ``beside`` each other are joined token by token; what results is padded with zeros to
    the widest and joined along the sequence.  Pooled vectors are joined in the order of the towers.
    """

    kind: Literal["frozen"] = "frozen"
    towers: Annotated[tuple[Tower, ...], Field(min_length=1)] = (Tower(),)
    """The encoders, in order."""
    empty: Literal["encoded", "zeros"] = "encoded"
    """What an empty text to be guided away from is: encoded as any other, or zeros."""
    zeros: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = (0, 0)
    """(tokens, features) of zeros after all towers: what stands for one that a system can do without."""

    def build(self, parts: Sequence[tuple[nn.Module, Any]]) -> FrozenEncoder:
        """The encoder, from (model, tokenizer) of each tower."""
        if len(parts) != len(self.towers):
            raise ValueError(f"{len(self.towers)} towers need as many models, and there are {len(parts)}")
        return FrozenEncoder(self, parts)


@dataclass(frozen=True)
class Reading:
    """What one tower answers: text ``[B, L, D]``, mask ``[B, L]`` or None where all is real, pooled ``[B, P]``."""

    text: Tensor | None = None
    mask: Tensor | None = None
    pooled: Tensor | None = None


class FrozenEncoder(nn.Module):
    """Texts to their condition.

    The encoders move with the module but are no part of it: they are not trained, not averaged and not saved.
    """

    def __init__(self, spec: Towers, parts: Sequence[tuple[nn.Module, Any]]):
        super().__init__()
        self.spec, self.held = spec, frozen(parts)
        self.mixes = nn.ModuleDict({str(i): Mix(len(tower.layers)) for i, tower in enumerate(spec.towers)
                                    if tower.combine == "mix"})

    @property
    def parts(self) -> list[tuple[nn.Module, Any]]:
        """(model, tokenizer) of each tower."""
        return self.held

    def tokenizer(self, index: int) -> Any:
        """The tokenizer of tower ``index``."""
        return self.parts[index][1]

    def _apply(self, fn, recurse=True):
        for model, _ in self.held:
            model._apply(fn)
        return super()._apply(fn, recurse)

    def encode(self, texts: Sequence[str], negative: bool = False, weights: Weights = None) -> Condition:
        """The condition of ``texts``; ``negative`` ones are those to be guided away from.

        weights: of every character (``emphasis``).
        """
        condition = self.condition([self.read(i, texts, negative, weights) for i in range(len(self.spec.towers))])
        return self._silenced(condition, texts) if negative and self.spec.empty == "zeros" else condition

    def condition(self, readings: Sequence[Reading]) -> Condition:
        """What the towers answered, joined."""
        readings = [replace(reading, text=self.mixes[str(i)](reading.text)) if str(i) in self.mixes else reading
                    for i, reading in enumerate(readings)]
        beside = [tower.beside for tower in self.spec.towers]
        if self.spec.zeros[0]:
            like = next(reading.text for reading in readings if reading.text is not None)
            readings, beside = [*readings, Reading(like.new_zeros(len(like), *self.spec.zeros))], [*beside, False]
        text, mask = join(readings, beside)
        pooled = [reading.pooled for reading in readings if reading.pooled is not None]
        return Condition(text=text, mask=mask, pooled=torch.cat(pooled, -1) if pooled else None)

    @torch.no_grad()
    def read(self, index: int, texts: Sequence[str], negative: bool = False, weights: Weights = None) -> Reading:
        """What tower ``index`` answers."""
        tower, (model, _) = self.spec.towers[index], self.parts[index]
        ids, real = self.tokenize(index, texts, negative)
        device = next(model.parameters()).device
        ids, real = ids.to(device), real.to(device)
        seen = None if tower.attend_padding else real
        found = hidden_states(model, ids, seen, tower.layers, tower.final_norm)
        pooled = pooled_vector(found.output) if tower.pooled else None
        if not tower.layers:
            return Reading(pooled=pooled)
        text, mask = combined(found.states, tower.combine), real.bool()
        if weights is not None:
            text = weighted(text, self.token_weights(index, texts, negative, weights, mask))
        if tower.instruction and not negative:  # the first token, and as many of the last as there is room for
            keep = [0, *range(text.shape[1] - self.max_length(index) + 1, text.shape[1])]
            text, mask = text[:, keep], mask[:, keep]
        if tower.padding == "removed":
            text, mask = without_padding(text, mask, tower.drop)
        else:
            text, mask = text[:, tower.drop :], mask[:, tower.drop :]
        return Reading(text, None if tower.padding == "kept" or bool(mask.all()) else mask, pooled)

    def _silenced(self, condition: Condition, texts: Sequence[str]) -> Condition:
        """The condition with zeros for empty texts."""
        said = torch.tensor([bool(text) for text in texts])

        def silence(value: Tensor) -> Tensor:
            if value.dtype == torch.bool:
                return value  # which tokens are real stays as it is
            return value * said.to(value).view(-1, *(1 for _ in value.shape[1:]))

        return condition.map(silence)

    # ---- tokens -----------------------------------------------------------------------------------

    def tokenize(self, index: int, texts: Sequence[str], negative: bool = False) -> tuple[Tensor, Tensor]:
        """(ids, 1 where real) ``[B, L]`` for tower ``index``."""
        tower, tokenizer = self.spec.towers[index], self.tokenizer(index)
        limit = self.max_length(index) + tower.drop
        if tower.instruction and not negative:
            limit += len(tokenizer.encode(tower.instruction)) - 2
        side: dict[str, Any] = {"padding_side": tower.side} if tower.side else {}
        found = tokenizer([self.wrap(index, text, negative) for text in texts], truncation=True, max_length=limit,
                          padding="max_length" if tower.fill else "longest", add_special_tokens=tower.special_tokens,
                          return_tensors="pt", **side)
        return never_nothing(found["input_ids"].long(), found["attention_mask"].long(), tokenizer.pad_token_id)

    def token_weights(self, index: int, texts: Sequence[str], negative: bool, weights: Sequence[Sequence[float]],
                      mask: Tensor) -> Tensor:
        """The weights ``[B, L]`` of the tokens that ``tokenize`` gives, 1 for those that are not of the prompt."""
        tower, tokenizer = self.spec.towers[index], self.tokenizer(index)
        found = torch.ones(mask.shape, device=mask.device)
        start = self.wrap(index, MARK, negative).index(MARK)
        for row, real, text, weight in zip(found, mask, texts, weights, strict=True):
            if tower.lower:
                weight = weight[len(text) - len(text.lstrip()) :]
            said = self.wrap(index, text, negative)
            spans = tokenizer(said, add_special_tokens=tower.special_tokens, truncation=True, max_length=len(real),
                              return_offsets_mapping=True)["offset_mapping"]
            tokens = of_tokens([*[1.0] * start, *weight], spans, said)
            places = real.nonzero()[: len(tokens), 0]
            row[places] = torch.tensor(tokens[: len(places)]).to(row)
        return found

    def wrap(self, index: int, text: str, negative: bool = False) -> str:
        """A prompt as tower ``index`` reads it."""
        tower, tokenizer = self.spec.towers[index], self.tokenizer(index)
        if tower.lower:
            text = text.lower().strip()
        if tower.template and not (tower.bare and negative):
            text = tower.template.replace("{}", text)
        if tower.instruction and not negative:
            text = tower.instruction + text
        if not tower.chat:
            return text
        messages = [{"role": "system", "content": tower.system}] if tower.system else []
        told = {} if tower.thinking is None else {"enable_thinking": tower.thinking}
        return tokenizer.apply_chat_template([*messages, {"role": "user", "content": text}], tokenize=False,
                                             add_generation_prompt=tower.answer, **told)

    def max_length(self, index: int) -> int:
        """Tokens that tower ``index`` reads."""
        return self.spec.towers[index].max_length or self.tokenizer(index).model_max_length

    def cut(self, text: str) -> str | None:
        """How a prompt that is too long for the tower that reads most is cut, or None."""
        index = self._longest
        return cut_sentence(lambda part: self._count(index, part), text, self.max_length(index))

    def fits(self, text: str) -> bool:
        """Whether every tower reads the whole text."""
        return all(self._count(i, text) <= self.max_length(i) for i in self._readers)

    def check_windows(self) -> None:
        """UserError where a prompt cannot be read in windows one after the other."""
        if inside := [tower.model for tower in self.spec.towers if tower.chat or tower.template or tower.instruction]:
            raise UserError(f"{inside[0]} reads a prompt inside a template, which would stand in every window: long "
                            "prompts are for encoders of bare text. Shorten the prompt, or train with a larger "
                            "text.max_length.")
        if len(lengths := sorted({self.max_length(i) for i in self._readers})) > 1:
            raise UserError(f"The encoders of this model read {' and '.join(map(str, lengths))} tokens, so that they "
                            "have no windows in common: long prompts are for encoders that read equally many.")

    @property
    def _readers(self) -> list[int]:
        """The towers that hand on tokens."""
        return [i for i, tower in enumerate(self.spec.towers) if tower.layers]

    @property
    def window(self) -> int:
        """Tokens that are read of a prompt by the tower that reads most."""
        return self.max_length(self._longest)

    def count_cut(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than what is read."""
        index = self._longest
        return sum(self._count(index, text) > self.max_length(index) for text in texts)

    @property
    def _longest(self) -> int:
        """The tower that hands on the most tokens."""
        return max((i for i, tower in enumerate(self.spec.towers) if tower.layers or len(self.spec.towers) == 1),
                   key=self.max_length)

    def _count(self, index: int, text: str) -> int:
        """Tokens of a prompt, as they count against what is read."""
        tower, tokenizer = self.spec.towers[index], self.tokenizer(index)
        said = self.wrap(index, text, negative=bool(tower.instruction))
        return len(tokenizer(said, add_special_tokens=tower.special_tokens)["input_ids"]) - tower.drop


class Mix(nn.Module):
    """A learned average of layers, ``sum_k softmax(w)_k h_k`` (ELMo, Peters et al. 2018, eq. 1), even at first.

    ``[B, L, K D]``, K normalised layers side by side, to ``[B, L, D]``.
    """

    def __init__(self, layers: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))

    def forward(self, text: Tensor) -> Tensor:
        layers = text.unflatten(-1, (len(self.weights), -1))
        return torch.einsum("blkd,k->bld", layers, self.weights.softmax(0).to(text))


def frozen(parts: Sequence[tuple[nn.Module, Any]]) -> list[tuple[nn.Module, Any]]:
    """The parts with models that are never trained."""
    return [(model.requires_grad_(False).eval(), tokenizer) for model, tokenizer in parts]


def never_nothing(ids: Tensor, real: Tensor, padding: int) -> tuple[Tensor, Tensor]:
    """Tokens as they are, but a text that has none is read as one token of padding: networks look at something."""
    if not ids.shape[1]:
        ids, real = ids.new_full((len(ids), 1), padding), real.new_zeros(len(ids), 1)
    none = real.sum(1) == 0
    real = real.clone()
    real[none, 0] = 1
    return ids, real


def combined(states: Sequence[Tensor], how: Literal["beside", "mean", "mix"]) -> Tensor:
    """Hidden states ``[B, L, D]`` as one: side by side, or each normalised over its features, and averaged.

    Layers differ in size by orders of magnitude, so an average of them as they are would be one of the largest
    (2506.08210).  What is to be mixed stays side by side: its weights are learned.
    """
    if how == "beside":
        return torch.cat(list(states), -1)
    states = [F.layer_norm(state, state.shape[-1:]) for state in states]
    return torch.stack(states).mean(0) if how == "mean" else torch.cat(states, -1)


def join(readings: Sequence[Reading], beside: Sequence[bool]) -> tuple[Tensor | None, Tensor | None]:
    """Features and mask of all towers; the mask is None where every token is real."""
    groups: list[list[Reading]] = []
    for reading, near in zip(readings, beside, strict=True):
        if reading.text is not None:
            groups[-1].append(reading) if near and groups else groups.append([reading])
    if not groups:
        return None, None
    texts = [torch.cat([reading.text for reading in group if reading.text is not None], -1) for group in groups]
    width = max(text.shape[-1] for text in texts)
    text = torch.cat([F.pad(text, (0, width - text.shape[-1])) for text in texts], 1)
    masks = [group[0].mask for group in groups]
    if all(mask is None for mask in masks):
        return text, None
    whole = [t.new_ones(t.shape[:2], dtype=torch.bool) if m is None else m for t, m in zip(texts, masks, strict=True)]
    return text, torch.cat(whole, 1)


def without_padding(text: Tensor, mask: Tensor, drop: int) -> tuple[Tensor, Tensor]:
    """The real tokens of each row but the first ``drop``, from the left, padded with zeros to the longest."""
    rows = [row[real][drop:] for row, real in zip(text, mask, strict=True)]
    lengths = torch.tensor([len(row) for row in rows], device=text.device)
    length = max(1, int(lengths.max()))
    padded = torch.stack([F.pad(row, (0, 0, 0, length - len(row))) for row in rows])
    return padded, torch.arange(length, device=text.device) < lengths[:, None]
