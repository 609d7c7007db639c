"""What films show that single frames do not: flicker, movement, and whether what moves stays what it is.

Values are in units of pixels, of which black to white is 2.  None of the measures needs more than the films; a smooth,
frozen film has none of flicker, movement or warping error, so each is to be near what real films have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fromnoise.evaluate.distances import frechet
from fromnoise.evaluate.flow import flow, visible, warp
from fromnoise.evaluate.report import Row
from fromnoise.perception.clips import RandomClipFeatures

WARPED = 64  # films whose flow is looked at: it costs more than all else
PAIRS = 64  # of frames at a time


def movement(media: Tensor) -> Tensor:
    """Mean |x_(t+1) - x_t| of each film ``[n, T, C, H, W]``."""
    return media.diff(dim=1).abs().flatten(1).mean(1)


def flicker(media: Tensor) -> Tensor:
    """Mean |x_(t+1) - 2 x_t + x_(t-1)| of each film: what comes and goes, and not what changes evenly."""
    return media.diff(n=2, dim=1).abs().flatten(1).mean(1)


def warping_error(media: Tensor) -> Tensor:
    """How far a frame, moved along the flow to the next, is from that (Lai et al. 2018, section 4.2); ``[n]``.

    Mean |difference| of films ``[n, T, C, H, W]`` over the places of the next frame that are seen in the frame before:
    what is uncovered or comes in does not count.  The flow is that of the film itself.
    """
    before, after = media[:, :-1].flatten(0, 1), media[:, 1:].flatten(0, 1)
    errors, seen = [], []
    for a, b in zip(before.split(PAIRS), after.split(PAIRS), strict=True):
        back, there = flow(b, a), flow(a, b)
        mask = visible(back, there)
        errors.append(((warp(a, back) - b).abs().mean(1) * mask).sum((1, 2)))
        seen.append(mask.sum((1, 2)))
    error, places = (torch.cat(x).view(len(media), -1).sum(1) for x in (errors, seen))
    return error / places.clamp(min=1)


def over_frames(measure: Callable[[Tensor, Tensor], Tensor], made: Tensor, real: Tensor) -> Tensor:
    """A measure of pictures, such as ``psnr``, at each frame: means ``[T]`` over films ``[n, T, C, H, W]``.

    ValueError for films of other shapes.
    """
    if made.shape != real.shape:
        raise ValueError(f"films {list(made.shape)} cannot be compared frame by frame with {list(real.shape)}")
    return torch.stack([measure(a, b).mean() for a, b in zip(made.unbind(1), real.unbind(1), strict=True)])


def temporal_rows(made: Tensor, real: Tensor) -> list[Row]:
    """The rows of films ``[n, T, C, H, W]`` beside real ones ``[m, T', C, H, W]``, those that T allows."""
    rows = []
    for name, measure, fewest, most, note in (
            ("movement", movement, 2, None, "mean change from frame to frame"),
            ("flicker", flicker, 3, None, "mean second difference over frames"),
            ("warping error", warping_error, 2, WARPED, "of a frame moved along the flow, where it is still seen")):
        if min(made.shape[1], real.shape[1]) >= fewest:
            value, null = (float(measure(x[:most]).mean()) for x in (made, real))
            rows.append(Row(name, value, null, ".4f", "near", note))
    return rows


def clip_features(data: Any) -> Callable[[Tensor], Tensor]:
    """What films of this data are compared by: films ``[n, T, C, H, W]`` to ``[n, F]``."""
    return RandomClipFeatures(data.channels).look


def clip_frechet(made: Tensor, real: Tensor, other: Tensor, data: Any) -> Row:
    """The Frechet distance of films to ``real`` ones, beside that of ``other`` real films, as many."""
    look = clip_features(data)
    seen = look(real)
    return Row("Frechet distance of films", frechet(look(made), seen), frechet(look(other), seen), ".4f", "lower",
               "in what fixed random networks see of frames and of their changes; real: other held-out films")
