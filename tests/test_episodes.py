"""Episodes: what is collected is what was played, stored in LeRobot's layout and read back bit for bit."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from fromnoise.cli import main
from fromnoise.config import to_dict
from fromnoise.data.episodes import Episode, Episodes, World, environment, layout, open_recording
from fromnoise.data.episodes.actions import Continuous, Discrete, MultiBinary, of_space, of_values
from fromnoise.data.episodes.collect import collect
from fromnoise.data.episodes.episode import resized
from fromnoise.data.episodes.play import Play, Player
from fromnoise.data.episodes.world import CALLED, actions_of, settled
from fromnoise.data.episodes.writer import Writer, episode_rows
from fromnoise.recipe import Recipe, load_recipe
from fromnoise.recipes import RECIPES
from fromnoise.types import UserError

PONG = World(id="ALE/Pong-v5", limit=40)
GRID = World(id="MiniGrid-Empty-5x5-v0", limit=20)
BREAKOUT = World(id="MinAtar/Breakout-v1", height=60, width=60)
RACING = World(id="CarRacing-v3", options={"continuous": False}, repeat=3, crop=(0, 0, 96, 84), height=56)
WORLDS = {"pong": PONG, "grid": GRID, "breakout": BREAKOUT}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Three episodes of each world, in folders."""
    root = tmp_path_factory.mktemp("recordings")
    for name, world in WORLDS.items():
        collect(Play(world=world, sticky=0.5), root / name, count=3)
    return root


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*"))
            if path.is_file() and ".frames" not in path.parts}


def made(frames=5, value=0, actions=None, **more):
    """An episode out of thin air."""
    seen = np.random.default_rng(value).integers(0, 256, (frames, 16, 24, 3), dtype=np.uint8)
    done = np.arange(frames - 1) % 3 if actions is None else actions
    return Episode(seen, done, np.linspace(-1, 1, frames - 1, dtype=np.float32), **more)


@pytest.mark.parametrize("name", WORLDS)
def test_what_is_read_is_what_was_played(recordings, name):
    player, read = Player(Play(world=settled(WORLDS[name]), sticky=0.5)), list(open_recording(str(recordings / name)))
    assert len(read) == 3
    for number, episode in enumerate(read):
        again = player.episode(number)
        assert np.array_equal(episode.frames, again.frames)
        assert np.array_equal(episode.actions, again.actions)
        assert np.array_equal(episode.rewards, again.rewards)
        assert (episode.terminated, episode.truncated, episode.seed) == (again.terminated, again.truncated, again.seed)
        assert episode.terminated or episode.truncated
        assert len(np.unique(episode.frames.reshape(len(episode), -1), axis=0)) > 3  # something moves
    assert not np.array_equal(read[0].actions[:4], read[1].actions[:4])


@pytest.mark.parametrize("name", WORLDS)
def test_the_environment_made_from_a_recording_gives_its_frames_again(recordings, name):
    about = open_recording(str(recordings / name)).about
    env, episode = environment(about.world), list(open_recording(str(recordings / name)))[1]
    frame, _ = env.reset(seed=episode.seed)
    assert np.array_equal(frame, episode.frames[0])
    for i, action in enumerate(episode.actions.tolist()):
        frame, reward, terminated, truncated, _ = env.step(action)
        assert np.array_equal(frame, episode.frames[i + 1])
        assert reward == episode.rewards[i]
    assert (terminated, truncated) == (episode.terminated, episode.truncated)


@pytest.mark.parametrize(("world", "steps"), [(PONG, 60), (GRID, 15), (BREAKOUT, 6), (World(id="CartPole-v1"), 4),
                                               (RACING, 12), (World(id="BipedalWalker-v3", repeat=3), 5)],
                         ids=lambda value: getattr(value, "id", ""))
