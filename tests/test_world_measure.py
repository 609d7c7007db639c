"""Measuring a world: what is perfect measures as perfect, and what is deaf or wears out is found out."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from dot_env import CHOICES, NUMBERS, Deaf, Fading, Perfect, Stuck
from safetensors.torch import load_file
from tiny_world import recipe_of, write_run

from fromnoise.cli import main
from fromnoise.data.episodes import Episodes, World, environment, open_recording
from fromnoise.data.episodes.actions import Continuous, Discrete, MultiBinary
from fromnoise.data.episodes.collect import collect
from fromnoise.data.episodes.play import Play
from fromnoise.evaluate.reconstruction import psnr
from fromnoise.types import UserError
from fromnoise.worlds.measure import Figure, Measured, Measuring, measure
from fromnoise.worlds.measure.branches import branched, draw, follow, played
from fromnoise.worlds.measure.control import differences
from fromnoise.worlds.measure.drift import span
from fromnoise.worlds.measure.inverse import Inverse, fit, kept, score, shuffled
from fromnoise.worlds.measure.lived import lived, look_at, stretches
from fromnoise.worlds.measure.page import write_page
from fromnoise.worlds.measure.report import interval
from fromnoise.worlds.measure.windows import following, recorded, rows_of, seen, windows

SMALL = Measuring(states=24, rollouts=4, frames=100, inverse=150)


def data_of(folder, **options):
    world = World(id="dot_env:Dot-v0", options=options, height=16, width=16)
    collect(Play(world=world), folder, count=12)
    return Episodes(root=str(folder), frames=6, height=16, width=16, held_out=0.25).resolved()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return data_of(tmp_path_factory.mktemp("dots") / "recording")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder that keeps one reader of actions for all."""
    return tmp_path_factory.mktemp("run")


# ---- worlds that are known ------------------------------------------------------------------------------------


def test_a_perfect_world_has_full_control_and_a_gain_and_does_not_wear_out(data, run):
    measured, shown = measure(Perfect(), data, run, SMALL)
    for where in ("recorded actions, next frame", "recorded actions, frames 2 to 16",
                  "cloned states, next frame", "cloned states, frames 2 to 5"):
        read, control = measured[f"actions read right, {where}"], measured[f"control, {where}"]
        assert read.real == read.value > 0.85  # at a wall going on cannot be told from standing still
        assert (control.value, control.low, control.high, control.met) == (1, 1, 1, True)
        assert read.null < 0.45
    for name in ("next frame", "frame 4"):
        gain = measured[f"counterfactual gain, {name}"]
        assert gain.met
        assert 0 < gain.low < gain.value < gain.high
        assert measured[f"PSNR, {'next frame' if name == 'next frame' else 'frame 4 of a free rollout'}"].value == 100
    assert measured["PSNR, next frame"].null < 50
    assert measured["stability: late over early"].value < 1.25
    assert torch.equal(shown.made, shown.moments.real)


def test_what_is_lived_on_is_what_was_recorded_and_begins_anew_at_its_end(data):
    held = data.open("test")
    rows = windows(held, 4, 3)
    first = held.recorded.offsets[held.recorded.offsets > rows[0, -1]][0] - 1  # the last row of the first episode
    count = int(first - rows[0, -1])
    seen_on = lived(held, data.world, rows[:1], count + 3, 0)
    assert torch.allclose(seen_on[0, :count], look_at(held, rows[0, -1] + 1 + np.arange(count)), atol=1e-5)
    assert seen_on.shape[1] == count + 3
    assert torch.equal(seen_on, lived(held, data.world, rows[:1], count + 3, 0))


def test_where_nothing_else_can_be_done_there_is_no_control(data, run):
    with pytest.raises(UserError, match="there is one action"):
        measure(Perfect(actions=Discrete(n=1)), data, run, SMALL)


def test_a_deaf_world_is_found_out(data, run):
    measured, _ = measure(Deaf(), data, run, SMALL)
    for name in ("next frame", "frame 4"):
        gain = measured[f"counterfactual gain, {name}"]
        assert abs(gain.value) < 1e-6
        assert not gain.met
    for name in ("next frame", "frames 2 to 5"):
        read = measured[f"actions read right, cloned states, {name}"]
        assert read.value < 0.35
        assert read.low < 0.25
        assert measured[f"control, cloned states, {name}"].met is False


def test_a_world_that_grows_pale_does_not_last(data, run):
    measured, _ = measure(Fading(), data, run, SMALL)
    stability = measured["stability: late over early"]
    assert stability.met is False
    assert stability.low > 1.25
    late, early = (measured[f"pixel variance, {when}"].value for when in ("late", "early"))
    assert late < 0.2 * early


def test_a_world_that_stops_is_seen_to_stand_still(data, run):
    measured, _ = measure(Stuck(), data, run, SMALL)
    assert measured["frames without movement, early"].value < 0.6
    assert measured["frames without movement, late"].value == 1
    assert measured["stability: late over early"].met is False


