"""What a network of ours is told of the noise level, in the terms of the schedulers of diffusers.

On the flow path their timestep is 1000 t, as ours.  Level i of a table of 1,000 stands at t = (i + 1) / 1000, of which
ours is told i + 1 and theirs i.  The sinusoids of i + 1 are those of i, turned by the angles of one level, and the map
that reads them can turn them: nothing is lost.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fromnoise.blocks.embed import sinusoid
from fromnoise.nets import Trunk
from fromnoise.types import UserError


def told_levels(net: nn.Module, state: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    """The weights of a trunk or U-Net of ours for who tells it i in place of i + 1.  UserError for other tables."""
    if levels != 1000:
        raise UserError(f"This run cannot be exported: its path has {levels} levels, and the networks of diffusers are "
                        "told those of 1,000.")
    if isinstance(net.spec, Trunk):
        time, name = net.spec.time, "time_in.time.0.weight"
        turn = sinusoid(torch.tensor(time.scale / levels), time.waves, shift=time.shift)
    else:
        turn, name = net.time.waves(torch.tensor(1 / levels)), "time.inner.weight"  # type: ignore[operator, union-attr]
    return {**state, name: turned(state[name], turn)}


def turned(weight: Tensor, turn: Tensor) -> Tensor:
    """A map ``[F, 2n]`` of cosines and sines of angles a, for angles that lack r; turn: cosines and sines of r.

    cos(a + r) = cos a cos r - sin a sin r and sin(a + r) = sin a cos r + cos a sin r.
    """
    of_cos, of_sin = weight.double().chunk(2, 1)
    cos, sin = turn.to(weight.device).double().chunk(2)
    return torch.cat([of_cos * cos + of_sin * sin, of_sin * cos - of_cos * sin], 1).to(weight.dtype)