def test_a_saved_moment_branches_and_comes_back(world, steps):
    """From one state each action gives the same future twice, and some two actions give two futures."""
    env = environment(settled(replace(world, limit=0)))
    known, rng = actions_of(env), np.random.default_rng(0)

    def drawn(rng):
        return known.draw(rng).astype(known.dtype) if known.shape else int(known.draw(rng))

    with pytest.raises(UserError, match="no moment to save before the environment is reset"):
        env.save()
    env.reset(seed=1)
    for _ in range(steps):
        *_, ended, _, _ = env.step(drawn(rng))
        assert not ended
    moment, seen = env.save(), env.render()

    def future(action):
        env.restore(moment)
        assert np.array_equal(env.render(), seen)
        return np.stack([env.step(action)[0] for _ in range(2)])

    actions = [drawn(rng) for _ in range(3)] if known.shape else range(min(3, known.n))
    futures = [future(action) for action in actions]
    first = [env.reset()[0] for _ in range(2)]  # another episode, which is nothing to a moment
    env.step(drawn(rng))
    assert all(np.array_equal(seen, future(action)) for action, seen in zip(actions, futures, strict=True))
    env.restore(moment)
    assert np.array_equal(first, [env.reset()[0] for _ in range(2)])
    assert any(not np.array_equal(futures[0], other) for other in futures[1:])


def test_pong_begins_in_its_own_colours(recordings):
    """The console's first frame is green; the court is brown."""
    for episode in open_recording(str(recordings / "pong")):
        assert episode.frames[0, 40, 32].tolist() == [144, 72, 17]


def test_an_environment_of_pictures_is_a_gymnasium_environment():
    from gymnasium.utils.env_checker import check_env

    check_env(environment(settled(GRID)), skip_render_check=True)


def test_the_same_command_gives_the_same_bytes_whatever_plays_beside_it(recordings, tmp_path):
    """Two processes that play ahead, and MinAtar, whose games remember the last action beyond an episode."""
    collect(Play(world=BREAKOUT, sticky=0.5), tmp_path / "two", count=3, processes=2)
    assert files(tmp_path / "two") == files(recordings / "breakout")
    collect(Play(world=BREAKOUT, sticky=0.5, seed=1), tmp_path / "other", count=3)
    assert files(tmp_path / "other") != files(recordings / "breakout")


def test_collecting_goes_on_where_it_was_stopped(recordings, tmp_path, monkeypatch):
    """With shards of one episode, one of them lost before it counted, and an end in the middle of it all."""
    monkeypatch.setattr("fromnoise.data.episodes.collect.SHARD", 1)
    play = Play(world=GRID, sticky=0.5)
    collect(play, tmp_path / "whole", count=3)
    collect(play, tmp_path / "parts", count=2)
    (tmp_path / "parts" / layout.EPISODES.format(**layout.place(1))).unlink()  # killed before this was written
    assert len(episode_rows(tmp_path / "parts")) == 1
    collect(play, tmp_path / "parts", count=3)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    for path in (tmp_path / "parts" / "meta").rglob("*"):
        if path.is_file() and path.name != "fromnoise.json":  # killed before the first shard counted
            path.unlink()
    collect(replace(play, seed=1), tmp_path / "parts", count=1)  # so that other choices are still free
    assert next(iter(open_recording(str(tmp_path / "parts")))).seed != next(iter(open_recording(
        str(tmp_path / "whole")))).seed
    for one, other in zip(open_recording(str(tmp_path / "whole")), open_recording(str(recordings / "grid")),
                          strict=True):
        assert np.array_equal(one.frames, other.frames)  # however it is cut into shards
        assert np.array_equal(one.actions, other.actions)


def test_a_folder_older_than_a_choice_goes_on(tmp_path):
    """Choices that it does not know of have their defaults."""
    collect(Play(world=BREAKOUT), tmp_path / "data", count=1)
    about = tmp_path / "data" / layout.OURS
    held = json.loads(about.read_text())
    del held["world"]["repeat"]
    about.write_text(json.dumps(held))
    assert collect(Play(world=BREAKOUT), tmp_path / "data", count=2).episodes == 2
    with pytest.raises(UserError, match=r"world.fps 10.0 \(now 5.0\), world.repeat 1 \(now 2\): say the same"):
        collect(Play(world=replace(BREAKOUT, repeat=2)), tmp_path / "data", count=3)


