"""Worlds of runs: made of a folder, begun from real frames, kept in files, played."""

import hashlib
import json
import shutil
import warnings
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from starlette.testclient import TestClient
from tiny_world import BREAKOUT, recipe_of, record, write_run

import fromnoise
from fromnoise.cli import main
from fromnoise.data.episodes import open_recording
from fromnoise.recipe import load_recipe
from fromnoise.types import UserError
from fromnoise.worlds import beginnings, opening
from fromnoise.worlds.opening import open_world
from fromnoise.worlds.play.messages import unpacked
from fromnoise.worlds.play.server import app_of
from fromnoise.worlds.play.serving import serving_of


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return record(tmp_path_factory.mktemp("data") / "breakout")


@pytest.fixture(scope="module")
def run(recording, tmp_path_factory):
    return write_run(recipe_of(recording), tmp_path_factory.mktemp("runs") / "breakout")


@pytest.fixture
def lonely(run, tmp_path):
    """The run, to which something may be done."""
    return shutil.copytree(run, tmp_path / "run")


def test_gymnasium_finds_nothing_wrong_with_the_world_of_a_run(run):
    from gymnasium.utils.env_checker import check_env

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*spec.*")
        check_env(fromnoise.worlds.make(run))


def test_the_world_of_a_run_is_seeded_and_what_is_done_matters(run):
    env = fromnoise.worlds.make(run, limit=5)

    def played(seed, action):
        return np.stack([env.reset(seed=seed)[0], *(env.step(action)[0] for _ in range(4))])

    assert np.array_equal(played(1, 0), played(1, 0))
    assert not np.array_equal(played(1, 0)[1], played(1, 2)[1])
    assert not np.array_equal(played(1, 0)[1], played(2, 0)[1])
    assert env.step(0)[1:4] == (0.0, False, True)  # it has no heads


def test_beginnings_are_moments_of_held_out_episodes_and_are_kept(lonely, recording):
    kept = open_world(lonely).beginnings()
    assert (lonely / beginnings.NAME).stat().st_size < 2**20
    episodes = list(open_recording(str(recording)))
    source = load_recipe(lonely / "recipe.json").data.open("test")
    held_out = [episodes[i] for i in source.episodes]
    for frames, actions in zip(kept.frames, kept.actions, strict=True):
        places = [(e, i) for e in held_out for i in range(len(e) - len(frames))
                  if np.array_equal(e.frames[i : i + len(frames)], frames)]
        assert any(np.array_equal(actions[1:], e.actions[i : i + len(frames) - 1]) for e, i in places)
    again = open_world(lonely).beginnings()
    assert np.array_equal(kept.frames, again.frames)
    assert np.array_equal(kept.actions, again.actions)


def test_a_run_is_a_world_without_its_data(lonely, tmp_path):
    frame, _ = fromnoise.worlds.make(lonely).reset(seed=3)
    path = lonely / "recipe.json"
    told = json.loads(path.read_text())
    told["data"]["root"] = str(tmp_path / "gone")
    path.write_text(json.dumps(told))
    assert np.array_equal(fromnoise.worlds.make(lonely).reset(seed=3)[0], frame)
    (lonely / beginnings.NAME).unlink()
    with pytest.raises(UserError, match="has no real beginnings"):
        fromnoise.worlds.make(lonely).reset()
    frames = np.zeros((1, 20, 20, 3), np.uint8)
    fromnoise.worlds.make(lonely).reset(options={"frames": frames})  # these need no data
    (lonely / beginnings.NAME).write_bytes(b"junk")
    with pytest.raises(UserError, match="is damaged"):
        fromnoise.worlds.make(lonely).reset()


def test_beginnings_of_other_pictures_are_refused(lonely):
    data = load_recipe(lonely / "recipe.json").data
    kept = beginnings.of_run(lonely, data)
    beginnings.Beginnings(kept.frames[:, :, :10], kept.actions).save(lonely)
    with pytest.raises(UserError, match="not of this world of 20x20"):
        beginnings.of_run(lonely, data)


def test_rows_are_the_worlds_of_their_seeds(run):
    """In one pass of the network, to at most one level of 256; rows begin anew at different steps."""
    rows, alone = fromnoise.worlds.make_vec(run, 3), [fromnoise.worlds.make(run) for _ in range(3)]
    frames, _ = rows.reset(seed=5)
    assert np.array_equal(frames, np.stack([env.reset(seed=5 + i)[0] for i, env in enumerate(alone)]))
    for step, actions in enumerate(np.random.default_rng(0).integers(3, size=(12, 3))):
        rows.over = np.array([step == 4, step == 7, False])  # as if they had ended there
        frames, *_ = rows.step(actions)
        for i, env in enumerate(alone):
            frame = env.reset()[0] if (i, step) in ((0, 4), (1, 7)) else env.step(int(actions[i]))[0]
            assert np.abs(frames[i].astype(int) - frame).max() <= 1


