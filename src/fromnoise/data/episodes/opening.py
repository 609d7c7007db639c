"""The recording in a folder, whatever its layout."""

from __future__ import annotations

import os
from pathlib import Path

from fromnoise.data.episodes import layout
from fromnoise.data.episodes.episode import Recording
from fromnoise.data.episodes.logs import Logs, videos_in
from fromnoise.data.episodes.minari import Minari, is_minari
from fromnoise.data.episodes.reader import LeRobot
from fromnoise.types import UserError


def open_recording(folder: str, camera: str = "") -> Recording:
    """LeRobot's layout, which ``fromnoise worlds collect`` writes; Minari's; or videos with logs of actions.

    UserError where there is none.
    """
    if not folder:
        raise UserError("Which folder are the episodes in? Add --data episodes --data.root FOLDER; `fromnoise worlds "
                        "collect ENV --out FOLDER` makes one.")
    root = Path(os.path.expanduser(folder))
    if not root.is_dir():
        raise UserError(f"There is no folder {root}: `fromnoise worlds collect ENV --out {root}` makes one.")
    if (root / layout.INFO).exists():
        return LeRobot(root, camera)
    if is_minari(root):
        return Minari(root)
    if videos_in(root):
        return Logs(root)
    raise UserError(f"{root} holds no episodes: neither a recording of `fromnoise worlds collect` or LeRobot "
                    f"({layout.INFO}), nor a data set of Minari, nor videos with logs of actions.")
