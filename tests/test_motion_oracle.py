"""The oracle over time: what it must read, what it must not believe, and the judge that asks it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from test_train import tiny

from fromnoise.data.moving import Moving
from fromnoise.data.universe import (
    ACTIONS,
    Action,
    World,
    parse_story,
    read,
    render,
    sample_motion,
    score_motion,
    stories,
    tells,
    watch,
)
from fromnoise.data.universe.actions import walls
from fromnoise.data.universe.motion import paths
from fromnoise.data.universe.motion_fit import fit_paths
from fromnoise.data.universe.motion_oracle import action_of
from fromnoise.evaluate import evaluate
from fromnoise.evaluate.judges import judge_of
from fromnoise.nets import house
from fromnoise.recipe import Evaluation, Recipe
from fromnoise.text import Trained
from fromnoise.workflow import train_run

FPS = 8.0
WORLD = World(1.0, 0.5, 0.8, 1.0, 1.0, np.arange(16) / FPS)


def clips(count, objects, world=WORLD, size=(32, 32), moving_only=False):
    """(scenes, media, captions), without clips in which nothing moves where asked for."""
    moving = sample_motion(range(count), objects, False, world)
    media, captions = moving.render(*size), [str(story) for story in stories(moving)]
    if moving_only:
        rows = np.flatnonzero((moving.action != 0).any(1))
        media, captions = media[rows], [captions[i] for i in rows]
    return moving, media, captions


# ---- fits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("g", "e"), [(0.5, 0.8), (1.0, 0.5), (1.0, 1.0), (2.5, 0.8), (4.0, 0.9)])
def test_fits_find_the_laws(g, e):
    """Of paths read with errors of a thirtieth of a pixel, gravity and restitution within their standard errors."""
    world = replace(WORLD, gravity=g, restitution=e, heavy=1.0)
    moving = sample_motion(range(300), 1, False, world)
    low, high = (x[:, 0, 1] for x in walls(moving.scenes.shape, moving.scenes.size, 1, 1))
    y = moving.paths.at(world.times)[:, 0, 1]
    noisy = y + 0.001 * np.random.default_rng(0).standard_normal(y.shape)
    seen = np.random.default_rng(1).random(y.shape) < 0.8
    seen[:, :3] = seen[:, -3:] = True
    fit = fit_paths(world.times, noisy, seen, low, high, True)
    moves = np.ptp(y, axis=1) > 0.05
    assert np.abs(fit.residual[moves]).max() < 0.006
    assert (fit.residual[~seen] == 0).all()
    off = (fit.acceleration[moves] - g) / fit.acceleration_error[moves]
    assert abs(np.median(fit.acceleration[moves]) / g - 1) < 0.01
    assert 0.7 < off.std() < 1.8
    first = moving.paths.start[:, 0, 1, 1]
    bounced = moves & (first < 1.7) & ((first[:, None] > world.times) & seen).any(1)
    off = (fit.restitution[bounced] - e) / fit.restitution_error[bounced]
    assert abs(np.median(fit.restitution[bounced]) / e - 1) < 0.01
    assert 0.7 < off.std() < 1.8


def test_a_fit_gives_no_acceleration_that_is_not_there():
    """Straight paths with bounces and errors of a tenth of a pixel."""
    random = np.random.default_rng(0)
    speed = random.uniform(0.12, 0.6, 200) * random.choice([-1, 1], 200)
    exact = paths(random.uniform(0.2, 0.8, 200), speed, 0.0, 0.1, 0.9, 0.8, 2.0).at(WORLD.times)
    noisy = exact + 0.003 * random.standard_normal(exact.shape)
    fit = fit_paths(WORLD.times, noisy, np.ones(exact.shape, bool), np.full(200, 0.1), np.full(200, 0.9), True)
    assert (np.abs(fit.acceleration) < 1e-9).mean() >= 0.98
    np.testing.assert_allclose(np.median(np.abs(fit.velocity - speed)), 0, atol=0.01)


@pytest.mark.parametrize(("vx", "vy", "g", "action"), [
    (0.2, 0.0, 0.0, Action("moves", "right", "slowly")), (0.3, -0.3, 0.0, Action("moves", "up right", "quickly")),
    (-0.1, 0.1, 0.0, Action("moves", "down left", "slowly")), (0.0, 0.5, 0.0, Action("moves", "down", "quickly")),
    (0.01, 0.0, 0.0, Action("stays")), (0.0, 0.0, 1.0, Action("falls")), (-0.2, 0.02, 1.0, Action("falls", "left")),
    (0.2, -0.8, 1.0, Action("jumps", "right")), (0.0, 0.8, 1.0, None), (0.0, 0.0, -1.0, None)])
def test_what_a_motion_is_called(vx, vy, g, action):
    assert action_of(vx, vy, g) == action


# ---- what it must read -----------------------------------------------------------------------------------


@pytest.mark.parametrize("objects", [1, 2])
def test_it_reads_its_own_renders(objects):
    moving, media, captions = clips(200, objects)
    watched = watch(media, FPS)
    scores = score_motion(watched, captions)
    assert scores["all_correct"] >= 0.995
    assert scores["unclear"] == 0
    gravity = [m.gravity[0] for w in watched for m in w.objects if m.gravity]
    bounced = [m.restitution[0] for w in watched for m in w.objects if m.restitution]
    np.testing.assert_allclose(np.quantile(gravity, [0.02, 0.5, 0.98]), 1.0, rtol=0.02)
    np.testing.assert_allclose(np.quantile(bounced, [0.02, 0.5, 0.98]), 0.8, rtol=0.02)
    for i, clip in enumerate(watched):
        for m in clip.objects:
            k = [clause.thing for clause in parse_story(captions[i]).clauses].index(m.thing)
            np.testing.assert_allclose(m.velocity, moving.scenes.velocity[i, k], atol=0.02)
            first = moving.paths.start[i, k, :, 1].min() if moving.bounces[i, k] else np.inf
            assert bool(m.bounces) == np.isfinite(first)
            if m.bounces:
                assert abs(m.bounces[0].time - first) < 0.02
                axis = moving.paths.start[i, k, :, 1].argmin()
                side = int(moving.paths.wall[i, k, axis, 1] > 0)
                assert m.bounces[0].wall == (("left wall", "right wall"), ("ceiling", "floor"))[axis][side]


@pytest.mark.parametrize(("world", "size"), [
    (replace(WORLD, times=np.arange(24) / 16), (32, 32)), (replace(WORLD, times=np.arange(12) / 8), (24, 24)),
    (replace(WORLD, width=1.5), (32, 48)), (replace(WORLD, gravity=3.0, restitution=0.6), (32, 32)),
    (replace(WORLD, times=np.arange(40) / 8, restitution=1.0), (32, 32))], ids=["fps", "short", "wide", "laws", "long"])
def test_it_reads_other_worlds(world, size):
    _, media, captions = clips(30, 2, world, size)
    assert score_motion(watch(media, 1 / world.times[1]), captions)["all_correct"] >= 0.96


def test_it_bears_mild_damage():
    moving, media, captions = clips(80, 1)
    noise = torch.randn(media.shape, generator=torch.Generator().manual_seed(0))
    assert score_motion(watch(media + 0.08 * noise, FPS), captions)["all_correct"] >= 0.98
    frames = moving.frames()  # every frame a sixth of a pixel off
    jitter = 0.005 * np.random.default_rng(0).standard_normal(frames.position.shape)
    shaken = render(replace(frames, position=frames.position + jitter))[:, 0].unflatten(0, media.shape[:2])
    assert score_motion(watch(shaken, FPS), captions)["all_correct"] >= 0.96
    blank = media.clone()
    blank[:, [5, 11]] = 0  # two frames of sixteen that cannot be read
    assert score_motion(watch(blank, FPS), captions)["all_correct"] >= 0.98
    blank[:, 8] = 0
    assert score_motion(watch(blank, FPS), captions)["steady"] == 0


def test_things_may_hide_each_other():
    """Frames in which they do cannot be read, and are excused there and nowhere else."""
    _, media, captions = clips(60, 2)
    unread = np.array([bool(r.unclear) for r in read(media.flatten(0, 1)[:, None])]).reshape(60, 16)
    rows = np.flatnonzero(unread.any(1))
    assert len(rows) >= 3
    hidden, told = media[rows], [captions[i] for i in rows]
    assert all(tells(clip, caption) for clip, caption in zip(watch(hidden, FPS), told, strict=True))
    moved = media[rows].clone()  # the same unreadable frames, three of them, where nothing hides
    moved[:, :3] = torch.stack([media[i, unread[i]][:1] for i in rows])
    assert not any(clip.steady for clip in watch(moved, FPS))


# ---- what it must not believe ----------------------------------------------------------------------------


def mirrored(moving):
    """The same scenes turned by half a turn."""
    p = moving.paths
    turned = replace(p, position=1 - p.position, velocity=-p.velocity, acceleration=-p.acceleration)
    return replace(moving, paths=turned)


def recoloured(moving):
    return replace(moving, scenes=replace(moving.scenes, color=(moving.scenes.color + 1) % 6))


@pytest.mark.parametrize("objects", [1, 2])
def test_it_believes_no_corrupted_clip(objects):
    moving, media, captions = clips(30, objects)
    other, elsewhere = recoloured(moving).render(), mirrored(moving).render()
    rows = np.flatnonzero((moving.action != 0).any(1))
    media, other, elsewhere, captions = media[rows], other[rows], elsewhere[rows], [captions[i] for i in rows]
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    changing, jumping = (torch.cat([media[:, :8], x[:, 8:]], 1) for x in (other, elsewhere))
    flash = media.clone()
    flash[:, 1] = other[:, 1]
    cases = {"frozen": (media[:, :1].expand_as(media), "verb"), "shuffled": (media[:, order], "smooth"),
             "colour": (changing, "steady"), "flash": (flash, "steady"), "teleport": (jumping, "smooth"),
             "another clip": (media.roll(1, 0), "kinds"), "noise": (torch.randn_like(media), "unclear")}
    for name, (corrupt, sign) in cases.items():
        scores = score_motion(watch(corrupt.clamp(-1, 1), FPS), captions)
        assert scores["all_correct"] <= 0.03, name
        assert scores[sign] >= 0.98 if sign == "unclear" else scores[sign] <= 0.05, name
    assert score_motion(watch(media, FPS), captions)["all_correct"] >= 0.98


def test_it_knows_forward_from_backward():
    """A clip reversed is another story, but for a jump that comes down as it went up, which is true of both."""
    _, media, captions = clips(100, 1, moving_only=True)
    watched = watch(media.flip(1), FPS)
    told = [caption for clip, caption in zip(watched, captions, strict=True) if tells(clip, caption)]
    assert all(parse_story(caption).clauses[0].action == Action("jumps") for caption in told)
    assert not any(parse_story(caption).clauses[0].bounces for caption in told)
    gained = [m.restitution[0] for w in watched for m in w.objects if m.restitution and not w.smooth]
    assert len(gained) > 15
    np.testing.assert_allclose(np.median(gained), 1 / 0.8, rtol=0.05)


def test_it_is_not_fooled_by_one_word():
    """A clip agrees with its own caption and with none in which one thing is said otherwise."""
    _, media, captions = clips(40, 2)
    for clip, caption in zip(watch(media, FPS), captions, strict=True):
        story = parse_story(caption)
        assert tells(clip, caption)
        assert tells(clip, replace(story, clauses=story.clauses[::-1]))
        assert not tells(clip, replace(story, clauses=story.clauses[:1]))
        first, second = story.clauses
        for action in ACTIONS:
            if action != first.action:
                assert not tells(clip, replace(story, clauses=(replace(first, action=action), second)))
        assert not tells(clip, replace(story, clauses=(replace(first, bounces=not first.bounces), second)))
        size = "small" if first.thing.size == "large" else "large"
        assert not tells(clip, replace(story, clauses=(replace(first, thing=replace(first.thing, size=size)), second)))


def test_scores_say_which_part_is_wrong():
    _, media, captions = clips(40, 1, replace(WORLD, heavy=0.0), moving_only=True)
    other = {"slowly": "quickly", "quickly": "slowly"}
    wrong = [" ".join(other.get(word, word) for word in caption.split()) for caption in captions]
    scores = score_motion(watch(media, FPS), wrong)
    assert scores["speed"] == scores["all_correct"] == 0
    assert scores["direction"] == scores["verb"] == scores["bounce"] == scores["kinds"] == 1
    assert score_motion([], []) == dict.fromkeys(scores, 0)


def test_nothing_and_twins_cannot_be_followed():
    _, media, _ = clips(4, 1)
    empty = watch(torch.zeros(2, 16, 3, 32, 32), FPS)
    assert all("too few frames" in (w.unclear or "") for w in empty)
    twins = watch(torch.cat([media, media], -1), FPS)
    assert all(w.unclear == "two things of one kind" for w in twins)
    assert watch(media[:0], FPS) == []


# ---- the judge -------------------------------------------------------------------------------------------


def test_the_judge_on_true_and_false_clips():
    data = Moving(objects=2, fewest=1, frames=12)
    source = data.open("test")

    def truth(prompts, seed):
        return source.batch(range(len(prompts)), range(len(prompts))).media

    report = evaluate(truth, data, count=16)
    assert report["everything right"] == report["everything right, 1 object"] == 1
    assert report["steady things"] == report["smooth paths"] == 1
    assert report["gravity"] == pytest.approx(1.0, rel=0.01)
    assert report["restitution"] == pytest.approx(0.8, rel=0.01)
    assert report["gravity, error of a thing"] < 0.01
    assert all(row.value == row.real for row in report.rows if row.format == ".1%")
    still = evaluate(lambda p, s: truth(p, s)[:, :1].expand(-1, 12, -1, -1, -1), data, count=16)
    assert still["everything right"] < 0.2
    assert still["things"] == 1
    assert not any(row.name in ("gravity", "restitution") for row in still.rows)
    fast = evaluate(truth, replace(data, fps=9.0), count=16)  # as if filmed faster: gravity seems stronger
    assert fast["gravity"] == pytest.approx((9 / 8) ** 2, rel=0.01)


def test_the_judge_knows_the_things_of_single_frames():
    judge = judge_of(Moving(frames=12))
    frames, captions = judge.known(12)
    assert frames.shape == (12, 3, 32, 32)
    assert judge.verdicts(frames[:, None], captions)[0].value == 1
    assert judge.verdicts(frames.roll(1, 0)[:, None], captions)[0].value < 0.5


def test_laws_that_do_not_act_have_no_row():
    data = Moving(gravity="off", frames=12)
    rows = evaluate(lambda p, s: data.open("test").batch(range(len(p)), range(len(p))).media, data, count=12).rows
    assert not any(row.name.startswith("gravity") for row in rows)
    assert any(row.name == "restitution" for row in rows)


@pytest.mark.long
def test_a_model_of_clips_is_trained_and_judged(tmp_path: Path):
    recipe = tiny(steps=3, preview_every=0)
    assert isinstance(recipe, Recipe)
    recipe = replace(recipe, name="moving", data=Moving(frames=12, height=16, width=16), net=house(width=16, heads=2,
                     depth=1, patch=8), text=Trained(width=16, depth=1, max_length=32), evaluate=Evaluation(samples=4))
    showcase = train_run(recipe, tmp_path / "run", "fromnoise train moving", Console(quiet=True))
    assert showcase.grid is not None
    assert showcase.report is not None
    assert showcase.grid.shape[2:] == (12, 3, 16, 16)
    assert showcase.report["everything right"] == 0
    assert {"unclear clips", "steady things", "bounces"} <= {row.name for row in showcase.report.rows}
