"""A world is an environment: what Gymnasium asks of one, seeds, moments, and rows that are single worlds."""

import warnings

import numpy as np
import pytest
from dot_world import ARROWS, SIDE, Dot, Kept

from fromnoise.data.episodes.actions import Continuous, MultiBinary
from fromnoise.types import UserError
from fromnoise.worlds.env import WorldEnv
from fromnoise.worlds.vector import WorldVectorEnv


def single(limit=0, **dot):
    return WorldEnv(Dot(**dot), Kept(), limit)


def several(rows, limit=0, **dot):
    return WorldVectorEnv(Dot(**dot), rows, Kept(), limit)


def dot_of(frame):
    """(x, y) of the dot."""
    y, x = np.unravel_index(frame.mean(-1).argmax(), frame.shape[:2])
    return int(x), int(y)


@pytest.mark.parametrize("actions", [ARROWS, MultiBinary(n=1), Continuous(low=(0.0,), high=(4.0,))],
                         ids=lambda a: a.kind)
def test_gymnasium_finds_nothing_wrong(actions):
    from gymnasium.utils.env_checker import check_env

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*spec.*")  # it was not made by its id
        warnings.filterwarnings("ignore", message=".*recommend using a symmetric and normalized.*")
        check_env(WorldEnv(Dot(actions=actions), Kept(actions)))


def test_the_action_is_in_the_very_next_frame():
    env = single()
    frame, _ = env.reset(seed=0)
    x, y = dot_of(frame)
    for action, (dx, dy) in enumerate(((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))):
        frame, *_ = env.step(action)
        x, y = x + dx, y + dy
        assert dot_of(frame) == (x, y)


def test_a_seed_settles_beginning_and_noise():
    def played(seed):
        env = single()
        return np.stack([env.reset(seed=seed)[0], *(env.step(a)[0] for a in (1, 4, 4)), env.reset()[0], env.step(0)[0]])

    assert np.array_equal(played(3), played(3))
    assert len({played(seed)[0].tobytes() for seed in range(8)}) == 3  # each of the beginnings
    assert len({played(seed).tobytes() for seed in range(8)}) == 8


def test_rewards_and_ends_are_what_is_foretold_and_the_limit_cuts():
    env = single(limit=30)
    env.reset(seed=0)
    rewards, ended, steps = 0.0, False, 0
    while not ended:
        _, reward, ended, cut, _ = env.step(1 if steps < 8 else 3)
        rewards, steps = rewards + reward, steps + 1
        assert not cut
    assert rewards > 0
    env.reset(seed=0)
    outcomes = [env.step(0)[2:4] for _ in range(30)]
    assert outcomes == [(False, False)] * 29 + [(False, True)]
    blind = single(heads=False)
    blind.reset(seed=0)
    assert all(blind.step(3)[1:3] == (0.0, False) for _ in range(9))


def test_a_moment_branches_and_comes_back():
    env = single()
    env.reset(seed=1)
    env.step(1)
    moment = env.save()

    def future(action):
        seen = [env.restore(moment), *(env.step(action)[0] for _ in range(3)), env.reset()[0]]
        return np.stack(seen)

    futures = [future(action) for action in range(5)]
    assert all(np.array_equal(seen, future(action)) for action, seen in enumerate(futures))
    assert len({seen.tobytes() for seen in futures}) == 5


def test_a_world_begins_from_any_real_frames():
    env = single()
    frames = np.zeros((3, SIDE, SIDE, 3), np.uint8)
    frames[:, 9, 7] = 255
    frame, _ = env.reset(seed=0, options={"frames": frames, "actions": [-1, 0, 4]})
    assert np.array_equal(frame, frames[-1])
    assert dot_of(env.step(4)[0]) == (8, 9)
    assert np.array_equal(env.reset(options={"frames": frames[:1]})[0], frames[0])


GOOD = np.zeros((2, SIDE, SIDE, 3), np.uint8)


