"""A folder of videos with a log of actions beside each: play.mp4 and play.csv, play.jsonl or play.parquet.

A row of the log is a frame of the video: what was done at that frame.  The last row may be left away, as what was done
at the last frame led to nothing that was filmed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.data.episodes.actions import Actions, Discrete, as_rows, of_values
from fromnoise.data.episodes.episode import About, Episode
from fromnoise.data.episodes.needs import need
from fromnoise.data.episodes.video import decode, probe
from fromnoise.types import UserError

VIDEOS = (".mp4", ".mkv", ".webm", ".mov", ".avi")
LOGS = (".csv", ".jsonl", ".parquet")
ENDS = ("done", "terminated", "next.done")


class Logs:
    """The videos below a folder in the order of their names, each an episode.

    Columns: action, or several that begin with it (action_x, action_y), of numbers or of words; reward; done or
    terminated; truncated.  UserError where a video has no log or a log no action.
    """

    def __init__(self, root: Path):
        self.videos = videos_in(root)
        self.logs = [_log_of(video) for video in self.videos]
        self.tables = [_read(log) for log in self.logs]
        done = [_actions(table, log) for table, log in zip(self.tables, self.logs, strict=True)]
        if len(shapes := {column.shape[1:] for column in done}) > 1:
            raise UserError(f"The logs in {root} have {' and '.join(str(s[0]) if s else 'one' for s in sorted(shapes))}"
                            " columns of actions: they need the same.")
        self.words = sorted({str(word) for column in done for word in column}) if done[0].dtype.kind in "UO" else []
        self.done = [np.searchsorted(self.words, column.astype(str)) if self.words else column for column in done]
        actions: Actions = of_values(np.concatenate(self.done))
        if self.words:
            actions = Discrete(n=len(self.words), meanings=tuple(self.words))
        fps, height, width = probe(self.videos[0])
        self.about = About(root, actions, fps, height, width, len(self.videos), sum(map(len, self.done)))

    @property
    def files(self) -> list[Path]:
        return self.videos + self.logs

    def __iter__(self) -> Iterator[Episode]:
        for video, table, done in zip(self.videos, self.tables, self.done, strict=True):
            frames = np.stack(list(decode(video)))
            steps = len(frames) - 1
            if len(done) not in (steps, steps + 1):
                raise UserError(f"{video} has {len(frames)} frames, but its log {len(done)} rows: a row is a frame.")
            truncated = _any(table, ("truncated", "next.truncated"), steps)
            ended = _any(table, ENDS, steps) and not truncated
            rewards = next((np.asarray(table[name], np.float32)[:steps] for name in ("reward", "next.reward")
                            if name in table.column_names), np.zeros(steps, np.float32))
            yield Episode(frames, as_rows(self.about.actions, done[:steps]), rewards, ended, truncated)


def videos_in(root: Path) -> list[Path]:
    """The video files below a folder, by name."""
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in VIDEOS and not path.name.startswith("."))


def _log_of(video: Path) -> Path:
    found = [video.with_suffix(suffix) for suffix in LOGS if video.with_suffix(suffix).exists()]
    if len(found) != 1:
        beside = " and ".join(log.name for log in found) or f"no {video.stem}.csv, .jsonl or .parquet"
        raise UserError(f"The video {video} has {beside} beside it: it needs one log, which says what was done.")
    return found[0]


def _read(log: Path) -> Any:
    """The log as a table of pyarrow."""
    library, function = {".csv": ("csv", "read_csv"), ".jsonl": ("json", "read_json"),
                         ".parquet": ("parquet", "read_table")}[log.suffix]
    module = need(f"pyarrow.{library}", "Logs of actions need", "pyarrow")
    try:
        return getattr(module, function)(log)
    except (OSError, ValueError) as error:
        raise UserError(f"The log {log} cannot be read: {error}.") from None


def _actions(table: Any, log: Path) -> np.ndarray:
    """What was done, ``[N]`` or ``[N, A]``."""
    names = [name for name in table.column_names if name == "action" or name.startswith(("action_", "action."))]
    if not names or not table.num_rows:
        raise UserError(f"The log {log} needs rows and a column action, but has {table.num_rows} rows of "
                        f"{', '.join(table.column_names) or 'nothing'}.")
    columns = [np.asarray(table[name].to_pylist()) for name in names]
    return columns[0] if len(columns) == 1 else np.stack(columns, 1)


def _any(table: Any, names: tuple[str, ...], steps: int) -> bool:
    """Whether a step is marked in one of these columns."""
    return any(np.asarray(table[name].to_pylist(), bool)[:steps].any() for name in names if name in table.column_names)