def test_numbers_are_judged_by_what_they_explain(tmp_path):
    data = data_of(tmp_path / "recording", numbers=True)
    measured, _ = measure(Perfect(actions=NUMBERS), data, tmp_path, replace(SMALL, inverse=200))
    read = measured["R² of actions read, cloned states, next frame"]
    assert read.real == read.value > 0.4  # at walls and after rounding less is seen than was done
    assert read.null < 0.1
    assert measured["control, cloned states, next frame"].value == 1


# ---- its parts ------------------------------------------------------------------------------------------------


def test_futures_are_those_of_the_environment(data):
    held = data.open("test")
    moments = branched(held, data.world, data.actions, 4, 3, count=5, branches=5)
    assert moments.real.shape == (5, 5, 3, 3, 16, 16)
    assert all(sorted(first) == [0, 1, 2, 3, 4] for first in moments.done[:, :, 0].tolist())
    # A moment is one of a held-out episode, bit for bit, and a future is the same played on from the start.
    rows = windows(held, 7, 10_000)
    films, acted = seen(held, rows[:, :4]), held.recorded.actions[rows[:, :4]]
    seeds, offsets = open_recording(data.root).about.seeds, held.recorded.offsets
    same = [np.flatnonzero((films == h).flatten(1).all(1).numpy() & (acted == a.numpy()).all(1))
            for h, a in zip(moments.history, moments.led, strict=True)]
    assert all(len(found) for found in same)
    at = rows[same[2][0], 3]
    episode = int(np.searchsorted(offsets, at, "right")) - 1
    screen = environment(data.world)
    for done, real in zip(moments.done[2], moments.real[2], strict=True):
        screen.reset(seed=seeds[episode])
        for action in held.recorded.actions[offsets[episode] + 1 : at + 1]:
            screen.step(int(action))
        again = [screen.step(int(action))[0] for action in done]
        assert torch.equal(torch.from_numpy(np.stack(again)).movedim(-1, 1) / 127.5 - 1, real)


def test_a_moment_of_which_a_future_ends_is_left_out(data):
    screen = environment(replace(data.world, limit=5))
    screen.reset(seed=0)
    spec, drawn = data, np.zeros((2, 3), np.int64)
    assert follow(screen, drawn, spec).shape == (2, 3, 16, 16, 3)
    screen.reset(seed=0)
    for _ in range(2):
        screen.step(0)
    assert follow(screen, drawn, spec) is None  # its last frame is the fifth
    assert played(screen, 0, np.zeros(5, np.int64), spec) is None
    assert played(screen, 0, np.zeros(4, np.int64), spec).shape == (5, 16, 16, 3)


def test_the_gain_is_the_difference_of_pairs():
    real, made = torch.rand(2, 3, 2, 3, 4, 4) * 2 - 1, torch.rand(2, 3, 2, 3, 4, 4) * 2 - 1
    found = differences(real, made)
    for s in range(2):
        for t in range(2):
            pairs = {(j, k): float(psnr(made[s, k, t][None], real[s, j, t][None])) for j in range(3) for k in range(3)}
            same = np.mean([value for (j, k), value in pairs.items() if j == k])
            other = np.mean([value for (j, k), value in pairs.items() if j != k])
            assert float(found[s, t]) == pytest.approx(same - other)


def test_an_interval_is_that_of_a_mean():
    values = np.random.default_rng(0).normal(3, 2, size=400)
    low, high = interval(lambda i: values[i].mean(), len(values), times=4000)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert interval(lambda i: values[i].mean(), len(values)) == interval(lambda i: values[i].mean(), len(values))


def test_windows_of_any_length_keep_to_the_split(data):
    held, train = data.open("test"), data.open("train")
    for length in (3, 6, 40, 61):
        rows = windows(held, length, 1000)
        assert not set(rows.ravel()) & set(rows_of(train, before=1))
        episode = np.searchsorted(held.recorded.offsets, rows, "right")
        assert (episode == episode[:, :1]).all()
    assert windows(held, 61, 1000).shape == (3, 61)
    assert (windows(held, 61, 1000)[:, 1:] == rows_of(held, before=1).reshape(3, 60)).all()
    with pytest.raises(UserError, match="has 62 frames"):
        windows(held, 62, 5)
    assert recorded(held, 4, 2, 7).real.shape == (7, 1, 2, 3, 16, 16)


def test_rollouts_are_told_what_was_recorded_next(data):
    held = data.open("test")
    every = rows_of(held, before=1)
    told = following(held, every[[58]], 200)[0].numpy()  # from two steps before the end of the first episode on
    assert (told == held.recorded.actions[np.concatenate([every[58:], every])][:200]).all()
    assert (told >= 0).all()
    assert span((0.05, 0.15), 1000) == slice(50, 150)
    assert span((0.9, 1.0), 1000) == slice(900, 1000)
    assert (np.diff(stretches(held, 1, 10, 0)[:, None], axis=0) >= 1).all()