def test_frames_are_counted_up_to_the_end_of_an_episode(tmp_path):
    writer = collect(Play(world=GRID), tmp_path / "a", frames=30)
    rows = episode_rows(tmp_path / "a")
    assert writer.frames == rows[-1]["dataset_to_index"] >= 30 > rows[-1]["dataset_from_index"]


def test_the_layout_is_that_of_lerobot(recordings):
    """Names, types and offsets, as huggingface/lerobot reads them; docs/episodes.md says how they were checked."""
    pq = pytest.importorskip("pyarrow.parquet")
    pandas = pytest.importorskip("pandas")
    root = recordings / "grid"
    info = json.loads((root / "meta/info.json").read_text())
    table = pq.read_table(root / "data/chunk-000/file-000.parquet")
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["fps"]) == (3, table.num_rows, 10)
    stored = {name: told for name, told in info["features"].items() if told["dtype"] != "video"}
    assert {name: str(table.schema.field(name).type) for name in stored} == {
        name: {"float32": "float", "bool": "bool", "int64": "int64"}[told["dtype"]] for name, told in stored.items()}
    assert info["features"]["observation.image"]["shape"] == [64, 64, 3]
    assert table["index"].to_pylist() == list(range(table.num_rows))
    episodes = pandas.read_parquet(root / "meta/episodes/chunk-000/file-000.parquet")
    for _, row in episodes.iterrows():
        own = table.slice(row["dataset_from_index"], row["length"])
        assert set(own["episode_index"].to_pylist()) == {row["episode_index"]}
        assert own["frame_index"].to_pylist() == list(range(row["length"]))
        assert own["next.done"].to_pylist()[-3:] == [False, True, True]  # the step that ended it, and its last frame
        assert row["videos/observation.image/to_timestamp"] == row["dataset_to_index"] / 10
    tasks = pandas.read_parquet(root / "meta/tasks.parquet")
    assert tasks.iloc[0].name == "get to the green goal square"
    assert pq.ParquetFile(root / "data/chunk-000/file-000.parquet").num_row_groups == 3


def test_statistics_of_episodes_add_up_to_those_of_all(recordings):
    stats = json.loads((recordings / "grid" / "meta/stats.json").read_text())
    read = list(open_recording(str(recordings / "grid")))
    pixels = np.concatenate([episode.frames for episode in read]).astype(np.float64) / 255
    assert np.ravel(stats["observation.image"]["mean"]) == pytest.approx(pixels.mean((0, 1, 2)))
    assert np.ravel(stats["observation.image"]["std"]) == pytest.approx(pixels.std((0, 1, 2)))
    done = np.concatenate([np.append(episode.actions, episode.actions[-1]) for episode in read])
    assert stats["action"]["std"] == pytest.approx([done.std()])
    assert np.shape(stats["observation.image"]["std"]) == (3, 1, 1)
    assert stats["action"]["max"] == [done.max()]
    assert stats["action"]["count"] == [len(done)]


@pytest.mark.parametrize(("quality", "least"), [("lossless", np.inf), ("near", 45), ("plain", 25)])
def test_the_video_is_as_near_as_its_quality_says(recordings, tmp_path, quality, least):
    collect(Play(world=GRID, sticky=0.5), tmp_path / "a", count=3, quality=quality)
    pairs = zip(open_recording(str(tmp_path / "a")), open_recording(str(recordings / "grid")), strict=True)
    error = np.mean([np.mean((a.frames.astype(float) - b.frames) ** 2) for a, b in pairs])
    assert (np.inf if error == 0 else 10 * np.log10(255**2 / error)) >= least


@pytest.mark.parametrize("actions", [Discrete(n=3, meanings=("a", "b", "c")), MultiBinary(n=2),
                                     Continuous(low=(-1.0, 0.0), high=(1.0, 2.0))])