def test_rewards_and_ends_that_are_foretold_are_those_of_the_environment(recording, tmp_path):
    """Of rows too, which begin anew where the world ended, and on the page."""
    run = write_run(recipe_of(recording, outcomes=5), tmp_path / "run")
    rows, alone = fromnoise.worlds.make_vec(run, 2, limit=6), [fromnoise.worlds.make(run, limit=6) for _ in range(2)]
    rows.reset(seed=0)
    for i, env in enumerate(alone):
        env.reset(seed=i)
    over, rewarded = [False, False], []
    for _ in range(10):
        _, rewards, ended, cut, _ = rows.step([1, 2])
        for i, env in enumerate(alone):
            seen = (env.reset()[0], 0.0, False, False) if over[i] else env.step(1 + i)[:4]
            assert rewards[i] == pytest.approx(seen[1], rel=1e-4)
            assert (ended[i], cut[i]) == seen[2:]
            over[i] = seen[2] or seen[3]
            rewarded.append(seen[1])
    assert any(rewarded)
    env = alone[0]
    env.reset(seed=3)
    played = serving_of(str(run), real=False).open()
    played.reset(3)
    _, reward, ended, _, _ = env.step(1)
    scene = played.step(["left"]).world
    assert (scene.reward, scene.score, scene.ended) == (reward, reward, ended)


def test_a_moment_in_a_file_goes_on_bit_for_bit(run, recording, tmp_path):
    env = fromnoise.worlds.make(run)
    env.reset(seed=2)
    for action in (0, 1, 2, 1, 0, 2, 2):
        env.step(action)
    env.save(tmp_path / "moment.safetensors")
    future = [env.step(1)[0], env.step(2)[0], env.reset()[0]]
    other = fromnoise.worlds.make(run)
    other.restore(tmp_path / "moment.safetensors")
    assert all(map(np.array_equal, future, [other.step(1)[0], other.step(2)[0], other.reset()[0]]))
    rows = fromnoise.worlds.make_vec(run, 2)
    rows.reset(seed=0)
    rows.save(tmp_path / "rows.safetensors")
    future = rows.step([0, 1])[0]
    fresh = fromnoise.worlds.make_vec(run, 2)
    fresh.restore(tmp_path / "rows.safetensors")
    assert np.array_equal(fresh.step([0, 1])[0], future)
    changed = write_run(replace(recipe_of(recording), seed=1), tmp_path / "changed")
    for world, path, words in ((env, "rows", "of 2 worlds"), (env, "none", "no file"),
                               (fromnoise.worlds.make(changed), "moment", "another world")):
        with pytest.raises(UserError, match=words):
            world.restore(tmp_path / f"{path}.safetensors")
    with pytest.raises(UserError, match="the same context"):
        fromnoise.worlds.make(run, context=2).restore(tmp_path / "moment.safetensors")
    with pytest.raises(UserError, match="holds no moment"):
        env.restore(run / "model.safetensors")


def test_the_real_environment_plays_beside_the_world_of_a_run(run):
    """The first frames are real ones of both, and a world that is alone is the environment of its seed."""
    for real in (True, False):
        with (TestClient(app_of(serving_of(str(run), real))) as client,
              client.websocket_connect("/socket?seed=4") as socket):
            hello = socket.receive_json()
            assert hello["beside"] == (BREAKOUT.id if real else None)
            assert [button["name"] for button in hello["buttons"]] == ["left", "right"]
            facts, pixels = unpacked(socket.receive_bytes())
            seen = np.frombuffer(pixels, np.uint8).reshape(1 + real, 20, 20, 3)
            assert facts["world"]["score"] is None
            assert np.array_equal(seen[0], seen[-1])
            socket.send_json({"type": "step"})
            facts, pixels = unpacked(socket.receive_bytes())
            seen = np.frombuffer(pixels, np.uint8).reshape(1 + real, 20, 20, 3)
            assert facts["number"] == 1
            assert np.array_equal(seen[0], seen[-1]) != real
    env = fromnoise.worlds.make(run)
    env.reset(seed=4)
    assert np.array_equal(env.step(0)[0], seen[0])


def test_where_the_real_environment_is_not_installed_the_world_plays_alone(run, monkeypatch):
    from fromnoise.data.episodes import world

    def missing(*_):
        raise UserError("MinAtar's games need MinAtar: pip install 'fromnoise[worlds]'.")

    monkeypatch.setattr(world, "need", missing)
    serving = serving_of(str(run))
    assert "fromnoise[worlds]" in serving.note
    assert serving.open().beside is None


def test_without_gymnasium_making_a_world_names_the_extra(run, monkeypatch):
    from fromnoise.data.episodes import needs

    def missing(name):
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(needs.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"pip install 'fromnoise\[worlds\]'"):
        opening.make(run)


