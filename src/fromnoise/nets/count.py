"""What a network costs, counted without memory: parameters, tokens and operations of a forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fromnoise.types import Acts, Condition


@dataclass(frozen=True)
class Count:
    """The size of a network.

    parameters: all numbers that are learned;  tokens: of a sample, words and patches;  multiply_adds: of one forward
    on one sample, which is what papers call "Gflops";  flops: twice as many, multiplications and additions apart.
    Counted are products of matrices, attention and convolutions; attention in full, whatever its mask.
    """

    parameters: int
    tokens: int
    multiply_adds: int

    @property
    def flops(self) -> int:
        return 2 * self.multiply_adds


def count(spec: Any, channels: int, size: tuple[int, int], text_width: int | None = None, words: int = 0,
          pooled_width: int | None = None, frames: int = 1, choices: int = 0) -> Count:
    """The size of ``spec``'s network for one sample of ``frames`` pictures of ``size`` (height, width) in its space.

    ``words``: text tokens of ``text_width`` features;  ``choices``: things that can be done in a world.  On the meta
    device: nothing is computed and no memory needed.
    """
    told = {} if pooled_width is None else {"pooled_width": pooled_width}
    told |= {"acts": Acts(choices=choices)} if choices else {}
    with torch.device("meta"), torch.no_grad():
        net, beside = spec.build(channels, text_width, **told), spec.image_channels
        condition = Condition(text=None if text_width is None else torch.empty(1, words, text_width),
                              pooled=None if pooled_width is None else torch.empty(1, pooled_width),
                              numbers=told_numbers(spec),
                              image=torch.empty(1, frames, beside, *size) if beside else None, fps=torch.empty(1),
                              actions=torch.empty(1, frames, dtype=torch.long) if choices else None)
        with FlopCounterMode(display=False) as counter:
            net(torch.empty(1, frames, channels, *size), torch.empty(1, frames), condition)
    patch = getattr(spec, "patch", 1)
    tokens = frames * (size[0] // patch) * (size[1] // patch) + (words if text_width is not None else 0)
    return Count(sum(p.numel() for p in net.parameters()), tokens, counter.get_total_flops() // 2)


def told_numbers(spec: Any) -> torch.Tensor | None:
    """Numbers such as the network is told, where it is told any."""
    kind = getattr(getattr(spec, "time", None), "numbers", "none")
    told = getattr(spec, "numbers", 0) or {"guidance": 1, "size": 2, "size_aspect": 3}.get(kind, 0)
    return torch.empty(1, told) if told else None
