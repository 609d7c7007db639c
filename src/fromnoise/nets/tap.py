"""The features of inner blocks, taken while a network runs.

    with Tap(net, {2}) as tap:
        net(x, t, condition)
    tap.features(2, x)

A network names its blocks in order (``taps``) and reads what one puts out as a picture (``picture``).  What is read are
forward hooks, so a network that nobody listens to runs as it always did.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, cast

from torch import Tensor, nn


class Tapped(Protocol):
    """A network whose blocks can be listened to."""

    @property
    def taps(self) -> Sequence[nn.Module]:
        """Its blocks, from the input to the output."""
        ...

    def picture(self, said: Any, x: Tensor) -> Tensor:
        """The features ``[B, T, D, h, w]`` in what a block has ``said``, x being the input ``[B, T, C, H, W]``."""
        ...


def tap_count(net: nn.Module) -> int:
    """How many blocks of a network can be listened to."""
    return len(cast(Tapped, net).taps)


class Tap:
    """What the ``blocks`` of a network say, from entering to leaving."""

    def __init__(self, net: nn.Module, blocks: Collection[int]):
        self.net, self.blocks = cast(Tapped, net), blocks
        self.said: dict[int, Any] = {}
        self.hooks = ExitStack()

    def __enter__(self) -> Tap:
        for block in self.blocks:
            def hear(module, given, said, block=block):
                self.said[block] = said

            self.hooks.enter_context(self.net.taps[block].register_forward_hook(hear))
        return self

    def __exit__(self, *_) -> None:
        self.hooks.close()

    def features(self, block: int, x: Tensor) -> Tensor:
        """Features ``[B, T, D, h, w]`` of a block when the network was given ``x``."""
        return self.net.picture(self.said[block], x)