def test_what_is_no_world_is_told_in_a_sentence(lonely, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "SHIPPED", tmp_path / "none")
    with pytest.raises(UserError, match="No world comes with this installation"):
        fromnoise.worlds.make()
    with pytest.raises(UserError, match="not a run folder"):
        fromnoise.worlds.make(tmp_path)
    with pytest.raises(UserError, match="limit is a number of steps"):
        fromnoise.worlds.make(lonely, limit=-1)
    with pytest.raises(UserError, match="rows must be at least 1"):
        fromnoise.worlds.make_vec(lonely, 0)
    with pytest.raises(UserError, match="render_mode"):
        fromnoise.worlds.make(lonely, render_mode="human")
    told = json.loads((lonely / "recipe.json").read_text())
    told["data"] = {"kind": "digits"}
    (lonely / "recipe.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match="is no world: it was trained on digits"):
        fromnoise.worlds.make(lonely)


def test_the_world_that_comes_with_fromnoise_is_taken_without_a_name(lonely, monkeypatch):
    monkeypatch.setattr(opening, "SHIPPED", lonely)
    assert fromnoise.worlds.make().reset(seed=0)[0].shape == (20, 20, 3)


def test_the_world_that_comes_with_fromnoise_does_what_it_is_told():
    files = list(opening.SHIPPED.glob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) <= 15_000_000
    made = json.loads((opening.SHIPPED / "made.json").read_text())
    assert made["sha256"] == hashlib.sha256((opening.SHIPPED / "model.safetensors").read_bytes()).hexdigest()
    env = fromnoise.worlds.make()
    names = env.dream.actions.meanings

    def paddle(frame):  # the column of what is blue in the last row
        return int((frame[-2, :, 2].astype(int) - frame[-2, :, 0]).reshape(10, 4).sum(1).argmax())

    moved = {"l": [], "r": [], "n": []}
    for seed in range(6):
        env.reset(seed=seed)
        before = paddle(env.step(names.index("n"))[0])
        moment = env.save()
        for name, by in moved.items():
            env.restore(moment)
            wanted = min(9, max(0, before + {"l": -1, "r": 1, "n": 0}[name]))
            by.append(paddle(env.step(names.index(name))[0]) == wanted)
    assert all(np.mean(by) > 0.8 for by in moved.values()), moved


@pytest.mark.long
def test_training_keeps_beginnings(recording, tmp_path):
    recipe = recipe_of(recording)
    recipe.save(tmp_path / "recipe.json")
    assert main(["train", str(tmp_path / "recipe.json"), "--out", str(tmp_path / "run"), "--train.threads", "1",
                 "--train.steps", "1", "--evaluate.samples", "2"]) == 0
    assert (tmp_path / "run" / beginnings.NAME).is_file()
    assert fromnoise.worlds.make(tmp_path / "run").reset(seed=0)[0].any()


def test_a_world_is_handed_on_in_half_the_room(lonely, tmp_path, capsys):
    small = tmp_path / "small"
    line = '{"step": 1, "loss": 0.5, "core_seconds": 7.4}'
    (lonely / "metrics.jsonl").write_text(f'{line}\n{{"step": 2, "lo')  # training was killed as it wrote
    (lonely / "training.json").write_text('{"command": "fromnoise train", "machine": 3}')
    assert main(["export", str(lonely), "--format", "fromnoise", "--out", str(small)]) == 0
    assert "real beginnings" in capsys.readouterr().out
    files = [folder / "model.safetensors" for folder in (lonely, small)]
    assert files[1].stat().st_size < 0.6 * files[0].stat().st_size
    made = json.loads((small / "made.json").read_text())
    assert (made["command"], made["core_seconds"], "machine" in made) == ("fromnoise train", 7, False)
    assert made["sha256"] == hashlib.sha256(files[1].read_bytes()).hexdigest()
    recipe = json.loads((small / "recipe.json").read_text())
    recipe["data"]["root"] = str(tmp_path / "nowhere")  # its data stay behind
    (small / "recipe.json").write_text(json.dumps(recipe))

    def played(run):
        env = fromnoise.worlds.make(run)
        return np.stack([env.reset(seed=1)[0], *(env.step(2)[0] for _ in range(4))]).astype(int)

    assert np.abs(played(small) - played(lonely)).max() <= 2
    with patch("fromnoise.sharing.write_text", side_effect=OSError(28, "full")):
        assert main(["export", str(lonely), "--format", "fromnoise", "--out", str(tmp_path / "half")]) == 2
    assert "the disk is full" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if "half" in path.name]
    assert main(["export", str(lonely), "--format", "fromnoise", "--out", str(small)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["export", str(lonely), "--format", "fromnoise", "--lora", "a.safetensors", "--out", "b"]) == 2
    assert "layout of diffusers" in capsys.readouterr().err
