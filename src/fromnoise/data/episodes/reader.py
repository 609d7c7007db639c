"""Recordings in the LeRobot v3.0 layout read back: ours, and those of others."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from fromnoise.config import explain, from_dict, read_json
from fromnoise.data.episodes import layout
from fromnoise.data.episodes.actions import Actions, as_rows, of_values
from fromnoise.data.episodes.episode import About, Episode
from fromnoise.data.episodes.needs import need
from fromnoise.data.episodes.video import decode
from fromnoise.data.episodes.world import World
from fromnoise.data.episodes.writer import READS, episode_rows, written
from fromnoise.types import UserError


class LeRobot:
    """A folder in that layout.  UserError where it is damaged, of another version, or has no pictures.

    camera: which of several it is looked at with.
    """

    def __init__(self, root: Path, camera: str = ""):
        self.root, self.pq = root, need("pyarrow.parquet", READS, "pyarrow")
        self.info = read_json(root / layout.INFO)
        found = self.info.get("codebase_version") if isinstance(self.info, dict) else None
        if found != layout.VERSION:
            raise UserError(f"{root} is in LeRobot's layout {found}, and {layout.VERSION} is read: convert it with "
                            "LeRobot's own lerobot.scripts.convert_dataset_v21_to_v30.")
        try:
            self.feature = self.info["features"][(key := self._camera(camera))]
            self.key, self.rows = key, sorted(episode_rows(root), key=lambda row: row["episode_index"])
            self.tables: dict[Path, Any] = {}
            self.about = self._about()
        except (KeyError, TypeError, IndexError) as error:
            raise UserError(f"{root} is not a whole recording: {error} is missing in its meta.") from None

    @property
    def files(self) -> list[Path]:
        return sorted(path for part in ("meta", "data", "videos") for path in (self.root / part).rglob("*")
                      if path.is_file() and not path.name.startswith("."))

    def __iter__(self) -> Iterator[Episode]:
        frames = self._frames()
        for row in self.rows:
            table = self._table(row)
            seen = np.stack(next(frames))
            if not len(seen) == table.num_rows == row["length"]:
                raise UserError(f"Episode {row['episode_index']} of {self.root} should have {row['length']} frames, "
                                f"but {len(seen)} are in its video and {table.num_rows} in its table.")
            yield self._episode(row, table, seen)

    def _episode(self, row: dict[str, Any], table: Any, frames: np.ndarray) -> Episode:
        """What was done at the last frame led to nothing that is kept."""
        def column(name: str) -> np.ndarray:
            kept = name in table.column_names
            return np.asarray(table[name].to_pylist())[:-1] if kept else np.zeros(len(frames) - 1)

        done, cut = column("next.done").astype(bool), column("next.truncated").astype(bool)
        ended, truncated = bool(done[-1:].any()), bool(cut[-1:].any())
        return Episode(frames, as_rows(self.about.actions, column("action")), column("next.reward").astype(np.float32),
                       ended and not truncated, truncated, row.get("seed", -1), (row.get("tasks") or [""])[0])

    def _frames(self) -> Iterator[list[np.ndarray]]:
        """The frames of each episode; a video is decoded once where its episodes follow each other."""
        path, stream, position = None, iter(()), 0
        for row in self.rows:
            if self.feature["dtype"] == "image":
                yield [_picture(cell) for cell in self._table(row)[self.key].to_pylist()]
                continue
            at = {key: row[f"videos/{self.key}/{key}"] for key in ("chunk_index", "file_index")}
            here = self.root / self.info["video_path"].format(video_key=self.key, **at)
            first = round(row[f"videos/{self.key}/from_timestamp"] * self.info["fps"])
            if here != path or first < position:
                path, stream, position = here, decode(here), 0
            next(islice(stream, first - position, first - position), None)
            yield list(islice(stream, row["length"]))
            position = first + row["length"]

    def _table(self, row: dict[str, Any]) -> Any:
        """The rows of an episode in data/."""
        at = {key: row[f"data/{key}"] for key in ("chunk_index", "file_index")}
        path = self.root / self.info["data_path"].format(**at)
        if path not in self.tables:
            try:
                self.tables = {path: self.pq.read_table(path)}
            except (OSError, ValueError) as error:
                raise UserError(f"{path} cannot be read: {error}.") from None
        table = self.tables[path]
        first = table["index"][0].as_py()
        return table.slice(row["dataset_from_index"] - first, row["length"])

    def _camera(self, wanted: str) -> str:
        """The feature that holds the frames."""
        cameras = [key for key, told in self.info["features"].items() if told["dtype"] in ("video", "image")]
        if not cameras:
            raise UserError(f"{self.root} holds no pictures: none of its features is a video or an image.")
        if (wanted and wanted not in cameras) or (not wanted and len(cameras) > 1):
            raise UserError(f"{self.root} was filmed by {', '.join(cameras)}: name one of them with --data.camera.")
        return wanted or cameras[0]

    def _about(self) -> About:
        height, width = _size(self.feature)
        ours = written(self.root) or {}
        world = from_dict(World, ours["world"], str(self.root / layout.OURS)) if ours.get("world") else None
        frames = sum(row["length"] for row in self.rows)
        return About(self.root, self._actions(ours), float(self.info["fps"]), height, width, len(self.rows), frames,
                     world, tuple(row.get("seed", -1) for row in self.rows))

    def _actions(self, ours: dict[str, Any]) -> Actions:
        """As meta/fromnoise.json says; of others, as what was done shows."""
        if not ours.get("actions"):
            paths = sorted(self.root.glob("data/*/*.parquet"))
            done = [np.asarray(self.pq.read_table(path, columns=["action"])["action"].to_pylist()) for path in paths]
            return of_values(np.concatenate(done))
        try:
            return TypeAdapter(Actions).validate_python(ours["actions"])
        except ValidationError as error:
            raise UserError(f"{self.root / layout.OURS}: {explain(error, ours['actions'])}") from None


def _size(feature: dict[str, Any]) -> tuple[int, int]:
    """(height, width) of a feature, whose channels may come first or last."""
    shape, names = feature["shape"], feature.get("names") or ()
    if "height" in names and "width" in names:
        return shape[names.index("height")], shape[names.index("width")]
    return (shape[0], shape[1]) if shape[-1] in (1, 3) else (shape[1], shape[2])


def _picture(cell: dict[str, Any]) -> np.ndarray:
    """A frame that is kept as a picture file within a table."""
    with Image.open(io.BytesIO(cell["bytes"])) as image:
        return np.asarray(image.convert("RGB"))
