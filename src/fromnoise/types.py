"""The few things every room speaks of.

Shape legend, used in names and docstrings throughout:

    B  batch            T  frames (an image has T = 1)      C  channels
    H  height in pixels W  width in pixels                  L  text tokens
    h  latent height    w  latent width                     D  features
    N  tokens of a sequence

Media are float tensors ``[B, T, C, H, W]`` in [-1, 1].  Time ``t`` is the noise level, 0 clean and
1 noise, and broadcasts against ``[B, T]``: every frame has its own clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class UserError(Exception):
    """Something the user can put right: one clear sentence saying what was wrong and what to do.

    The command line prints the sentence and leaves with exit code 2; nothing else is caught there.
    """


@dataclass(frozen=True)
class Encoded:
    """What an autoencoder says of media: normalised latents ``[B, T, c, h, w]``.

    mean: the latents, or where they are a distribution to draw from its mean;  logvar: then its log-variance.
    """

    mean: Tensor
    logvar: Tensor | None = None

    def draw(self, random: torch.Generator) -> Tensor:
        """mean + std eps, with eps from a generator on the CPU; where there is no distribution the latents."""
        if self.logvar is None:
            return self.mean
        noise = torch.randn(self.mean.shape, generator=random, dtype=self.mean.dtype).to(self.mean.device)
        return self.mean + torch.exp(self.logvar / 2) * noise

    def map(self, f) -> Encoded:
        """With ``f`` applied to every tensor it holds."""
        return Encoded(f(self.mean), None if self.logvar is None else f(self.logvar))


@dataclass(frozen=True)
class Batch:
    """Examples as the data rooms hand them out.

    media: ``[B, T, C, H, W]`` in [-1, 1];  text: one caption for each, "" where there is none;
    index: which example of the source each one is;  latents: those of the media where they were encoded before;
    the media are then not made again but empty, ``[B, t, 0, 0, 0]`` for t latent frames;  fps: ``[B]``, frames a second
    of films, 0 where one is a single frame; None for pictures;  actions: what led to each frame, ``[B, T]`` long or
    ``[B, T, A]`` float, -1 or NaN where nothing did since an episode begins there; None where nobody acts;
    rewards: ``[B, T]`` float, what came with each frame;  ends: ``[B, T]`` bool, whether the world ended with it (one
    that was cut off did not); both None where nobody acts.
    """

    media: Tensor
    text: list[str]
    index: list[int]
    latents: Encoded | None = None
    fps: Tensor | None = None
    actions: Tensor | None = None
    rewards: Tensor | None = None
    ends: Tensor | None = None

    def __len__(self) -> int:
        return self.media.shape[0]

    def beside(self, f) -> Batch:
        """The batch with ``f`` applied to all tensors but the media: what is told of them, and what comes of them."""
        names = ("fps", "actions", "rewards", "ends")
        held = {name: f(value) for name in names if (value := getattr(self, name)) is not None}
        return replace(self, latents=None if self.latents is None else self.latents.map(f), **held)


class Source(Protocol):
    """A split of a data set with random access.

    ``batch`` is a pure function: example ``indices[i]`` with its augmentation and phrasing drawn
    from the integer ``keys[i]`` alone, so that the data of any training step can be made again.

    versions: how many versions of its pixels an example has, 2 where it may be mirrored, 0 for too many to keep;
    fingerprint: what the pixels depend on beside the spec, such as files, in a few letters.
    """

    versions: int = 1

    @property
    def fingerprint(self) -> str:
        return ""

    @property
    def captions(self) -> Sequence[str]:
        """Every phrasing a tokenizer should know (a sample of them when there are very many)."""
        ...

    @property
    def groups(self) -> Sequence[Sequence[int]]:
        """Indices partitioned into groups whose examples share one size and may share a batch."""
        ...

    def __len__(self) -> int: ...

    def choose(self, indices: Sequence[int], keys: Sequence[int]) -> tuple[list[int], list[str]]:
        """(which version of its pixels, which caption) each example is given by its key."""
        ...

    def pictures(self, indices: Sequence[int], versions: Sequence[int]) -> Tensor:
        """Media ``[B, T, C, H, W]`` of examples in these versions."""
        ...

    def rates(self, indices: Sequence[int]) -> Tensor | None:
        """Frames a second ``[B]`` of examples that are films; None for pictures."""
        return None

    def actions(self, indices: Sequence[int]) -> Tensor | None:
        """What led to each frame of examples, as ``Batch`` has it."""
        return None

    def rewards(self, indices: Sequence[int]) -> Tensor | None:
        """What came with each frame of examples, as ``Batch`` has it."""
        return None

    def ends(self, indices: Sequence[int]) -> Tensor | None:
        """Whether the world ended with each frame of examples, as ``Batch`` has it."""
        return None

    def batch(self, indices: Sequence[int], keys: Sequence[int]) -> Batch:
        versions, text = self.choose(indices, keys)
        return Batch(self.pictures(indices, versions), text, list(indices), None, self.rates(indices),
                     self.actions(indices), self.rewards(indices), self.ends(indices))


@dataclass(frozen=True)
class Acts:
    """What can be done in a world, as a network must know it when it is built; one of the three is not 0.

    choices: of how many one is taken;  switches: how many are each on or off;  numbers: how many are each in a range
    of its own, from ``low`` to ``high``.
    """

    choices: int = 0
    switches: int = 0
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @property
    def numbers(self) -> int:
        return len(self.low)

    def silence(self, actions: Tensor, where: Tensor) -> Tensor:
        """``actions`` as ``Batch`` has them, not told in the frames ``where`` ``[B, T]`` bool is True."""
        if self.choices:
            return actions.masked_fill(where, -1)
        return actions.masked_fill(where[..., None], float("nan"))


@dataclass(frozen=True)
class Condition:
    """What a network is told besides x and t.

    text: ``[B, L, D]`` token features;  mask: ``[B, L]`` bool, True where a token is real, None when all are;
    pooled: ``[B, P]``, one vector for the whole text or class;  numbers: ``[B, K]``, sizes, crops, aspect ratios or
    a guidance scale, in the network's own order;  image: ``[B, T, C', H, W]``, channels that stand beside those of x
    (a low-resolution picture, a mask, the last estimate of x0);  fps: ``[B]``, frames a second, 0 for a single frame;
    actions: what led to each frame, ``[B, T]`` long or ``[B, T, A]`` float, -1 or NaN where that is not told;
    past: ``[B, T, C, H, W]``, frames that later ones are told as those before them, in place of those of x, and past_t:
    ``[B, T]``, their noise levels.
    Streams that later rooms add (cameras) become further fields.
    """

    text: Tensor | None = None
    mask: Tensor | None = None
    pooled: Tensor | None = None
    numbers: Tensor | None = None
    image: Tensor | None = None
    fps: Tensor | None = None
    actions: Tensor | None = None
    past: Tensor | None = None
    past_t: Tensor | None = None

    def map(self, f) -> Condition:
        """The condition with ``f`` applied to every tensor it holds."""
        return Condition(**{name: f(value) for name, value in self._held().items()})

    def of(self, frames: slice) -> Condition:
        """What some of the frames are told."""
        each = {name: value[:, frames] for name, value in self._held().items()
                if name in ("image", "actions", "past", "past_t") and value.shape[1] > 1}
        return replace(self, **each)

    def of_frames(self, count: int) -> Condition:
        """What each of ``count`` frames is told, as pictures of their own in the batch: ``[B count, ...]``."""
        told = {name: value.repeat_interleave(count, 0) for name, value in self._held().items()
                if name not in ("image", "actions")}
        if self.image is not None:
            told["image"] = self.image.expand(-1, count, -1, -1, -1).flatten(0, 1)[:, None]
        if self.actions is not None:
            told["actions"] = self.actions.flatten(0, 1)[:, None]
        return Condition(**told)

    def _held(self) -> dict[str, Tensor]:
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """Conditions joined along the batch, shorter texts padded, so that one network call serves them all.

        ValueError where one of them has a part (text, pooled, ...) that another lacks.
        """
        parts = {name for c in conditions for name in c._held()} - {"mask"}
        lacking = sorted(name for name in parts if any(getattr(c, name) is None for c in conditions))
        if lacking:
            raise ValueError(f"some of the conditions have {' and '.join(lacking)} and others do not")
        joined = {name: torch.cat([getattr(c, name) for c in conditions]) for name in parts - {"text"}}
        texts = [c.text for c in conditions if c.text is not None]
        if not texts:
            return Condition(**joined)
        length = max(text.shape[1] for text in texts)
        masks = [t.new_ones(t.shape[:2], dtype=torch.bool) if c.mask is None else c.mask
                 for t, c in zip(texts, conditions, strict=True)]
        return Condition(
            text=torch.cat([F.pad(t, (0, 0, 0, length - t.shape[1])) for t in texts]),
            mask=torch.cat([F.pad(m, (0, length - m.shape[1])) for m in masks]),
            **joined,
        )
