"""Frozen encoders as the text of a recipe: which, read how, kept where."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fromnoise.blocks import mean_text
from fromnoise.config import Chooses, spec, to_dict
from fromnoise.folders import Component
from fromnoise.text.families import Family
from fromnoise.text.opening import (
    class_of,
    config_of,
    depth_of,
    download_encoders,
    family_of,
    fingerprint,
    load_encoder,
    load_tokenizer,
    part_of,
    parts_of,
    rule_of,
    tokens_of,
)
from fromnoise.text.rows import Rows, laid, rows_of
from fromnoise.text.store import Memory, Shards
from fromnoise.text.towers import FrozenEncoder, Tower, Towers, Weights, frozen
from fromnoise.types import Condition, UserError


@spec
class Frozen:
    """Encoders that others trained (CLIP, T5, language models), as they are: not trained, averaged or saved.

    ``family`` says how a published system reads prompts; the fields under it change that for every encoder that hands
    on tokens.
    """

    kind: Literal["frozen"] = "frozen"
    folder: Annotated[str, Field(min_length=1)]
    """The folder, or hub id, of a pipeline of diffusers or of an encoder, with the tokenizer."""
    family: Annotated[Literal["auto"] | Family, Chooses()] = "auto"
    """Whose rule prompts are read by; auto finds it in the folder."""
    # how they read
    layers: tuple[int, ...] = ()
    """Hidden states that are handed on, 0 the embeddings and -1 the last; without any those of the family, or all."""
    combine: Literal["beside", "mean", "mix"] = "beside"
    """Several layers are laid side by side, or each is normalised and all are averaged: evenly, or as learned (mix)."""
    final_norm: bool = True
    """The last hidden state is taken after the encoder's final normalisation."""
    max_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens read of a prompt; by default as the family has it. Never more than an encoder has places for."""
    template: str = ""
    """What prompts are put into, at {}; by default as the family has it."""
    drop: Annotated[int, Field(ge=0)] | None = None
    """Tokens of the template's beginning that are not handed on; by default as the family has it."""
    chat: bool | None = None
    """Prompts are put into the tokenizer's own chat template; by default as the family has it."""
    attend_padding: bool | None = None
    """The encoder treats padding as words; by default as the family has it."""
    padding: Literal["family", "kept", "masked", "removed"] = "family"
    """Padding is handed on as words are, with a mask, or not at all."""
    pooled: Literal["family", "mean", "none"] = "family"
    """One vector for the whole text: CLIP's where the family has it, the mean of the tokens, or none."""
    empty: Literal["family", "encoded", "zeros"] = "family"
    """What an empty text becomes: encoded as any other, or zeros."""
    # how they are run
    precision: Literal["float32", "bfloat16"] = "float32"
    """Numbers that the encoders compute in."""
    offload: Literal["none", "cpu", "dropped"] = "none"
    """Encoders stay beside the network, stay on the CPU, or are loaded only while there is something to encode."""
    cache: Literal["none", "memory", "disk"] = "none"
    """Answers are computed for every batch, held in memory, or computed for all captions first and read from disk."""
    cache_texts: Annotated[int, Field(gt=0)] = 10_000
    """Texts whose answers are held in memory."""
    cache_folder: str = ""
    """Where answers lie on disk; by default in the run's own folder."""
    cache_precision: Literal["float32", "bfloat16"] = "float32"
    """Numbers that answers are kept in."""
    # what was found
    classes: tuple[str, ...] = ()
    """Classes of the encoders, found when training begins."""
    sha256: str = ""
    """Of their files, found when training begins; a folder with others is refused."""

    def place(self) -> Path:
        """The folder on this machine; a hub id is downloaded.  UserError where it is not there."""
        if Path(self.folder).is_dir():
            return Path(self.folder)
        try:
            return download_encoders(self.folder)
        except UserError as reason:
            hint = ("The text encoder that this run was trained with is gone: put it back, or name its new folder in "
                    "text.folder." if self.sha256 else "Name the folder of the text encoder in text.folder.")
            raise UserError(f"{reason} {hint}") from None

    def resolved(self) -> Frozen:
        """This with what its folder says: family, classes and checksum.  UserError where something is missing."""
        folder = self.place()
        chosen = replace(self, family=family_of(folder) if self.family == "auto" else self.family)
        parts = parts_of(folder, chosen.rule(folder).towers)
        return replace(chosen, folder=str(folder.resolve()) if Path(self.folder).is_dir() else self.folder,
                       classes=tuple(class_of(model).__name__ for model, _ in parts), sha256=fingerprint(parts))

    def rule(self, folder: Path) -> Towers:
        """How prompts are read: the family's rule, changed as the fields say."""
        rule = rule_of(folder, family_of(folder) if self.family == "auto" else self.family)
        towers = tuple(self._changed(tower, folder) for tower in rule.towers)
        return replace(rule, towers=towers, empty=rule.empty if self.empty == "family" else self.empty)

    def _changed(self, tower: Tower, folder: Path) -> Tower:
        """A tower of the family, read as the fields say."""
        if self.pooled != "family":
            tower = replace(tower, pooled=False)
        if not tower.layers:
            return tower
        said: dict[str, Any] = {"max_length": self.max_length, "drop": self.drop, "chat": self.chat,
                                "attend_padding": self.attend_padding, "template": self.template or None,
                                "padding": None if self.padding == "family" else self.padding,
                                "layers": self.layers or (self._every(folder, tower) if self.combine != "beside" else
                                                          None)}
        model, tokenizer = parts_of(folder, [tower])[0]
        if places := config_of(model).get("max_position_embeddings"):
            said["max_length"] = min(self.max_length or tower.max_length or tokens_of(tokenizer) or places, places)
        changed = {name: value for name, value in said.items() if value is not None}
        return replace(tower, combine=self.combine, final_norm=self.final_norm, **changed)

    def _every(self, folder: Path, tower: Tower) -> tuple[int, ...]:
        """All layers of an encoder but its embeddings."""
        return tuple(range(1, depth_of(part_of(folder, tower.model)) + 1))

    # ---- what every text of a recipe has ------------------------------------------------------------

    @property
    def pooled_width(self) -> int:
        """Features of the pooled text; 0 where there is none."""
        return self.build(None).pooled_width or 0

    def learn_tokenizer(self, captions: Iterable[str]) -> None:
        """Nothing is learned of captions: encoders bring their tokenizers."""

    def load_tokenizer(self, json: str) -> None:
        """Nothing is kept with a run."""

    def build(self, tokenizer: None = None) -> FrozenText:
        """The encoders.  UserError where the folder is gone, or is no longer what it was when training began."""
        folder = self.place()
        rule = self.rule(folder)
        parts = parts_of(folder, rule.towers)
        if self.sha256 and (found := fingerprint(parts)) != self.sha256:
            raise UserError(f"The text encoder in {self.folder} is not the one that this run was trained with: its "
                            f"files have changed (SHA-256 {found[:12]}..., and the recipe has {self.sha256[:12]}...). "
                            "Put the files back, or name the folder that has them in text.folder.")
        return FrozenText(self, rule, parts)