def test_actions_of_every_kind_are_written_read_and_handed_out(actions, tmp_path):
    rng = np.random.default_rng(0)
    episodes = [made(6, i, np.stack([actions.draw(rng) for _ in range(5)]).astype(actions.dtype), truncated=i == 0,
                     terminated=i == 1, text="x") for i in range(2)]
    Writer(tmp_path, actions, 7.5, "lossless", {"actions": to_dict(actions)}).append(episodes)
    read = open_recording(str(tmp_path))
    assert read.about.actions == actions
    assert read.about.fps == 7.5
    for one, other in zip(read, episodes, strict=True):
        assert np.array_equal(one.frames, other.frames)
        assert np.array_equal(one.actions, other.actions)
        assert one.actions.dtype == other.actions.dtype
        assert (one.terminated, one.truncated) == (other.terminated, other.truncated)
    source = Episodes(root=str(tmp_path), frames=3, height=16, width=24, held_out=0).open("train")
    told = source.batch([0, 1, 4], [0, 0, 0]).actions
    assert told.shape == (3, 3, *actions.shape)
    assert told.dtype == (torch.int64 if actions.shape == () else torch.float32)
    first = told[0, 0]
    assert (first == -1 if actions.shape == () else first.isnan()).all()  # nothing led to where an episode begins
    assert torch.equal(told[1], torch.from_numpy(episodes[0].actions[:3]))  # the one before the window leads into it
    assert torch.equal(told[2, 1:], torch.from_numpy(episodes[1].actions[:2]))


def test_windows_lie_within_episodes_and_splits_apart(recordings):
    spec = Episodes(root=str(recordings / "pong"), frames=8, held_out=0.4).resolved()
    train, test = spec.open("train"), spec.open("test")
    assert (len(train.episodes), len(test.episodes)) == (2, 1)
    assert not set(train.episodes) & set(test.episodes)
    read = list(open_recording(spec.root))
    assert len(train) == sum(len(read[e]) - 7 for e in train.episodes)
    for source in (train, test):
        indices = [*range(0, len(source), 9), len(source) - 1]
        batch = source.batch(indices, indices)
        assert batch.media.shape == (len(indices), 8, 3, 64, 64)
        offsets = source.recorded.offsets
        for row, start in enumerate(source.starts(indices).tolist()):
            e = int(np.searchsorted(offsets, start, "right") - 1)
            i = start - offsets[e]
            assert e in source.episodes
            assert np.array_equal(batch.media[row].movedim(1, -1).add(1).mul(127.5).round().numpy(),
                                  read[e].frames[i : i + 8])
            assert np.array_equal(batch.actions[row, 1:], read[e].actions[i : i + 7])
            assert np.array_equal(source.rewards(indices)[row, 1:], read[e].rewards[i : i + 7])
    assert batch.text == [""] * len(indices)
    assert torch.equal(source.batch([5, 3], [1, 2]).media.flip(0), source.batch([3, 5], [9, 9]).media)


def test_ends_of_worlds_are_told_and_cuts_are_not(recordings):
    for name, expected in (("breakout", 3), ("pong", 0)):
        source = Episodes(root=str(recordings / name), frames=1, held_out=0, height=60, width=60).open("train")
        assert int(source.ends(range(len(source))).sum()) == expected


def test_frames_are_decoded_once_and_anew_when_the_recording_grows(tmp_path, monkeypatch):
    play, spec = Play(world=GRID), Episodes(root=str(tmp_path), frames=4, height=32, width=32, held_out=0)
    collect(play, tmp_path, count=1)
    before = len(spec.open("train"))
    calls = []
    with monkeypatch.context() as patched:
        patched.setattr("fromnoise.data.episodes.cache._decode", lambda *_: calls.append(1))
        assert len(spec.open("train")) == before
    assert not calls
    collect(play, tmp_path, count=2)
    assert len(spec.open("train")) > before
    assert len(list((tmp_path / ".frames").glob("*.u8"))) == 1  # the older ones are gone
    elsewhere = replace(spec, cache=str(tmp_path / "elsewhere"))
    assert len(elsewhere.open("train")) == len(spec.open("train"))
    assert len(list((tmp_path / "elsewhere").glob("*.u8"))) == 1


