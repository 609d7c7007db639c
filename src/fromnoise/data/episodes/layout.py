"""The LeRobot v3.0 layout in facts: where files lie, what features say of columns, what statistics are kept.

Read from LeRobot's own source (huggingface/lerobot, src/lerobot/datasets: utils, feature_utils, io_utils,
dataset_writer, dataset_metadata; docs/episodes.md says what was checked against what).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fromnoise.data.episodes.actions import Actions
from fromnoise.data.episodes.video import number

VERSION = "v3.0"
CHUNK = 1000  # files in a folder
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
OURS = "meta/fromnoise.json"  # what LeRobot has no place for: how the environment is made, what actions mean
KEY = "observation.image"  # the feature that holds the frames

# Columns of data/, beside the action: (NumPy type, of which the names in info.json are the same).
COLUMNS = {"next.reward": "float32", "next.done": "bool", "next.truncated": "bool", "timestamp": "float32",
           "frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"}


def place(shard: int) -> dict[str, int]:
    """Chunk and file of a shard."""
    return {"chunk_index": shard // CHUNK, "file_index": shard % CHUNK}


def features(actions: Actions, video: dict[str, Any]) -> dict[str, Any]:
    """What info.json says of every column, and of the video."""
    size = actions.shape[0] if actions.shape else 1
    told = getattr(actions, "meanings", ()) if actions.shape else ()
    frame = [video["video.height"], video["video.width"], 3]
    return {
        KEY: {"dtype": "video", "shape": frame, "names": ["height", "width", "channels"], "info": video},
        "action": {"dtype": np.dtype(actions.dtype).name, "shape": [size],
                   "names": list(told) or [f"action_{i}" for i in range(size)]},
        **{name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in COLUMNS.items()},
    }


def info(about: dict[str, Any], fps: float, episodes: int, frames: int, tasks: int) -> dict[str, Any]:
    """meta/info.json; about: the features."""
    return {
        "codebase_version": VERSION, "fps": number(fps), "features": about, "total_episodes": episodes,
        "total_frames": frames, "total_tasks": tasks, "chunks_size": CHUNK, "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200, "data_path": DATA, "video_path": VIDEO, "robot_type": None,
        "splits": {"train": f"0:{episodes}"},
    }


def statistics(columns: dict[str, np.ndarray], frames: np.ndarray) -> dict[str, dict[str, Any]]:
    """Of each column ``[N]`` or ``[N, A]``, and of the frames' channels in [0, 1]: min, max, mean, std and count."""
    stats = {name: _moments(values.reshape(len(values), -1).astype(np.float64)) for name, values in columns.items()}
    levels = np.arange(256) / 255
    channels = [_counted(np.bincount(frames[..., c].reshape(-1), minlength=256), levels) for c in range(3)]
    pixels = {key: np.reshape([channel[key] for channel in channels], (3, 1, 1)) for key in channels[0]}
    return stats | {KEY: pixels | {"count": np.array([len(frames)])}}


def _moments(values: np.ndarray) -> dict[str, Any]:
    return {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0),
            "count": np.array([len(values)])}


def _counted(counts: np.ndarray, levels: np.ndarray) -> dict[str, float]:
    """The moments of ``levels`` that occur so many times."""
    share, there = counts / counts.sum(), levels[counts > 0]
    mean = share @ levels
    return {"min": there[0], "max": there[-1], "mean": mean, "std": np.sqrt(share @ (levels - mean) ** 2)}


def joined(parts: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The statistics of several episodes together: exact, as means and squares add up."""
    return {name: _joined([part[name] for part in parts]) for name in parts[0]} if parts else {}


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    least, most, mean, std, count = (np.stack([np.asarray(p[k], np.float64) for p in parts])
                                     for k in ("min", "max", "mean", "std", "count"))
    weight = (count / count.sum()).reshape(len(parts), *[1] * (mean.ndim - 1))
    whole = (weight * mean).sum(0)
    spread = np.sqrt((weight * (std**2 + (mean - whole) ** 2)).sum(0))
    return {"min": least.min(0), "max": most.max(0), "mean": whole, "std": spread, "count": count.sum(0).astype(int)}
