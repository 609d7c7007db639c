"""What is done in the samples of a world model: the caller's actions, read, checked and kept as plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fromnoise.config import nearest
from fromnoise.data.episodes.actions import Actions, Discrete
from fromnoise.given import Known
from fromnoise.recipe import Recipe
from fromnoise.settings import Settings, shown
from fromnoise.types import Acts, UserError

Rows = list[Any]  # of each sample, or of all, a row of T actions: a number or several; None is one that is not told


def rows_of(actions: Any, settings: Settings, recipe: Recipe, known: Known | None) -> Rows:
    """The actions of the samples of ``settings``, ``[1 or B][T]``; none for a model that is told none.

    actions: ``[T]`` or ``[B, T]`` (``[T, A]`` or ``[B, T, A]`` where one is several numbers), or those of the frames
    after the given ones that the clips begin with; choices may be named.  UserError where they are missing, too few or
    too many, or where one is none of the data's.
    """
    if not recipe.net.reads_actions:
        if actions is not None:
            raise UserError("This model is told no actions (net.actions none): leave them out.")
        return []
    what, T, B = recipe.data.actions, settings.frames, len(settings.prompts)  # type: ignore[union-attr]
    lead = 0 if known is None else int((~known.whole).nonzero()[0])  # frames given first
    if actions is None:
        raise UserError(f"This model is told what leads to each frame: give actions, one for each of the {T - lead} "
                        f"frames to be made (--actions), of {what}.")
    values = read(actions, what)
    count = values.shape[1]
    if count not in (T, T - lead):
        raise UserError(f"{T - lead} frames are to be made, and {count} {'action is' if count == 1 else 'actions are'} "
                        "given: give one for each frame to be made, or for each of the clip.")
    if len(values) not in (1, B):
        raise UserError(f"Actions are given for {len(values)} samples, and {B} are to be made: give one row for all, "
                        "or one for each.")
    before = np.full((len(values), T - count, *what.shape), np.nan)
    return plain(np.concatenate([before, values], axis=1), what)


def read(actions: Any, what: Actions) -> np.ndarray:
    """Actions as float64 ``[rows, T]`` or ``[rows, T, A]``, NaN where none is told.  UserError for what is none."""
    try:
        values = np.asarray(actions.detach().cpu() if isinstance(actions, Tensor) else numbers(actions, what), float)
    except (TypeError, ValueError):
        raise UserError(f"Actions are numbers in a row, or a row for each sample, of {what} (got {shown(actions)})."
                        ) from None
    if what.shape == (1,) and values.ndim < 3 and values.shape[-1:] != (1,):
        values = values[..., None]
    short = values.ndim == 1 + len(what.shape)
    values = values[None] if short else values
    if values.ndim != 2 + len(what.shape) or values.shape[2:] != what.shape:
        raise UserError(f"Actions are a row, or a row for each sample, of {what} (got the shape "
                        f"{list(values.shape[short:])}).")
    if isinstance(what, Discrete):
        values = np.where(values == -1, np.nan, values)
    for action in values.reshape(-1, *what.shape):
        if not np.isnan(action).all() and not what.holds(exact(action, what)):
            named = shown(action.tolist()) if action.ndim else f"{action:g}"
            raise UserError(f"Action {named} cannot be done here: there are {what}"
                            f"{', counted from 0' if isinstance(what, Discrete) else ''}; -1 is one that is not told.")
    return values


def exact(action: np.ndarray, what: Actions) -> np.ndarray:
    """An action in the type of its kind, unless that would change it."""
    same = np.asarray(action).astype(what.dtype)
    return same if not isinstance(what, Discrete) or same == action else np.asarray(action)


def numbers(actions: Any, what: Actions) -> Any:
    """Nested sequences with names of choices as their numbers, and None as an action of NaN."""
    if isinstance(actions, str):
        names = what.meanings if isinstance(what, Discrete) else ()
        if actions not in names:
            raise UserError(f'There is no action "{actions}" here, of {what}. {nearest(actions, names)}' if names else
                            f'These actions have no names, and "{actions}" is none: they are {what}.')
        return names.index(actions)
    if isinstance(actions, Sequence):
        return [numbers(action, what) for action in actions]
    return np.full(what.shape, np.nan).tolist() if actions is None else actions


def plain(values: np.ndarray, what: Actions) -> Rows:
    """Actions as lists that JSON can hold."""
    if isinstance(what, Discrete):
        return [[None if np.isnan(a) else int(a) for a in row] for row in values]
    return [[None if np.isnan(a).any() else a.tolist() for a in row] for row in values]


def as_tensor(rows: Rows, acts: Acts) -> Tensor:
    """``[B, T]`` long or ``[B, T, A]`` float32, -1 or NaN where none is told."""
    if acts.choices:
        return torch.tensor([[-1 if a is None else a for a in row] for row in rows])
    none = [float("nan")] * (acts.switches + acts.numbers)
    return torch.tensor([[none if a is None else a for a in row] for row in rows])


@dataclass
class Doing:
    """The actions of the frames of x, which are some of those of the clips.  ``start``: the first frame of x."""

    actions: Tensor
    samples: int
    start: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        here = self.actions[:, self.start : self.start + x.shape[1]].to(x.device)
        here = here.expand(self.samples, *here.shape[1:])
        return here.repeat(len(x) // self.samples, *(1,) * (here.ndim - 1))
