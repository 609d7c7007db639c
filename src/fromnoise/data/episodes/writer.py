"""Episodes written in the LeRobot v3.0 layout, shard by shard, each whole or not there."""

from __future__ import annotations

import json
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.config import read_json
from fromnoise.data.episodes import layout
from fromnoise.data.episodes.actions import Actions
from fromnoise.data.episodes.episode import Episode
from fromnoise.data.episodes.needs import need
from fromnoise.data.episodes.video import Quality, encode
from fromnoise.files import disk_errors, replacing, write_text

READS = "Recordings need"


class Writer:
    """Appends shards of episodes to a folder.

    A shard is three files, of which the table of its episodes comes last and makes it count; what a killed process
    left of another is written over.  ours: what goes to meta/fromnoise.json.
    """

    def __init__(self, root: Path, actions: Actions, fps: float, quality: Quality, ours: dict[str, Any]):
        self.root, self.actions, self.fps, self.ours = root, actions, fps, ours
        self.quality: Quality = quality
        self.pa, self.pq = need("pyarrow", READS), need("pyarrow.parquet", READS, "pyarrow")
        self.rows = episode_rows(root)
        self.tasks = list(dict.fromkeys(task for row in self.rows for task in row["tasks"]))

    @property
    def episodes(self) -> int:
        """How many are written."""
        return len(self.rows)

    @property
    def frames(self) -> int:
        """How many are written."""
        return self.rows[-1]["dataset_to_index"] if self.rows else 0

    def append(self, episodes: list[Episode]) -> None:
        """Write a shard.  UserError where the disk does not take it."""
        at = layout.place(1 + max((shard_of(row) for row in self.rows), default=-1))
        self.tasks += [text for text in dict.fromkeys(e.text for e in episodes) if text not in self.tasks]
        with disk_errors(self.root):
            if not self.rows:
                write_text(self.root / layout.OURS, json.dumps(self.ours, indent=2) + "\n")
            video = self.root / layout.VIDEO.format(video_key=layout.KEY, **at)
            with replacing(video) as temporary:
                about = encode(temporary, (f for e in episodes for f in e.frames), self.fps, self.quality)
            tables = [self._columns(e, i, first) for i, first, e in self._numbered(episodes)]
            self._write_tables(self.root / layout.DATA.format(**at), tables)
            rows = self._rows(episodes, tables, at)
            self._write(self.root / layout.EPISODES.format(**at), self.pa.Table.from_pylist(rows))
            self.rows += rows
            self._summarise(about)

    def _numbered(self, episodes: list[Episode]) -> list[tuple[int, int, Episode]]:
        """(number, index of its first frame, episode)."""
        firsts = accumulate(map(len, episodes[:-1]), initial=self.frames)
        return [(self.episodes + i, first, e) for i, (first, e) in enumerate(zip(firsts, episodes, strict=True))]

    def _columns(self, episode: Episode, number: int, first: int) -> dict[str, np.ndarray]:
        """The columns of an episode: a row a frame, with what was done there and what came of it.

        At the last frame nothing was done.  There the last action stands again, for rewards of 0.
        """
        count = len(episode)
        row = np.arange(count)
        late = row >= count - 2  # the step that ended it, and the frame it ended with
        return {
            "action": episode.actions[np.minimum(row, count - 2)].astype(self.actions.dtype),
            "next.reward": np.append(episode.rewards, 0).astype(np.float32),
            "next.done": late & (episode.terminated or episode.truncated), "next.truncated": late & episode.truncated,
            "timestamp": (row / self.fps).astype(np.float32), "frame_index": row,
            "episode_index": np.full(count, number), "index": first + row,
            "task_index": np.full(count, self.tasks.index(episode.text)),
        }

    def _rows(self, episodes: list[Episode], tables: list[dict[str, np.ndarray]],
              at: dict[str, int]) -> list[dict[str, Any]]:
        """Rows of the table of episodes: where each one's frames are, and its statistics."""
        rows, seen = [], 0
        for (number, first, episode), columns in zip(self._numbered(episodes), tables, strict=True):
            stats = layout.statistics(columns, episode.frames)
            rows.append({
                "episode_index": number, "tasks": [episode.text], "length": len(episode),
                **{f"{part}/{key}": value for part in ("data", f"videos/{layout.KEY}", "meta/episodes")
                   for key, value in at.items()},
                "dataset_from_index": first, "dataset_to_index": first + len(episode),
                f"videos/{layout.KEY}/from_timestamp": seen / self.fps,
                f"videos/{layout.KEY}/to_timestamp": (seen + len(episode)) / self.fps,
                "seed": episode.seed,
                **{f"stats/{name}/{key}": np.asarray(value).tolist() for name, told in stats.items()
                   for key, value in told.items()},
            })
            seen += len(episode)
        return rows

    def _write_tables(self, path: Path, tables: list[dict[str, np.ndarray]]) -> None:
        """A data file, an episode a row group, so that one can be read alone."""
        arrow = [self.pa.table({name: self._array(values) for name, values in t.items()}) for t in tables]
        with replacing(path) as temporary, self.pq.ParquetWriter(temporary, arrow[0].schema) as writer:
            for table in arrow:
                writer.write_table(table)

    def _array(self, values: np.ndarray) -> Any:
        if values.ndim == 1:
            return self.pa.array(values)
        return self.pa.FixedSizeListArray.from_arrays(self.pa.array(values.reshape(-1)), values.shape[1])

    def _write(self, path: Path, table: Any) -> None:
        with replacing(path) as temporary:
            self.pq.write_table(table, temporary)

    def _summarise(self, video: dict[str, Any]) -> None:
        """What follows from the shards: tasks, statistics and totals."""
        self._write(self.root / layout.TASKS, self._task_table())
        stats = layout.joined([stats_of(row) for row in self.rows])
        plain = {name: {key: value.tolist() for key, value in told.items()} for name, told in stats.items()}
        write_text(self.root / layout.STATS, json.dumps(plain, indent=2) + "\n")
        about = layout.info(layout.features(self.actions, video), self.fps, self.episodes, self.frames,
                            len(self.tasks))
        write_text(self.root / layout.INFO, json.dumps(about, indent=2) + "\n")

    def _task_table(self) -> Any:
        """The tasks by name, which LeRobot reads as the index of a pandas table."""
        column = {"metadata": None, "field_name": "task_index", "name": "task_index", "pandas_type": "int64",
                  "numpy_type": "int64"}
        index = column | {"field_name": "task", "name": "task", "pandas_type": "unicode", "numpy_type": "object"}
        pandas = {"index_columns": ["task"], "column_indexes": [], "columns": [column, index]}
        table = self.pa.table({"task_index": self.pa.array(range(len(self.tasks)), self.pa.int64()),
                               "task": self.tasks})
        return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def episode_rows(root: Path) -> list[dict[str, Any]]:
    """The rows of meta/episodes in order; none where there is no such folder."""
    pq = need("pyarrow.parquet", READS, "pyarrow")
    return [row for path in sorted(root.glob("meta/episodes/*/*.parquet")) for row in pq.read_table(path).to_pylist()]


def shard_of(row: dict[str, Any]) -> int:
    """Which shard a row of meta/episodes speaks of."""
    return row["data/chunk_index"] * layout.CHUNK + row["data/file_index"]


def stats_of(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The statistics in a row of meta/episodes: ``{feature: {"mean": ...}}``."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in row.items():
        if key.startswith("stats/"):
            _, name, kind = key.split("/")
            found.setdefault(name, {})[kind] = value
    return found


def written(root: Path) -> dict[str, Any] | None:
    """meta/fromnoise.json of a recording of ours, or None."""
    return read_json(root / layout.OURS) if (root / layout.OURS).exists() else None
