"""Aspect-ratio buckets: sizes of about equal area, so that pictures need not be cut square.

After NovelAI, "NovelAI improvements on Stable Diffusion", 2022, section "Aspect ratio bucketing".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Size = tuple[int, int]  # width, height


def bucket_sizes(resolution: int, multiple: int, max_aspect: float) -> list[Size]:
    """Every size whose sides are multiples of ``multiple``, with about ``resolution``^2 pixels and aspect
    ratio up to ``max_aspect`` either way; the square first."""
    side = max(multiple, round(resolution / multiple) * multiple)
    sizes = {(side, side)}
    width = multiple
    while width <= resolution * math.sqrt(max_aspect) + multiple / 2:
        height = max(multiple, round(resolution**2 / width / multiple) * multiple)
        if max(width / height, height / width) <= max_aspect * 1.001:
            sizes |= {(width, height), (height, width)}
        width += multiple
    return sorted(sizes, key=lambda s: (abs(math.log(s[0] / s[1])), s))


def assign(pictures: Sequence[Size], sizes: Sequence[Size], fewest: int) -> list[Size]:
    """The bucket of each picture: the nearest in aspect ratio, on a logarithmic scale.

    Buckets with fewer than ``fewest`` pictures are given up, the rarest first, and their pictures go to the
    next nearest one in use: none is ever dropped.
    """
    if not pictures:
        return []
    aspects = np.log([w / h for w, h in pictures])
    ladder = sorted(sizes, key=lambda s: (s[0] / s[1], s))
    while True:
        steps = np.log([w / h for w, h in ladder])
        chosen = np.searchsorted((steps[1:] + steps[:-1]) / 2, aspects)
        counts = np.bincount(chosen, minlength=len(ladder))
        used = np.flatnonzero(counts)
        rare = used[np.argmin(counts[used])]
        if counts[rare] >= fewest or len(used) == 1:
            return [ladder[i] for i in chosen]
        ladder = [ladder[i] for i in used if i != rare]