@pytest.mark.parametrize(("known", "read", "told", "wanted"), [
    (Discrete(n=3), [0, 1, 2, 2], [0, 1, 1, 2], 0.75),
    (MultiBinary(n=2), [[0.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 1.0]], 0.75),
    (Continuous(low=(0.0,), high=(4.0,)), [[1.0], [2.0], [3.0]], [[1.0], [2.0], [3.0]], 1.0),
    (Continuous(low=(0.0,), high=(4.0,)), [[2.0], [2.0], [2.0]], [[1.0], [2.0], [3.0]], 0.0),
])
def test_scores(known, read, told, wanted):
    assert score(known, torch.tensor(read), torch.tensor(told)) == pytest.approx(wanted)


def test_each_kind_of_action_is_read_in_its_own_form():
    frames = torch.rand(5, 3, 3, 16, 16) * 2 - 1
    for known, shape in ((CHOICES, (5,)), (MultiBinary(n=2), (5, 2)), (NUMBERS, (5, 2))):
        read = Inverse(known, 16, 16).read(frames)
        assert read.shape == shape
        assert all(known.holds(action) for action in read.numpy())
    actions = torch.arange(12).view(3, 4)
    assert sorted(shuffled(actions, 2).flatten().tolist()) == list(range(12))


def test_a_reader_is_fitted_once_and_made_again_where_it_is_damaged(data, tmp_path):
    train, steps = data.open("train"), []
    first = kept(data.actions, train, 3, tmp_path, steps.append)
    assert steps == [1, 2, 3]
    again = kept(data.actions, train, 3, tmp_path, steps.append)
    assert len(steps) == 3
    for name, tensor in load_file(tmp_path / "inverse.safetensors").items():
        assert torch.equal(again.net.state_dict()[name], tensor)
        assert torch.equal(first.net.state_dict()[name], tensor)
        assert torch.equal(fit(data.actions, train, 3).net.state_dict()[name], tensor)
    kept(data.actions, train, 4, tmp_path, steps.append)
    assert len(steps) == 7
    (tmp_path / "inverse.safetensors").write_bytes(b"nothing")
    kept(data.actions, train, 4, tmp_path, steps.append)
    assert len(steps) == 11


def test_futures_of_numbers_are_drawn():
    drawn = draw(NUMBERS, 3, 4, np.random.default_rng(0))
    assert drawn.shape == (3, 4, 2)
    assert draw(Discrete(n=2), 4, 3, np.random.default_rng(0)).shape == (2, 3)


# ---- what a person sees ---------------------------------------------------------------------------------------


def test_a_recording_without_its_environment_is_measured_all_the_same(data, run, tmp_path):
    few = replace(SMALL, states=4, rollouts=2, frames=20)
    measured, shown = measure(Perfect(), replace(data, world=None), run, few)
    assert "does not name its environment" in measured.note
    assert not [figure for figure in measured.figures if "cloned" in figure.name or "counter" in figure.name]
    page = write_page(tmp_path, measured, shown)
    text = page.read_text(encoding="utf-8")
    assert "control, recorded actions, next frame" in text
    assert text.count("data:image/png;base64,") == 2
    assert Measured.from_dict(json.loads((page.parent / "measures.json").read_text())) == measured
    assert (page.parent / "rollouts.png").is_file()
    with pytest.raises(UserError, match="told no actions"):
        measure(replace(Perfect(), actions=None), data, run, SMALL)


def test_figures_are_printed_alike():
    figure = Figure("control", 0.951, 0.9, 1.0, 1.0, 0.2, ".1%", "at least 90%", True)
    assert figure.words() == ("95.1%", "90.0% to 100.0%", "100.0%", "20.0%", "at least 90%: yes")
    assert Figure("drift", 1.5).words() == ("1.50", "", "", "", "")


def test_a_run_is_measured_by_the_command(tmp_path, capsys):
    recording = data_of(tmp_path / "recording")
    run = write_run(replace(recipe_of(tmp_path / "recording"), data=recording), tmp_path / "run")
    moved = (tmp_path / "recording").rename(tmp_path / "moved")
    command = ["worlds", "measure", str(run), "--states", "2", "--rollouts", "2", "--frames", "20", "--inverse", "2"]
    assert main(command) == 2
    assert f"no folder {recording.root}" in capsys.readouterr().err
    assert main([*command, "--data.root", str(moved)]) == 0
    said = capsys.readouterr().out
    assert "counterfactual gain, next frame" in said
    assert "stability: late over early" in said
    assert (run / "measured" / "index.html").is_file()
    assert main(["worlds", "measure"]) == 2
    assert "Name a run folder" in capsys.readouterr().err
