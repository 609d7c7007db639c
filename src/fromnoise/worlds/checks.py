"""What may be done in a world, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fromnoise.data.episodes.actions import Actions, Unsaid
from fromnoise.types import UserError

if TYPE_CHECKING:
    from fromnoise.worlds.dream import Dream


def actions_of(dream: Dream) -> Actions:
    """What can be done in a world.  UserError where its network is not told what is done."""
    if dream.actions is None or isinstance(dream.actions, Unsaid):
        raise UserError(f"{dream.model.run or 'This model'} is no world: its network is not told what is done. Train "
                        "it with --net.actions modulation or token.")
    return dream.actions


def checked_action(actions: Actions, action: Any) -> np.ndarray:
    """An action as the data have it.  UserError where it is none."""
    try:
        value = np.asarray(action)
        held = value.dtype.kind in "iufb" and actions.holds(value)
    except (TypeError, ValueError):
        held = False
    if not held:
        raise UserError(f"{action!r:.60} is no action of this world: it takes {ranges(actions)}.")
    return value.astype(actions.dtype)


def ranges(actions: Actions) -> str:
    """What can be done, in words with its bounds."""
    if actions.kind == "discrete":
        return f"an integer from 0 to {actions.n - 1}"
    if actions.kind == "multi_binary":
        return f"{actions.n} numbers that are 0 or 1"
    bounds = ", ".join(f"{a:g} to {b:g}" for a, b in zip(actions.low, actions.high, strict=True))
    return f"{len(actions.low)} numbers, of {bounds}"
