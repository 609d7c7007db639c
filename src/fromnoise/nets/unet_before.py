"""What a U-Net is told of the frames before each one: then it is a world model of DIAMOND's kind (Alonso et al. 2024).

    frame i  =  U-Net([x_i, h_{i-K}, ..., h_{i-1}] | t_i, a_i, (1 - t_j, a_j) for the K frames j before)

h are frames at noise levels t of their own: finished ones while sampling, those of the data while training (teacher
forcing), which takes all frames of a clip at once.  Where there is no frame everything is 0, as of one of which noise
has left nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fromnoise.blocks import Embedder, Ring
from fromnoise.nets.trunk.acting import ActionEntries
from fromnoise.types import Acts

PICTURES, FACTS = range(2)  # what a ring holds of each frame


def preceding(values: Tensor, count: int, cache: Ring | None, which: int) -> Tensor:
    """``[B, T, count, ...]``: what stands before each of ``values`` ``[B, T, ...]``, the nearest last; 0 where nothing
    does.

    cache: what came before the one frame that then is asked for;  which: as what it holds these.
    """
    if cache is not None:
        return cache.latest(which, values, count + 1)[:, None, :-1]
    B, T = values.shape[:2]
    padded = torch.cat([values.new_zeros(B, count, *values.shape[2:]), values], dim=1)
    at = torch.arange(T)[:, None] + torch.arange(count)
    return padded[:, at.to(values.device)]


class Before(nn.Module):
    """What led to each frame and to the ``frames`` before it, and how clean these are, as features ``[B, T, F]``."""

    def __init__(self, acts: Acts | None, frames: int, features: int):
        super().__init__()
        self.frames, self.entries = frames, ActionEntries(acts) if acts else None
        facts = self.entries.count + 1 if self.entries else 0  # of an action: its entries, and that it is told
        self.embed = Embedder(facts + frames * (1 + facts), features, features)

    def forward(self, t: Tensor, actions: Tensor | None, cache: Ring | None) -> Tensor:
        """t: ``[B, T]``, levels at which frames are told;  actions: as ``Condition`` has them."""
        done = self.done(t, actions)
        facts = torch.cat([1 - t[..., None], done], dim=-1)
        return self.embed(torch.cat([done, preceding(facts, self.frames, cache, FACTS).flatten(2)], dim=-1))

    def done(self, t: Tensor, actions: Tensor | None) -> Tensor:
        """What is known of the action of each frame ``[B, T, facts]``, 0 where it is not told."""
        if self.entries is None:
            return t[..., None, None].flatten(2)[..., :0]
        if actions is None:
            return t.new_zeros(*t.shape, self.entries.count + 1)
        told = self.entries.told(actions)[..., None].to(t)
        return torch.cat([self.entries(actions).to(t) * told, told], dim=-1)
