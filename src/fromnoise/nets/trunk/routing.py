"""Token routing: while training, some patches of the picture go past some of the blocks, which saves their work.

    Tread    they come back as they left (Krause et al. 2025)
    Sprint   they come back as a learned mask, and a linear map joins what all patches were before these blocks with
             what they are behind them (Park et al. 2025)
    MaskDiT  the network begins without them; they come in as a learned mask before the last blocks, a small decoder,
             which also learns to say what lay there (Zheng et al. 2023)

Words always go through all blocks.  Without a ``Route``, as in sampling, patches do so too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fromnoise.config import spec

Rate = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Route:
    """Which patches go through the routed blocks in one forward.

    keep: ``[B, K]`` indices of patches, rising;  dropped: ``[B]`` bool, True for samples whose path through these
    blocks is dropped as a whole (Sprint).
    """

    keep: Tensor
    dropped: Tensor | None = None

    def to(self, device: torch.device) -> Route:
        """The same on a device."""
        return Route(self.keep.to(device), None if self.dropped is None else self.dropped.to(device))

    def hidden(self, patches: int) -> Tensor:
        """``[B, patches]`` bool, True for those that go past."""
        past = torch.ones(len(self.keep), patches, dtype=torch.bool, device=self.keep.device)
        return past.scatter(1, self.keep, False)

    @staticmethod
    def past(count: int, device: torch.device) -> Route:
        """The routed blocks left out for ``count`` samples."""
        return Route(torch.empty(count, 0, dtype=torch.long, device=device))


@spec
class NoRouting:
    """All patches go through all blocks."""

    kind: Literal["none"] = "none"


class _Routing:
    """What kinds of routing share."""

    rate: float

    def draw(self, count: int, patches: int, generator: torch.Generator) -> Route:
        """A random route for ``count`` samples of so many ``patches``."""
        order = torch.rand(count, patches, generator=generator).argsort(dim=1)
        return Route(order[:, : patches - round(self.rate * patches)].sort(dim=1).values)


class _Between(_Routing):
    """Routing past a stretch of blocks."""

    start: int
    stop: int

    def span(self, blocks: int) -> tuple[int, int]:
        """The routed blocks [start, stop) of so many."""
        return self.start, self.stop + blocks if self.stop < 0 else self.stop


@spec
class Tread(_Between):
    """Some patches go past a stretch of blocks and come back as they left."""

    kind: Literal["tread"] = "tread"
    rate: Rate = 0.5
    """Share of the patches that go past."""
    start: Number = 1
    """The first block they go past, from 0."""
    stop: int = -1
    """The block they come back to; below 0 it is counted from the end."""
    until: Share = 1.0
    """Share of training after which all patches go through all blocks again."""


@spec
class Sprint(_Between):
    """Few patches go through the middle blocks; a linear map joins what all were with what these became."""

    kind: Literal["sprint"] = "sprint"
    rate: Rate = 0.75
    """Share of the patches that go past."""
    start: Number = 1
    """The first block they go past, from 0."""
    stop: int = -1
    """The block they come back to; below 0 it is counted from the end."""
    drop: Rate = 0.05
    """Share of samples for which the middle blocks are left out as a whole, which path-drop guidance needs."""
    until: Share = 0.9
    """Share of training after which all patches go through all blocks again."""

    def draw(self, count: int, patches: int, generator: torch.Generator) -> Route:
        """A random route for ``count`` samples of so many ``patches``."""
        route = super().draw(count, patches, generator)
        return replace(route, dropped=torch.rand(count, generator=generator) < self.drop)


@spec
class MaskDiT(_Routing):
    """The network begins with some of the patches; the last blocks see a mask in place of the others."""

    kind: Literal["maskdit"] = "maskdit"
    rate: Rate = 0.5
    """Share of the patches that are left out."""
    decoder: Annotated[int, Field(ge=1)] = 1
    """The last blocks, in which they are there as a mask."""
    weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the squared error with which the noisy picture is read off the masks, as in a masked autoencoder."""
    until: Share = 0.9
    """Share of training after which all patches go through all blocks again."""

    def span(self, blocks: int) -> tuple[int, int]:
        """The routed blocks [start, stop) of so many."""
        return 0, blocks - self.decoder

    def losses(self, losses: Tensor, output: Tensor, x: Tensor, route: Route, patch: int) -> Tensor:
        """Losses ``[B, T, C, H, W]`` where the picture was seen, and weight |output - x|^2 where it was not (MaskDiT,
        section 3.3), scaled so that the mean of all is the sum of the mean of each over its own patches."""
        B, T, _, H, W = x.shape
        rows, columns = H // patch, W // patch
        hidden = route.hidden(T * rows * columns).view(B, T, 1, rows, columns).to(losses.dtype)
        hidden = hidden.repeat_interleave(patch, dim=3).repeat_interleave(patch, dim=4)
        share = hidden.mean()
        read = hidden * (output.float() - x).square() / share.clamp(min=1e-12)
        return losses * (1 - hidden) / (1 - share) + self.weight * read


Routing = Annotated[NoRouting | Tread | Sprint | MaskDiT, Field(discriminator="kind")]
