"""Recordings of other makers: Minari's data sets, and videos with logs of actions."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from fromnoise.data.episodes import Episodes, open_recording
from fromnoise.data.episodes.actions import Continuous, Discrete, MultiBinary
from fromnoise.data.episodes.video import encode
from fromnoise.types import UserError


def film(frames=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, 32, 48, 3), dtype=np.uint8)


def write_csv(path, header, rows):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")


def test_a_data_set_of_minari_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    import minari
    from gymnasium import spaces
    from minari.data_collector.episode_buffer import EpisodeBuffer

    frames = [film(5, seed) for seed in range(2)]
    buffers = [EpisodeBuffer(id=i, observations=list(seen), actions=[0, 2, 1, 1], rewards=[0.0, 1.0, 0.0, -1.0],
                             terminations=[False] * 3 + [i == 0], truncations=[False] * 3 + [i == 1])
               for i, seen in enumerate(frames)]
    minari.create_dataset_from_buffers(
        "made/up-v0", buffers, observation_space=spaces.Box(0, 255, (32, 48, 3), np.uint8),
        action_space=spaces.Discrete(3), data_format="arrow", jpeg_encoding=False)
    read = open_recording(str(tmp_path / "made/up-v0"))
    assert read.about.actions == Discrete(n=3)
    assert (read.about.height, read.about.width, read.about.frames) == (32, 48, 10)
    for i, episode in enumerate(read):
        assert np.array_equal(episode.frames, frames[i])
        assert episode.actions.tolist() == [0, 2, 1, 1]
        assert episode.rewards.tolist() == [0, 1, 0, -1]
        assert (episode.terminated, episode.truncated) == (i == 0, i == 1)
    source = Episodes(root=str(tmp_path / "made/up-v0"), frames=2, height=32, width=48, fps=5).open("train")
    assert source.batch([1], [0]).actions.tolist() == [[0, 2]]


def test_a_recording_that_keeps_frames_as_pictures_is_read(tmp_path):
    """LeRobot's features of dtype image: a picture file in each row; nothing of ours beside."""
    import pyarrow
    import pyarrow.parquet

    seen, buffers = film(4), []
    for frame in seen:
        Image.fromarray(frame).save(buffer := io.BytesIO(), "PNG")
        buffers.append({"bytes": buffer.getvalue(), "path": None})
    row = {"episode_index": 0, "tasks": ["push"], "length": 4, "data/chunk_index": 0, "data/file_index": 0,
           "dataset_from_index": 0, "dataset_to_index": 4}
    for path, columns in (("data", {"observation.images.top": buffers, "action": [[0.5, 1.0]] * 4, "index": range(4)}),
                          ("meta/episodes", {key: [value] for key, value in row.items()})):
        (tmp_path / path / "chunk-000").mkdir(parents=True)
        table = pyarrow.table({name: list(values) for name, values in columns.items()})
        pyarrow.parquet.write_table(table, tmp_path / path / "chunk-000/file-000.parquet")
    features = {"observation.images.top": {"dtype": "image", "shape": [3, 32, 48], "names": None},
                "action": {"dtype": "float32", "shape": [2]}}
    (tmp_path / "meta/info.json").write_text(json.dumps({
        "codebase_version": "v3.0", "fps": 5, "features": features,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"}))
    read = open_recording(str(tmp_path))
    assert (read.about.height, read.about.width, read.about.fps) == (32, 48, 5)
    episode = next(iter(read))
    assert np.array_equal(episode.frames, seen)
    assert episode.actions.tolist() == [[0.5, 1.0]] * 3
    assert episode.text == "push"


def test_videos_with_logs_are_episodes(tmp_path):
    """A row a frame, of which the last may be left away; words become choices, in the order of the alphabet."""
    for name, seed in (("b", 1), ("a", 0)):
        encode(tmp_path / f"{name}.mp4", film(6, seed), 12)
    write_csv(tmp_path / "a.csv", "action,reward,done", [("stay", 0.5, "false")] * 4 + [("up", 1, "true")] * 2)
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"action": word}) for word in
                                                ("up", "down", "stay", "stay", "up")) + "\n")
    read = open_recording(str(tmp_path))
    assert read.about.actions == Discrete(n=3, meanings=("down", "stay", "up"))
    assert read.about.fps == 12
    a, b = read
    assert np.array_equal(a.frames, film(6, 0))
    assert a.actions.tolist() == [1, 1, 1, 1, 2]
    assert a.rewards.tolist() == [0.5, 0.5, 0.5, 0.5, 1]
    assert a.terminated
    assert b.actions.tolist() == [2, 0, 1, 1, 2]
    assert not b.terminated
    source = Episodes(root=str(tmp_path), frames=6, height=32, width=48, held_out=0.5)
    assert len(source.open("train")) == len(source.open("test")) == 1


def test_columns_of_a_log_become_switches_or_numbers(tmp_path):
    import pyarrow
    import pyarrow.parquet

    encode(tmp_path / "a.mp4", film(4), 10)
    write_csv(tmp_path / "a.csv", "frame,action_left,action_jump", [(0, 0, 1), (1, 1, 1), (2, 0, 0), (3, 1, 0)])
    read = open_recording(str(tmp_path))
    assert read.about.actions == MultiBinary(n=2)
    assert next(iter(read)).actions.tolist() == [[0, 1], [1, 1], [0, 0]]
    (tmp_path / "a.csv").unlink()
    moved = [[0.5, -1.0], [0.25, 0.0], [0.0, 2.0]]
    pyarrow.parquet.write_table(pyarrow.table({"action": moved}), tmp_path / "a.parquet")
    read = open_recording(str(tmp_path))
    assert read.about.actions == Continuous(low=(0.0, -1.0), high=(0.5, 2.0))
    assert next(iter(read)).actions.tolist() == moved


@pytest.mark.parametrize(("rows", "sentence"), [
    (None, "has no a.csv, .jsonl or .parquet beside it"),
    (["move", "1"], "needs rows and a column action, but has 1 rows of move"),
    (["action", "1", "0"], "has 6 frames, but its log 2 rows"),
])
def test_a_log_that_does_not_fit_is_one_sentence(rows, sentence, tmp_path):
    encode(tmp_path / "a.mp4", film(6), 10)
    if rows:
        (tmp_path / "a.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(UserError, match=sentence):
        list(open_recording(str(tmp_path)))


def test_a_damaged_video_is_one_sentence(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no film")
    write_csv(tmp_path / "a.csv", "action", [(1,), (0,)])
    with pytest.raises(UserError, match=r"a\.mp4 cannot be read"):
        open_recording(str(tmp_path))
