"""The way of routed tokens through the trunk (``routing``): off before some blocks, and back behind them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise.blocks import Around, Tokens
from fromnoise.nets.trunk.routing import MaskDiT, Route, Sprint, Tread
from fromnoise.types import UserError


class Detour(nn.Module):
    """What routing adds to a network: a mask in place of patches that went past, and a map that joins two depths.

    It starts as the mean of what patches were and what they became.
    """

    def __init__(self, spec: Tread | Sprint | MaskDiT, width: int, blocks: int):
        super().__init__()
        self.start, self.stop = spec.span(blocks)
        self.mask = None if isinstance(spec, Tread) else nn.Parameter(torch.zeros(width))
        self.fuse = None
        if isinstance(spec, Sprint):
            self.fuse = nn.Linear(2 * width, width, bias=False)
            self.fuse.weight.data.copy_(torch.eye(width).repeat(1, 2) / 2)

    def holds(self, block: int) -> bool:
        """Whether some tokens may go past this block."""
        return self.start <= block < self.stop


@dataclass(frozen=True)
class Trip:
    """The detour of one forward.

    patches: how many there are to be routed;  places: tokens of the picture, patches and then padding, which end every
    sequence that has them;  mask: ``[1, patches, D]``, what stands for those that went past; None: what they were.
    """

    detour: Detour
    route: Route | None
    patches: int
    places: int
    mask: Tensor | None = None

    def __post_init__(self):
        if self.route is not None and self.route.keep.shape[1] > self.patches:
            raise ValueError(f"a route of {self.route.keep.shape[1]} patches in a picture of {self.patches}")

    def leaves(self, block: int) -> bool:
        """Whether tokens go off before this block."""
        return block == self.detour.start

    def returns(self, block: int) -> bool:
        """Whether they are back behind it."""
        return block == self.detour.stop - 1

    def routes(self, block: int) -> bool:
        """Whether some tokens go past this block."""
        return self.route is not None and self.detour.holds(block)

    def skips(self, block: int) -> bool:
        """Whether the block is left out, since no patch goes through it."""
        return self.routes(block) and self.route is not None and not self.route.keep.shape[1]

    def kept(self, tokens: int) -> Tensor:
        """``[B, K]``: which of a sequence of so many tokens go through the routed blocks."""
        assert self.route is not None
        keep, first = self.route.keep, tokens - self.places
        every = torch.arange(tokens, device=keep.device).expand(len(keep), -1)
        return torch.cat([every[:, :first], keep + first, every[:, first + self.patches :]], dim=1)

    def off(self, streams: dict[str, Tokens]) -> dict[str, Tokens]:
        """The streams without the tokens that go past."""
        if self.route is None:
            return streams
        return {name: part if name == "text" else part.take(self.kept(len(part))) for name, part in streams.items()}

    def among(self, around: Around) -> Around:
        """What is around a routed block: of masks and biases the rows and columns of the tokens that are there."""
        mask: Any = around.mask
        if mask is None:
            return around
        if mask.shape[-1] > 1:
            mask = torch.take_along_dim(mask, self.kept(mask.shape[-1])[:, None, None, :], dim=-1)
        if mask.shape[-2] > 1:
            mask = torch.take_along_dim(mask, self.kept(mask.shape[-2])[:, None, :, None], dim=-2)
        return replace(around, mask=mask)

    def back(self, before: dict[str, Tokens], now: dict[str, Tokens]) -> dict[str, Tokens]:
        """The streams whole again: ``before`` the routed blocks, and ``now``, behind them."""
        return {name: replace(part, x=(self.told if name == "text" else self.joined)(part.x, now[name].x))
                for name, part in before.items()}

    def told(self, before: Tensor, now: Tensor) -> Tensor:
        """Words, which all go through the blocks but where the path is dropped."""
        dropped = None if self.route is None else self.route.dropped
        return now if dropped is None else torch.where(dropped[:, None, None], before, now)

    def joined(self, before: Tensor, now: Tensor) -> Tensor:
        """A sequence ``[B, N, D]`` with the picture at its end, from that of the tokens kept, ``[B, K, D]``."""
        first = before.shape[1] - self.places
        last = first + self.patches
        if self.route is not None:
            absent = self.absent(before, first, last)
            now = absent.scatter(1, self.kept(before.shape[1])[..., None].expand(-1, -1, now.shape[2]), now)
            if self.route.dropped is not None:
                now = torch.where(self.route.dropped[:, None, None], absent, now)
        if self.detour.fuse is None:
            return now
        both = torch.cat([before[:, first:last], now[:, first:last]], dim=-1)
        return torch.cat([now[:, :first], self.detour.fuse(both), now[:, last:]], dim=1)

    def absent(self, before: Tensor, first: int, last: int) -> Tensor:
        """The sequence as it is where no patch went through the blocks."""
        if self.mask is None:
            return before
        mask = self.mask.to(before.dtype).expand(len(before), -1, -1)
        return torch.cat([before[:, :first], mask, before[:, last:]], dim=1)


def check_route(detour: Detour | None, route: Route | None, disturbed: bool) -> None:
    """UserError where a route is given to a network that has no routed blocks, or whose blocks are disturbed."""
    if route is not None and detour is None:
        raise UserError('This network has no routed blocks: its net.routing is "none".')
    if route is not None and disturbed:
        raise UserError("A network whose blocks are disturbed takes no route: its tokens go through all of them.")
