"""What a caller may ask of a sample: settings in their plain types, each judged in one place."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fromnoise.config import from_dict
from fromnoise.denoise import Guidance, Held, Keep
from fromnoise.random import fold
from fromnoise.sample import FullSequence, Order
from fromnoise.types import UserError

Noise = Tensor | np.ndarray | Sequence[Any]
Expert = tuple[str, float, float]  # a run folder, and the times between which its denoiser is asked


@dataclass(frozen=True)
class Adapter:
    """A LoRA in the weights: where it was read, how strong it is, and the SHA-256 of what was read."""

    path: str
    scale: float
    sha256: str


@dataclass(frozen=True)
class Settings:
    """All that a picture depends on besides the weights; saved inside its PNG."""

    prompts: list[str]
    steps: int
    guidance: Guidance
    solver: str
    seed: int
    size: tuple[int, int]
    negative: str = ""
    compose: bool = False
    weighted: bool = False
    long: bool = False
    first: int = 0
    given_noise: bool = False  # the noise was the caller's: these settings alone do not make the picture again
    loras: list[Adapter] = field(default_factory=list)  # in the order in which they were added
    experts: list[Expert] = field(default_factory=list)
    augment: float = 0.0  # noise on the small picture, where one is enlarged
    stage: int = 0  # of a cascade: how often pictures were enlarged
    given_image: str = ""  # a hash of the small pictures where they were the caller's
    fps: float = 0.0  # frames a second; 0 of pictures
    frames: int = 1
    overlap: int = 0  # frames that a window of a rollout knows of those before it; 0: all frames at once
    schedule: Order = field(default_factory=FullSequence)
    keep: Keep = field(default_factory=Held)
    given: str = ""  # a hash of the frames and pixels that were given, and of where
    actions: list[Any] = field(default_factory=list)  # a row for each sample or for all, of what led to each frame
    action_guidance: float = 1.0  # scale of guidance on them

    @property
    def stream(self) -> int:
        """The seed of its noise: stages of a cascade share a seed, and no noise."""
        return int(fold(self.seed, self.stage)) if self.stage else self.seed


# ---- what a setting may be ------------------------------------------------------------------------------


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # a lone surrogate, which is a ValueError
    return str(value)


def _texts(value: Any) -> list[str]:
    found = None if isinstance(value, str | bytes) else [_text(text) for text in value]
    if not found:
        raise ValueError
    return found


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        number = operator.index(value)
        if isinstance(value, bool) or not low <= number <= high:
            raise ValueError
        return number

    return convert


def _guidance(value: Any) -> Guidance:
    if isinstance(value, Guidance):
        return value
    if isinstance(value, dict):  # as it stands in a picture
        return from_dict(Guidance, value, "guidance")
    if isinstance(value, str | bytes | bool) or not math.isfinite(number := float(value)) or number < 0:
        raise ValueError
    return Guidance(scale=number)


def _size(value: Any) -> tuple[int, int]:
    height, width = map(_whole(-(2**31), 2**31), value)  # the model says which of them it can take
    return height, width


def _experts(value: Any) -> list[Expert]:
    return [(_text(run), _share(low), _share(high)) for run, low, high in value]


def _share(value: Any) -> float:
    if isinstance(value, str | bytes | bool) or not 0 <= (number := float(value)) <= 1:
        raise ValueError
    return number


def _fields(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError
    return value


def _number(value: Any) -> float:
    if isinstance(value, str | bytes | bool) or not math.isfinite(number := float(value)):
        raise ValueError
    return number


def _rate(value: Any) -> float:
    if not 0 <= (number := _number(value)) <= 1000:
        raise ValueError
    return number


def _loras(value: Any) -> list[Adapter]:
    found = [one if isinstance(one, Adapter) else Adapter(**one) for one in value]  # a dict, as it stands in a picture
    return [Adapter(_text(one.path), _number(one.scale), _text(one.sha256)) for one in found]


def _kind_of(choice: Any) -> Callable[[Any], Any]:
    """One of a choice of specs, as it is, as the name of its kind, or as it stands in a picture."""

    def convert(value: Any) -> Any:
        return from_dict(choice, {"kind": value} if isinstance(value, str) else value, "")

    return convert


def _rows(value: Any) -> list[Any]:
    if isinstance(value, str | bytes) or any(isinstance(row, str | bytes) for row in value):
        raise TypeError
    return [list(row) for row in value]


def _strength(value: Any) -> float:
    if (number := _number(value)) < 0:
        raise ValueError
    return number


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


RULES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "prompts": (_texts, "a list of at least one text (an empty text is allowed)"),
    "steps": (_whole(1, 10_000), "a whole number from 1 to 10,000"),
    "guidance": (_guidance, "a number that is 0 or more, or a Guidance"),
    "solver": (_text, "the name of a solver"),
    "seed": (_whole(0, 2**63 - 1), "a whole number from 0 to 2^63 - 1"),
    "size": (_size, "two whole numbers of pixels, (height, width)"),
    "negative": (_text, "a text"),
    "compose": (_flag, "true or false"),
    "weighted": (_flag, "true or false"),
    "long": (_flag, "true or false"),
    "first": (_whole(0, 2**62), "a whole number from 0 to 2^62"),
    "given_noise": (_flag, "true or false"),
    "loras": (_loras, "a list of LoRAs, each with its path, scale and sha256"),
    "scale": (_number, "a number"),
    "experts": (_experts, "a list of (run folder, lowest t, highest t) with times from 0 to 1"),
    "augment": (_share, "a number from 0 to 1"),
    "stage": (_whole(0, 1000), "a whole number from 0 to 1,000"),
    "given_image": (_text, "a text"),
    "fps": (_rate, "a number of frames a second, up to 1,000"),
    "frames": (_whole(1, 10**7), "a whole number from 1 to 10,000,000"),
    "overlap": (_whole(0, 10**6), "a whole number from 0 to 1,000,000"),
    "schedule": (_kind_of(Order), "an order of frames, such as full_sequence or Pyramid(delay=2)"),
    "keep": (_kind_of(Keep), "a way to keep what is given, such as held or Reconstructed(weight=2)"),
    "given": (_text, "a text"),
    "actions": (_rows, "a list of rows of actions"),
    "action_guidance": (_strength, "a number that is 0 or more"),
    "run": (_text, "a text"),
    "recipe": (_fields, "an object of fields"),
    "batch": (_whole(1, 2**31), "a whole number that is 1 or more"),
    "enlarge": (_whole(1, 1000), "a whole number from 1 to 1,000"),
    "columns": (_whole(1, 2**31), "a whole number that is 1 or more"),
}


def checked(name: str, value: Any) -> Any:
    """The value of a setting, in its plain type.  UserError where it cannot be."""
    convert, meaning = RULES[name]
    try:
        return convert(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise UserError(f"{name} must be {meaning} (got {shown(value)}).") from None


def shown(value: Any) -> str:
    """A value in a sentence: on one line, and short."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def as_noise(noise: Noise, shape: tuple[int, ...]) -> Tensor:
    """The caller's starting noise in float32.  UserError where it has another shape or is not of finite numbers."""
    given = as_numbers(noise, "noise")
    if tuple(given.shape) != shape:
        raise UserError(f"The noise has shape {tuple(given.shape)}, but {shape} is needed.")
    return given


def as_numbers(array: Noise, name: str) -> Tensor:
    """A caller's array in float32.  UserError where it is not of finite numbers."""
    try:
        given = array if isinstance(array, Tensor) else torch.from_numpy(_real(np.asarray(array)))
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{name} must be an array of numbers (got {shown(array)}).") from None
    if given.is_complex() or not bool(given.float().isfinite().all()):
        raise UserError(f"The {name} must be of finite real numbers: it has others, such as NaN.")
    return given.detach().float()


def _real(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise TypeError
    with np.errstate(over="ignore"):  # what overflows is refused with what is infinite
        return array.astype(np.float32)