def test_what_a_recording_says_is_written_into_the_recipe(recordings, tmp_path):
    recipe = Recipe(name="x", data=Episodes(root=str(recordings / "pong"))).resolved()
    assert recipe.data.fps == 15
    assert recipe.data.actions.meanings == ("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE")
    assert recipe.data.world.options["frameskip"] == 4
    recipe.save(tmp_path / "recipe.json")
    assert load_recipe(tmp_path / "recipe.json") == recipe
    gone = replace(recipe, data=replace(recipe.data, root=str(tmp_path / "gone")))
    assert gone.resolved() == gone  # nothing is looked up twice


def test_recipes_of_every_kind_write_down_what_a_recording_says(recordings):
    data = Episodes(root=str(recordings / "pong"), frames=5)
    for recipe in (replace(RECIPES["moving"](), data=data), replace(RECIPES["moving-kl"](), data=data)):
        found = recipe.resolved().data
        assert found.fps > 0
        assert found.actions.kind == "discrete"
        assert recipe.resolved().resolved() == recipe.resolved()


def test_frames_shrink_by_area_and_grow_by_hard_edges():
    checks = np.zeros((4, 4, 3), np.uint8)
    checks[::2, ::2] = checks[1::2, 1::2] = 200
    assert (resized(checks, 2, 2) == 100).all()
    assert np.array_equal(resized(checks, 8, 8), checks.repeat(2, 0).repeat(2, 1))
    assert resized(checks, 4, 4) is checks


def test_kinds_of_actions_are_told_apart():
    from gymnasium import spaces

    assert of_space(spaces.Discrete(4), "x") == Discrete(n=4)
    assert of_space(spaces.MultiBinary(3), "x") == MultiBinary(n=3)
    assert of_space(spaces.Box(np.float32([-2, 0]), np.float32([3, np.inf])), "x") == Continuous(
        low=(-2.0, -1.0), high=(3.0, 1.0))
    with pytest.raises(UserError, match="The actions of x are MultiDiscrete"):
        of_space(spaces.MultiDiscrete([2, 2]), "x")
    assert of_values(np.array([0, 2, 1])) == Discrete(n=3)
    assert of_values(np.array([[0], [2]])) == Discrete(n=3)
    assert of_values(np.array([[0, 1], [1, 1]])) == MultiBinary(n=2)
    assert of_values(np.array([0.5, -2.0])) == Continuous(low=(-2.0,), high=(0.5,))