@pytest.mark.parametrize(("options", "words"), [
    ({"frames": GOOD[:, :8]}, r"are \[T, 16, 16, 3\] \(got \[2, 8, 16, 3\]\)"),
    ({"frames": GOOD[0]}, r"are \[T, 16, 16, 3\]"),
    ({"frames": GOOD[:0]}, "at least one frame"),
    ({"frames": GOOD / 255}, r"from 0 to 255, uint8 \(got float64\)"),
    ({"frames": GOOD.astype(np.int32) + 300}, r"from 0 to 255, uint8 \(got int32\)"),
    ({"frames": GOOD, "actions": [0]}, r"need an action each, numbers \[2\]"),
    ({"frames": GOOD, "actions": [0, 7]}, "7.* is no action of this world: it takes an integer from 0 to 4"),
    ({"actions": [0, 1]}, "without the frames"),
    ({"frames": [GOOD[0], GOOD[0, :8]]}, r"are \[T, 16, 16, 3\]"),
    ({"frames": GOOD, "actions": [[0], [1, 2]]}, r"need an action each, numbers \[2\]"),
    (5, r'The options of reset are \{"frames"'),
    ({"frame": GOOD}, r'"frames" and "actions" \(got "frame"\)'),
])
def test_what_a_world_cannot_begin_from_is_told_in_a_sentence(options, words):
    env = single()
    with pytest.raises(UserError, match=words):
        env.reset(options=options)


@pytest.mark.parametrize("action", [5, -1, 2.5, "left", None, [0, 1], float("nan")])
def test_what_is_no_action_is_told_in_a_sentence(action):
    env = single()
    env.reset(seed=0)
    with pytest.raises(UserError, match="is no action of this world: it takes an integer from 0 to 4"):
        env.step(action)
    env.step(0)  # nothing is broken


@pytest.mark.parametrize("reset", [{"seed": 7}, {"seed": [7, 8, 9]}], ids=["counted", "listed"])
def test_a_row_is_the_world_of_its_seed(reset):
    """Also where it begins anew, one step later: ends differ between rows."""
    rng = np.random.default_rng(0)
    rows, alone = several(3, limit=9), [single(limit=9) for _ in range(3)]
    frames, _ = rows.reset(**reset)
    assert np.array_equal(frames, np.stack([env.reset(seed=7 + i)[0] for i, env in enumerate(alone)]))
    over, begun = [False] * 3, 0
    for _ in range(40):
        actions = rng.integers(5, size=3)
        frames, rewards, ended, cut, _ = rows.step(actions)
        for i, env in enumerate(alone):
            if over[i]:
                seen = (env.reset()[0], 0.0, False, False)
                begun += 1
            else:
                seen = env.step(int(actions[i]))[:4]
            assert np.array_equal(frames[i], seen[0])
            assert (rewards[i], ended[i], cut[i]) == seen[1:]
            over[i] = seen[2] or seen[3]
    assert begun > 6


def test_rows_come_back_to_a_moment():
    rows = several(2, limit=4)
    rows.reset(seed=0)
    rows.step([1, 2])
    moment = rows.save()
    future = [[part.copy() for part in rows.step([3, 4])[:4]] for _ in range(8)]
    rows.restore(moment)
    again = [rows.step([3, 4])[:4] for _ in range(8)]
    assert all(np.array_equal(a, b) for one, other in zip(future, again, strict=True)
               for a, b in zip(one, other, strict=True))


def test_rows_refuse_in_a_sentence():
    rows = several(2)
    with pytest.raises(UserError, match="2 worlds take a seed each"):
        rows.reset(seed=[1])
    with pytest.raises(UserError, match="has a row for each of 2 worlds"):
        rows.reset(options={"frames": GOOD[None]})
    rows.reset(seed=0)
    for actions in ([0], 0, None):
        with pytest.raises(UserError, match="take an action each"):
            rows.step(actions)
    with pytest.raises(UserError, match="is no action"):
        rows.step([0, 9])
    env = single()
    env.reset(seed=0)
    moment = env.save()
    with pytest.raises(UserError, match="This moment is of 1 worlds"):
        rows.restore(moment)
    with pytest.raises(UserError, match="of another world"):
        single(heads=False).restore(moment)
