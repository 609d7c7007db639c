"""Real pictures to compare with: how they are picked from a source, so that both sides are counted alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fromnoise.types import UserError

AT_ONCE = 64  # examples that are held whole, of films all frames


def everything(source: Any, count: int, key: int = 0, size: tuple[int, int] | None = None) -> tuple[Tensor, list[str]]:
    """At most ``count`` pictures ``[n, C, H, W]`` of a source, spread over it, and their captions.

    Of films one frame each.  Pictures of several sizes are brought to ``size`` = (height, width).  UserError where
    there are none.
    """
    return _taken(source, count, key, lambda media: stills(media) if size is None else cover(stills(media), size))


def films(source: Any, count: int, key: int = 0, size: tuple[int, int] | None = None) -> tuple[Tensor, list[str]]:
    """At most ``count`` media ``[n, T, C, H, W]``, whole, as ``everything``."""

    def sized(media: Tensor) -> Tensor:
        return media if size is None else cover(media.flatten(0, 1), size).unflatten(0, media.shape[:2])

    return _taken(source, count, key, sized)


def _taken(source: Any, count: int, key: int, of: Callable[[Tensor], Tensor]) -> tuple[Tensor, list[str]]:
    """What ``of`` makes of at most ``count`` examples spread over a source, a few at a time, and their captions."""
    if not len(source):
        raise UserError("There are no real pictures to compare with.")
    found, text = [], []
    for group in source.groups:
        take = max(1, min(len(group), round(count * len(group) / len(source))))
        chosen = [group[int(i)] for i in np.linspace(0, len(group) - 1, take)]
        for start in range(0, take, AT_ONCE):
            some = chosen[start : start + AT_ONCE]
            batch = source.batch(some, [key] * len(some))
            found.append(of(batch.media))
            text += batch.text
    return torch.cat(found)[:count], text[:count]


def stills(media: Tensor) -> Tensor:
    """One frame of each of media ``[n, T, C, H, W]``: of the first its first, of the next its second, and so on."""
    at = torch.arange(len(media), device=media.device)
    return media[at, at % media.shape[1]]


def cover(images: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """Images ``[n, C, H, W]`` cut in the middle to the shape of ``size`` and scaled to it: nothing is squashed."""
    (H, W), (h, w) = images.shape[-2:], size
    if (h, w) == (H, W):
        return images
    high, wide = min(H, round(W * h / w)), min(W, round(H * w / h))
    top, left = (H - high) // 2, (W - wide) // 2
    cut = images[..., top : top + high, left : left + wide]
    return F.interpolate(cut, size, mode=mode, antialias=True)


def subsets(total: int, count: int, times: int = 8) -> list[np.ndarray]:
    """``times`` random choices of ``count`` out of ``total``, or of all where there are fewer; always the same."""
    random = np.random.Generator(np.random.Philox(0))
    return [random.permutation(total)[:count] for _ in range(times)]


def matched(wanted: Tensor, labels: Tensor, times: int = 8) -> list[np.ndarray]:
    """``times`` random choices of as many pictures of each label as are wanted; always the same.

    wanted, labels: ``[n, heads]`` and ``[m, heads]``.  A class with too few pictures gives all it has.
    Without this a floor would also hold the difference of class proportions, which the generated pictures
    do not have, and every model would look better than it is.
    """
    random = np.random.Generator(np.random.Philox(0))
    kinds, counts = wanted.unique(dim=0, return_counts=True)
    members = [np.flatnonzero((labels == kind).all(1).numpy()) for kind in kinds]
    pairs = list(zip(members, counts.tolist(), strict=True))
    return [np.concatenate([random.permutation(m)[:count] for m, count in pairs]) for _ in range(times)]
