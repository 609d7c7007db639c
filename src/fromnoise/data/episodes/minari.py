"""Minari's data sets (Younis et al., 2024), read through its own package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.config import read_json
from fromnoise.data.episodes.actions import as_rows, of_space
from fromnoise.data.episodes.episode import About, Episode
from fromnoise.data.episodes.needs import need
from fromnoise.data.episodes.world import USUAL_FPS
from fromnoise.types import UserError


class Minari:
    """A folder as Minari writes it, of an environment that observes pictures.  UserError where it does not.

    Minari does not say how fast an environment is played: 10 frames a second, unless --data.fps says otherwise.
    """

    def __init__(self, root: Path):
        minari = need("minari", "Data sets of Minari need")
        self.folder = found if (found := root / "data").is_dir() else root
        try:
            self.data = minari.MinariDataset(self.folder)
            space = self.data.observation_space
            self.key = next((key for key in getattr(space, "spaces", {}) if _is_picture(space[key])), None)
            shape = (space if self.key is None else space[self.key]).shape
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise UserError(f"The Minari data set {root} cannot be read: {error}.") from None
        if self.key is None and not _is_picture(space):
            raise UserError(f"The Minari data set {root} holds no pictures: what was observed is {space}.")
        actions = of_space(self.data.action_space, str(root))
        self.about = About(root, actions, USUAL_FPS, shape[0], shape[1], self.data.total_episodes,
                           self.data.total_steps + self.data.total_episodes)

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith("."))

    def __iter__(self) -> Iterator[Episode]:
        for episode in self.data.iterate_episodes():
            seen: Any = episode.observations if self.key is None else episode.observations[self.key]
            frames = np.asarray(seen).reshape(-1, self.about.height, self.about.width, np.shape(seen)[-1])
            frames = np.repeat(frames, 3, axis=-1) if frames.shape[-1] == 1 else frames
            truncated = bool(episode.truncations[-1])
            yield Episode(frames, as_rows(self.about.actions, episode.actions), np.asarray(episode.rewards, np.float32),
                          bool(episode.terminations[-1]) and not truncated, truncated)


def is_minari(root: Path) -> bool:
    """Whether a folder is laid out as Minari does."""
    for path in (root / "data" / "metadata.json", root / "metadata.json"):
        if path.exists():
            found = read_json(path)
            return isinstance(found, dict) and "total_episodes" in found
    return False


def _is_picture(space: Any) -> bool:
    return getattr(space, "dtype", None) == np.uint8 and len(space.shape) == 3 and space.shape[-1] in (1, 3)
