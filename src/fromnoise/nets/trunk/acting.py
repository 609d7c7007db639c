"""Actions on their way into the trunk: what led to each frame, told with its noise level or by a token of its own.

    modulation   features of frame i  =  noise level of frame i  +  embedding of its action    (DIAMOND, Oasis)
    token        frame i  =  [action, patch, patch, ...]                                       (Genie's successors)

An action that is not told, as before the first frame of an episode, adds nothing, or is a token of its own.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fromnoise.blocks import Clock, Embedder, Tokens
from fromnoise.config import spec
from fromnoise.types import Acts


@spec
class Untold:
    """The network is told no actions."""

    kind: Literal["none"] = "none"


@spec
class ByModulation:
    """The action that led to a frame is told with the noise level of that frame."""

    kind: Literal["modulation"] = "modulation"


@spec
class ByToken:
    """The action that led to a frame is a token before its patches."""

    kind: Literal["token"] = "token"


ActionSpec = Annotated[Untold | ByModulation | ByToken, Field(discriminator="kind")]


class ActionEntries(nn.Module):
    """Actions ``[B, T]`` long or ``[B, T, A]`` float as numbers ``[B, T, count]``; any where nothing is told.

    Choices are one-hot, switches are -1 or 1, and numbers are brought from their ranges to [-1, 1].
    """

    low: Tensor
    span: Tensor

    def __init__(self, acts: Acts):
        super().__init__()
        self.acts, self.count = acts, acts.choices + acts.switches + acts.numbers
        low, high = torch.tensor(acts.low), torch.tensor(acts.high)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("span", (high - low).clamp(min=1e-6), persistent=False)

    def told(self, actions: Tensor) -> Tensor:
        """``[B, T]`` bool, whether an action is told."""
        return actions >= 0 if self.acts.choices else ~actions.isnan().any(-1)

    def forward(self, actions: Tensor) -> Tensor:
        if self.acts.choices:
            return F.one_hot(actions.clamp(min=0), self.acts.choices)
        return 2 * ((actions - self.low) / self.span if self.acts.numbers else actions).nan_to_num() - 1


class ActionIn(nn.Module):
    """Actions ``[B, T]`` long or ``[B, T, A]`` float to features ``[B, T, F]``: 0 where none is told.

    A small network makes features of their entries, so that switches and numbers can mean something together.
    """

    def __init__(self, acts: Acts, width: int):
        super().__init__()
        self.entries = ActionEntries(acts)
        self.embed = Embedder(self.entries.count, width, width)

    def forward(self, actions: Tensor, dtype: torch.dtype) -> Tensor:
        return self.embed(self.entries(actions).to(dtype)) * self.entries.told(actions)[..., None]


class ActionToken(nn.Module):
    """A token ``[B, T, D]`` for the action that led to each frame, one of its own where none is told."""

    def __init__(self, acts: Acts, width: int):
        super().__init__()
        self.action_in = ActionIn(acts, width)
        self.embedding_of_none = nn.Parameter(torch.zeros(width))

    def forward(self, actions: Tensor | None, like: Tensor, frames: int) -> Tensor:
        """``actions`` or none at all, of so many frames of clips ``like`` ``[B, N, D]``."""
        none = self.embedding_of_none.to(like.dtype).expand(len(like), frames, -1)
        return none if actions is None else none + self.action_in(actions, like.dtype)


def check_actions(actions: Tensor | None, count: int, frames: int) -> None:
    """ValueError for actions that are not those of so many clips of so many frames."""
    if actions is not None and actions.shape[:2] != (count, frames):
        raise ValueError(f"actions {list(actions.shape)} go with {count} clips of {frames} frames")


def led(picture: Tokens, leaders: Tensor, frames: int) -> Tokens:
    """The tokens of a picture with one of ``leaders`` ``[B, T, D]`` before those of each frame.

    It has the clock of its frame, and stands where the frame begins.
    """
    x = torch.cat([leaders[:, :, None], picture.x.unflatten(1, (frames, -1))], dim=2).flatten(1, 2)
    clock, turns = picture.clock, picture.turns
    if clock is not None and clock.row is not None:
        clock = Clock(clock.signal, first_twice(clock.row, -1, frames))
    return Tokens(x, clock, None if turns is None else first_twice(turns, -2, frames))


def first_twice(values: Tensor, dim: int, frames: int) -> Tensor:
    """Values of the patches of so many frames along ``dim``, with that of the first patch of each frame before it."""
    each = values.unflatten(dim, (frames, -1))
    return torch.cat([each.narrow(dim, 0, 1), each], dim=dim).flatten(dim - 1, dim)


def followers(picture: Tensor, frames: int, leaders: int) -> Tensor:
    """The patches ``[B, T h w, D]`` among the tokens of a picture, without what leads each frame."""
    return picture.unflatten(1, (frames, -1))[:, :, leaders:].flatten(1, 2) if leaders else picture