class FrozenText(FrozenEncoder):
    """Texts to their condition, each a function of the text alone but for rounding; the empty text is "negative"."""

    here: Tensor
    learned = ""  # of captions, to be kept with the weights

    def __init__(self, choice: Frozen, rule: Towers, where: Sequence[tuple[Component, Component]]):
        super().__init__(rule, [])
        self.choice, self.where = choice, where
        self.tokenizers: dict[int, Any] = {}
        kept_as = getattr(torch, choice.cache_precision)
        self.store = Memory(choice.cache_texts, kept_as) if choice.cache == "memory" else None
        self.register_buffer("here", torch.empty(0), persistent=False)  # the device
        for tower in rule.towers:
            if tower.padding == "kept" and not tower.fill:
                raise UserError("text.padding kept hands on as many tokens as the longest text of a batch has, so that "
                                f"what a text becomes depends on its neighbours ({tower.model}): choose masked.")
        seen = self.encode([""])
        self.width = None if seen.text is None else seen.text.shape[-1]
        self.pooled_width = None if seen.pooled is None else seen.pooled.shape[-1]

    @property
    def parts(self) -> list[tuple[nn.Module, Any]]:
        """(model, tokenizer) of each tower, loaded where they are not held."""
        if not self.held:
            dtype = getattr(torch, self.choice.precision)
            self.held = frozen([(load_encoder(model, dtype=dtype).to(self.computes_on), self.tokenizer(i))
                                for i, (model, _) in enumerate(self.where)])
        return self.held

    @property
    def computes_on(self) -> torch.device:
        """Where the encoders run."""
        return torch.device("cpu") if self.choice.offload == "cpu" else self.here.device

    def prepare(self, captions: Sequence[str], folder: Path, report: Callable[[str], None] = lambda _: None) -> None:
        """With a cache on disk, encode ``captions`` and the empty text into it, so that training only reads."""
        if self.choice.cache != "disk":
            return
        rule = json.dumps([self.choice.sha256 or fingerprint(self.where), to_dict(self.spec), self.choice.precision,
                           self.choice.cache_precision])
        key = hashlib.sha256(rule.encode()).hexdigest()[:16]
        shards = Shards(Path(self.choice.cache_folder or folder) / key, getattr(torch, self.choice.cache_precision))
        shards.fill([*captions, ""], self.rows, report)
        self.store = shards

    def _apply(self, fn, recurse=True):
        nn.Module._apply(self, fn, recurse)
        for model, _ in self.held:
            model.to(self.computes_on)  # and not to another precision, which is their own
        return self

    def tokenizer(self, index: int) -> Any:
        if index not in self.tokenizers:
            self.tokenizers[index] = load_tokenizer(self.where[index][1])
        return self.tokenizers[index]

    def encode(self, texts: Sequence[str], negative: bool = False, weights: Weights = None) -> Condition:
        """The condition of ``texts`` on this module's device, in float32; no gradient reaches the encoders.

        weights: of every character (``emphasis``).
        """
        if weights is None:
            found = self.store.get(texts, self.rows) if self.store else self.rows(texts)
            rows = [found[text] for text in texts]
        else:
            rows = [self.rows([text], [weight])[text] for text, weight in zip(texts, weights, strict=True)]
        readings = [laid([row[i] for row in rows], self.here.device) for i in range(len(self.spec.towers))]
        condition = self.condition(readings)
        if self.choice.pooled == "mean" and condition.text is not None:
            condition = replace(condition, pooled=mean_text(condition.text, condition.mask))
        return self._silenced(condition, texts) if self.spec.empty == "zeros" else condition

    def rows(self, texts: Sequence[str], weights: Weights = None) -> dict[str, Rows]:
        """What every tower answers to each of the texts, now."""
        found: dict[str, Rows] = {}
        for empty in (True, False):  # an empty text is what is guided away from
            some = [text for text in dict.fromkeys(texts) if (text == "") == empty]
            if some:
                with torch.autocast(self.computes_on.type, enabled=False):
                    answers = [self.read(i, some, empty, weights) for i in range(len(self.spec.towers))]
                found |= dict(zip(some, rows_of(answers, self.spec.towers), strict=True))
        if self.choice.offload == "dropped":
            self.held = []
        return found
