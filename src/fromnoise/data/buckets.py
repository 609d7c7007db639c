"""Aspect-ratio buckets: sizes of about equal area, so that pictures need not be cut square."""

from __future__ import annotations

import math
from collections.abc import Sequence

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
    """The bucket of each picture: the nearest in aspect ratio.

    Buckets with fewer than ``fewest`` pictures are given up, the rarest first, and their pictures go to the
    next nearest: none is ever dropped.
    """
    sizes = list(sizes)
    while True:
        chosen = [nearest_size(p, sizes) for p in pictures]
        counts = {s: chosen.count(s) for s in set(chosen)}
        rare = min(counts, key=lambda s: (counts[s], s), default=None)
        if rare is None or counts[rare] >= fewest or len(counts) == 1:
            return chosen
        sizes.remove(rare)


def nearest_size(picture: Size, sizes: Sequence[Size]) -> Size:
    """The size with the nearest aspect ratio, on a logarithmic scale."""
    aspect = math.log(picture[0] / picture[1])
    return min(sizes, key=lambda s: (abs(math.log(s[0] / s[1]) - aspect), s))