def test_the_command_collects_goes_on_and_refuses_another(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["worlds", "collect", "MinAtar/Freeway-v1", "--episodes", "2", "--envs", "1", "--limit", "9", "--size",
               "40x20", "--options", "sticky_action_prob=0.25"]
    assert main(command) == 0
    assert "2 episodes of 20 frames at 40x20" in capsys.readouterr().out
    before = files(tmp_path / "data/minatar-freeway")
    assert main([*command, "--seed", "0"]) == 0
    assert files(tmp_path / "data/minatar-freeway") == before
    assert main([*command, "--seed", "1"]) == 2
    assert "was collected with seed 0 (now 1)" in capsys.readouterr().err
    assert (tmp_path / "data/minatar-freeway/frames.png").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    assert main([*command, "--out", "mine"]) == 2
    assert "mine holds other files: name a new folder with --out" in capsys.readouterr().err


def test_a_policy_of_ones_own_is_asked(tmp_path, monkeypatch):
    (tmp_path / "players.py").write_text(
        "def left(observation, info, rng):\n"
        "    assert info['frame'].shape == (64, 64, 3) and observation['image'].shape == (7, 7, 3)\n"
        "    return 0\n\ndef wrong(observation, info, rng):\n    return 9\n\nnothing = 3\n\n"
        "def broken(observation, info, rng):\n    return info['nowhere']\n")
    monkeypatch.chdir(tmp_path)
    assert not Player(Play(world=GRID, policy="players:left")).episode(0).actions.any()
    with pytest.raises(UserError, match="answered 9, which is no action of MiniGrid-Empty-5x5-v0: it has 7 choices"):
        Player(Play(world=GRID, policy="players:wrong")).episode(0)
    with pytest.raises(UserError, match="is no function"):
        Player(Play(world=GRID, policy="players:nothing"))
    with pytest.raises(UserError, match="The policy players:broken failed: KeyError: 'nowhere'"):
        Player(Play(world=GRID, policy="players:broken")).episode(0)


def test_invaders_are_shot_by_one_who_defends():
    def scores(policy: str) -> list[float]:
        player = Player(Play(world=World(id="MinAtar/SpaceInvaders-v1"), policy=policy))
        return [float(player.episode(i).rewards.sum()) for i in range(4)]

    assert min(scores("defend")) >= 20  # most of a wave of 24
    assert max(scores("random")) < 20


def test_the_ball_of_breakout_is_played_back():
    def lasts(policy: str) -> list[int]:
        player = Player(Play(world=settled(World(id="MinAtar/Breakout-v1", limit=400)), policy=policy))
        return [len(player.episode(i).actions) for i in range(4)]

    assert min(lasts("rally")) == 400
    assert max(lasts("random")) < 200


@pytest.mark.parametrize("continuous", [False, True])
def test_the_car_is_driven_along_the_road(continuous):
    def reward(policy: str) -> float:
        world = settled(replace(RACING, options={"continuous": continuous}, limit=150))
        return float(Player(Play(world=world, policy=policy)).episode(0).rewards.sum())

    assert reward("drive") > 100  # a tile of the road is worth 3 to 4
    assert reward("random") < 50


def test_an_action_is_held_for_as_many_steps_as_wanted():
    """The last picture of each few steps is seen, rewards are added up, and limit and pace count steps as recorded."""
    once, thrice = (environment(settled(replace(RACING, repeat=repeat))) for repeat in (1, 3))
    once.reset(seed=3), thrice.reset(seed=3)
    for action in (3, 3, 1, 0, 2):
        each = [once.step(action) for _ in range(3)]
        frame, reward, *over, _ = thrice.step(action)
        np.testing.assert_array_equal(frame, each[-1][0])
        assert reward == pytest.approx(sum(step[1] for step in each))
        assert over == [False, False]
    assert (once.limit, thrice.limit) == (1000, 334)
    ends = environment(settled(World(id="CartPole-v1", repeat=3)))
    ends.reset(seed=0)
    steps = [ends.step(0) for _ in range(4)]  # the pole falls in the eleventh step of its own
    assert [step[2] for step in steps] == [False, False, False, True]
    assert sum(step[1] for step in steps) < 12
    assert thrice.world.fps == pytest.approx(once.world.fps / 3)


# Where along x an environment is, or how fast it goes there, a few steps after its choices.
ALONG = {"LunarLander": lambda seen: seen[2], "CartPole": lambda seen: seen[1], "MountainCar": lambda seen: seen[1],
         "Acrobot": lambda seen: seen[5], "FrozenLake": lambda seen: seen % 4, "CliffWalking": lambda seen: seen % 12}


@pytest.mark.parametrize("name", ALONG)
def test_right_goes_to_the_right_of_left(name):
    import gymnasium

    newest = max(key for key in gymnasium.registry if key.startswith(f"{name}-v"))
    options = {"is_slippery": False} if name == "FrozenLake" else {}
    env = environment(World(id=newest, options=options))

    def along(word):
        env.reset(seed=0)
        if name == "CliffWalking":
            env.step(CALLED[name].index("UP"))  # from above the cliff
        for _ in range(3):
            *_, info = env.step(CALLED[name].index(word))
        return ALONG[name](info["observation"])

    assert along("RIGHT") > along("LEFT")


@pytest.mark.parametrize("name", [name for name in CALLED if name != "CarRacing"])
def test_choices_of_gymnasiums_own_worlds_have_names(name):
    """Arrow keys play them."""
    import gymnasium

    newest = max(key for key in gymnasium.registry if key.startswith(f"{name}-v"))
    screen = environment(World(id=newest))
    known = actions_of(screen)
    assert isinstance(known, Discrete)
    assert known.meanings == CALLED[name]


@pytest.mark.parametrize(("argv", "sentence"), [
    (["ALE/Pung-v5"], 'There is no environment "ALE/Pung-v5". Did you mean "ALE/Pong-v5"?'),
    (["MiniGrid-Emty-5x5-v0"], 'Did you mean "MiniGrid-Empty-5x5-v0"?'),
    (["nothing_here:X-v0"], 'There is no environment "nothing_here:X-v0"'),
    (["ALE/Pong-v5", "--policy", "rondom"], 'There is no policy "rondom". Did you mean "random"?'),
    (["ALE/Pong-v5", "--policy", "nowhere:f"], "The policy nowhere:f cannot be imported"),
    (["ALE/Pong-v5", "--policy", "wander"], "whose actions include forward"),
    (["MountainCar-v0", "--policy", "rally"], "is for ALE/Pong-v5 and MinAtar/Breakout-v1"),
    (["ALE/Pong-v5", "--policy", "drive"], "is for CarRacing-v3"),
    (["ALE/Pong-v5", "--repeat", "0"], "greater than or equal to 1"),
    (["ALE/Pong-v5", "--policy", "defend"], "is for MinAtar/SpaceInvaders-v1"),
    (["ALE/Pong-v5", "--view", "partial"], "A partial view is of MiniGrid's worlds"),
    (["ALE/Pong-v5", "--crop", "200x10+0+0"], "are 160x210, which has no 200x10 at 0, 0"),
    (["ALE/Pong-v5", "--crop", "what"], "--crop is WIDTHxHEIGHT+LEFT+TOP"),
    (["ALE/Pong-v5", "--size", "64by64"], "--size is WIDTHxHEIGHT"),
    (["ALE/Pong-v5", "--size", "2"], "greater than or equal to 8"),
    (["ALE/Pong-v5", "--options", "frameskip"], "--options takes name=value"),
    (["MiniGrid-Empty-5x5-v0", "--options", "colour=3"], "cannot be made with colour=3"),
    (["CartPole-v1", "--size", "33", "--video", "plain", "--episodes", "1"], "has even sides"),
    (["FrozenLake-v1", "--options", "render_mode=ansi"], "cannot be made"),
    ([], "Name an environment first"),
])
def test_what_cannot_be_collected_is_one_sentence(argv, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["worlds", "collect", *argv, "--envs", "1"]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not (tmp_path / "data").exists() or not list((tmp_path / "data").rglob("*.mp4"))


def test_an_environment_without_pictures_is_refused():
    import gymnasium

    class Blind(gymnasium.Env):
        observation_space, action_space = gymnasium.spaces.Discrete(2), gymnasium.spaces.Discrete(2)

    gymnasium.register("Blind-v0", entry_point=lambda **_: Blind())
    with pytest.raises(UserError, match="Blind-v0 shows no pictures: what is observed is Discrete"):
        environment(World(id="Blind-v0"))


@pytest.mark.parametrize(("module", "name", "package"), [
    ("ale_py", "ALE/Pong-v5", "ale-py"), ("minigrid", "MiniGrid-Empty-5x5-v0", "minigrid"),
    ("minatar.gym", "MinAtar/Breakout-v1", "MinAtar"), ("gymnasium", "CartPole-v1", "gymnasium")])
def test_a_library_that_is_not_installed_is_named_with_its_extra(module, name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"need {package} .*pip install 'fromnoise\[worlds\]'"):
        environment(World(id=name))


def test_what_is_no_recording_is_refused(recordings, tmp_path):
    with pytest.raises(UserError, match=r"There is no folder .*worlds collect"):
        open_recording(str(tmp_path / "gone"))
    with pytest.raises(UserError, match="holds no episodes"):
        open_recording(str(tmp_path))
    with pytest.raises(UserError, match="41 frames, and a window has 50"):
        Episodes(root=str(recordings / "pong"), frames=50).open("train")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text('{"codebase_version": "v2.1"}')
    with pytest.raises(UserError, match=r"layout v2.1, and v3.0 is read"):
        open_recording(str(tmp_path))
    (tmp_path / "meta/info.json").write_text('{"codebase_version": "v3.0", "features": {}}')
    with pytest.raises(UserError, match="holds no pictures"):
        open_recording(str(tmp_path))
    told = json.loads((recordings / "grid/meta/info.json").read_text())
    told["features"]["observation.images.wrist"] = told["features"]["observation.image"]
    (tmp_path / "meta/info.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"was filmed by observation\.image, observation\.images\.wrist"):
        open_recording(str(tmp_path))


def test_the_spec_needs_none_of_the_libraries():
    code = ("import sys, fromnoise.recipe; from fromnoise.data.episodes import Episodes; Episodes(root='x'); "
            "print(*sys.modules)")
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"gymnasium", "pyarrow", "av", "ale_py", "minigrid", "minari", "pandas"} & set(loaded)


@pytest.mark.parametrize("actions", [Discrete(n=4), MultiBinary(n=3), Continuous(low=(-2.0,), high=(2.0,))])
def test_windows_go_on_over_restarts_where_the_world_ended_by_itself(tmp_path, actions):
    def drawn(i):
        return np.stack([actions.draw(np.random.default_rng(i)) for _ in range(5)]).astype(actions.dtype)

    ends = ["terminated", "terminated", "truncated", "terminated", "terminated"]  # runs of 3 and of 2 episodes
    Writer(tmp_path, actions, 7.5, "lossless", {"actions": to_dict(actions)}).append(
        [made(6, i, drawn(i), truncated=end == "truncated", terminated=end == "terminated", text="x")
         for i, end in enumerate(ends)])
    spec = Episodes(root=str(tmp_path), frames=8, height=16, width=24, held_out=0, restarts=True)
    source = spec.open("train")
    assert source.runs.tolist() == [[0, 18], [18, 30]]
    assert source.starts(range(len(source))).tolist() == [*range(11), *range(18, 23)]
    told, raw = source.actions(range(len(source))), torch.from_numpy(source.recorded.actions)
    for row, start in zip(told, source.starts(range(len(source))).tolist(), strict=True):
        within = [i for i in range(8) if i and (start + i) % 6 == 0]
        assert within
        for i in within:  # an action that there is, the same whichever window it is seen in
            assert actions.holds(row[i].numpy())
            assert np.array_equal(row[i].numpy(), source.restarted[(start + i) // 6])
        others = [i for i in range(8) if i not in within]
        assert torch.equal(row[others].nan_to_num(), raw[start : start + 8][others].nan_to_num())
    with pytest.raises(UserError, match="longest episode"):
        replace(spec, restarts=False).open("train")
    with pytest.raises(UserError, match="longest episode"):
        replace(spec, frames=19).open("train")


def test_a_held_out_episode_parts_the_runs_of_training(tmp_path):
    actions = Discrete(n=3)
    Writer(tmp_path, actions, 7.5, "lossless", {"actions": to_dict(actions)}).append(
        [made(6, i, np.zeros(5, np.int64), terminated=True, text="x") for i in range(10)])
    train, test = (Episodes(root=str(tmp_path), frames=6, height=16, width=24, held_out=0.2, restarts=True).open(split)
                   for split in ("train", "test"))
    rows = [set(np.concatenate([np.arange(*run) for run in source.runs]).tolist()) for source in (train, test)]
    assert not rows[0] & rows[1]
    assert len(rows[0]) == 48
    assert len(rows[1]) == 12
    assert len(train.runs) < 8
