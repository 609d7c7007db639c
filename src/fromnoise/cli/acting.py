"""Actions on the command line: a list, or a file of them."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.actions import read
from fromnoise.generate import Model
from fromnoise.types import UserError

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|nan", re.IGNORECASE)


def actions_of(text: str) -> Any:
    """"2,2,left,0", or the numbers in a .npy or .csv file, an action in each of its rows.

    UserError for a file that is not there or holds something else.
    """
    path = Path(text)
    if path.suffix.lower() not in (".npy", ".csv"):
        return [float(word) if NUMBER.fullmatch(word) else word for word in re.split(r"[,\s]+", text.strip(", \n"))]
    try:
        with warnings.catch_warnings(action="ignore"):  # of an empty file, which is told below
            values = np.load(path, allow_pickle=False) if path.suffix.lower() == ".npy" else np.loadtxt(
                path, delimiter=",", ndmin=2)
    except FileNotFoundError:
        raise UserError(f"There is no file {path} of actions.") from None
    except (OSError, ValueError) as why:
        raise UserError(f"The actions in {path} cannot be read: a .npy file holds an array of numbers, a .csv file "
                        f"rows of them ({why}).") from None
    if not values.size:
        raise UserError(f"{path} holds no actions: a .npy file holds an array of numbers, a .csv file rows of them.")
    return values[:, 0] if path.suffix.lower() == ".csv" and values.shape[1] == 1 else values


def frames_for(actions: Any, model: Model, ahead: int) -> int | None:
    """How many frames a clip has that goes on by ``actions`` after ``ahead`` given ones; None where that is not
    said."""
    if actions is None or not model.recipe.net.reads_actions:
        return None
    return ahead + read(actions, model.recipe.data.actions).shape[1]  # type: ignore[union-attr]
