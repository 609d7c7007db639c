"""Clips with given frames, judged: what true clips, late ones, frozen ones and altered ones must measure."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from test_train import tiny

from fromnoise.data.moving import Moving
from fromnoise.data.universe import parse_story
from fromnoise.evaluate.motion import astray
from fromnoise.evaluate.real import films
from fromnoise.evaluate.reconstruction import EXACT, psnr
from fromnoise.evaluate.tasks import rollout_of, task_rows, tasks_of
from fromnoise.generate import Model
from fromnoise.latents import CausalKL, Latents, Pixels
from fromnoise.nets import house
from fromnoise.process import Frames
from fromnoise.recipe import Evaluation, Recipe, without_effect
from fromnoise.recipes import moving
from fromnoise.showing.generated import evaluation_settings
from fromnoise.system import System
from fromnoise.text import Trained
from fromnoise.types import UserError
from fromnoise.workflow import judge

DATA = Moving(frames=12)
PIXELS, CAUSAL = Pixels(), CausalKL(channels=2, widths=(4, 8), halved=(True,), depth=1, groups=2)
SPANS = PIXELS.build(3).spans(12)
COUNT = 24


def truth(task, prompts):
    """The true clips of a task, which must be those of its captions."""
    media, said = films(replace(DATA, frames=task.frames).open("test"), COUNT)
    assert said == prompts
    return media


def rows(fill, tasks=None, data=DATA):
    return {row.name: row for row in task_rows(fill, data, tasks or tasks_of(SPANS), COUNT)}


def test_tasks_say_which_frames_are_given():
    found = {task.name: (task.given, task.beside) for task in tasks_of(SPANS)}
    assert found == {
        "first frame given": ((0,), [1]),
        "first and last given": ((0, 11), [1, 10]),
        "first half given": ((0, 1, 2, 3, 4, 5), [6]),
        "last half given": ((6, 7, 8, 9, 10, 11), [5]),
        "every second given": ((0, 2, 4, 6, 8, 10), [1, 3, 5, 7, 9, 11]),
    }


def test_frames_that_share_a_latent_are_given_together():
    spans = CAUSAL.build(3).spans(13)
    for task in tasks_of(spans):
        assert all(set(span) <= set(task.given) or not set(span) & set(task.given) for span in spans)
        assert task.rest
    assert tasks_of(spans)[-1].given == (0, 3, 4, 7, 8, 11, 12)
    assert rollout_of(spans, 25).given == (0, 1, 2, 3, 4, 5, 6)


def test_a_clip_of_which_a_task_gives_everything_is_not_asked_for():
    assert [task.name for task in tasks_of([range(0, 1), range(1, 3)])] == ["first frame given", "first half given",
                                                                            "last half given", "every second given"]


def test_true_clips_measure_what_is_right():
    found = rows(lambda prompts, given, task: truth(task, prompts))
    for task in tasks_of(SPANS):
        assert found[f"{task.name}: everything right"].value == found[f"{task.name}: steady things"].value == 1
        assert found[f"{task.name}: next to given frames, px off"].value == 0
        assert (f"{task.name}: PSNR, dB" in found) == task.settled
    assert found["first half given: all made frames, px off"].value == 0
    assert found["first half given: PSNR, dB"].value == EXACT
    assert found["given frames kept"].value == 1


def test_things_that_are_late_are_off_by_their_way():
    task = tasks_of(SPANS)[2]

    def late(prompts, given, task):
        media = truth(task, prompts)
        return torch.cat([media[:, :6], media[:, 5:-1]], dim=1)

    found, source = rows(late, [task]), DATA.open("test")
    chosen = [int(i) for i in np.linspace(0, len(source) - 1, COUNT)]
    (_, scenes), = source.scenes(chosen)
    at = scenes.paths.at(scenes.world.times)[:, 0] * 32  # [n, 2, T]
    way = np.hypot(*np.moveaxis(np.diff(at), 1, 0))
    assert found["first half given: next to given frames, px off"].value == pytest.approx(way[:, 5].mean(), abs=0.05)
    assert found["first half given: all made frames, px off"].value == pytest.approx(way[:, 5:].mean(), abs=0.05)
    assert found["given frames kept"].value == 1


def test_frozen_clips_are_as_far_away_as_the_nearest_given_frame():
    task = tasks_of(SPANS)[2]

    def frozen(prompts, given, task):
        return torch.cat([given.media, given.media[:, -1:].expand(-1, 6, -1, -1, -1)], dim=1)

    row = rows(frozen, [task])["first half given: PSNR, dB"]
    assert f"{row.value:.1f} with the nearest given" in row.note
    media = films(DATA.open("test"), COUNT)[0]
    held = media[:, 5:6].expand(-1, 6, -1, -1, -1)
    assert row.value == pytest.approx(float(psnr(held[None], media[None, :, 6:])))


def test_given_frames_that_come_back_altered_are_seen():
    def altered(prompts, given, task):
        media = truth(task, prompts).clone()
        media[: COUNT // 4, task.given[-1], 0, 0, 0] += 1e-6
        return media

    assert rows(altered)["given frames kept"].value == 0.75


def test_things_of_another_colour_are_not_seen():
    media, prompts = films(DATA.open("test"), 4)
    other = media.clone()
    other[:, 3] = -media[:, 3]
    away = astray(other, media, prompts)
    assert np.isinf(away[:, 3]).all()
    assert (np.delete(away, 3, 1) == 0).all()
    back = astray(media, other, prompts)
    assert np.isnan(back[:, 3]).all()
    assert all(len(parse_story(prompt).things) == 1 for prompt in prompts)


def test_laws_are_read_off_true_clips_of_fifty_frames():
    found = rows(lambda prompts, given, task: truth(task, prompts), [rollout_of(SPANS, 50)], DATA)
    for law, value in (("gravity", 1.0), ("restitution", 0.8)):
        row = found[f"rollout to 50 frames: {law}"]
        assert row.value == row.real == pytest.approx(value, rel=0.01)
        assert int(re.search(r"of (\d+) things", row.note)[1]) > COUNT
    assert found["rollout to 50 frames: everything right"].value == 1


def test_a_rollout_that_falls_too_fast_is_told_by_its_gravity():
    def heavy(prompts, given, task):
        return films(replace(DATA, frames=50, g=1.5).open("test"), COUNT)[0]

    found = rows(heavy, [rollout_of(SPANS, 50)], DATA)
    assert found["rollout to 50 frames: gravity"].value == pytest.approx(1.5, rel=0.02)
    assert found["rollout to 50 frames: gravity, error of a thing"].value == pytest.approx(0.5, abs=0.02)


def test_tasks_are_measured_where_frames_were_given_in_training():
    recipe = moving()
    assert without_effect(recipe)["evaluate.tasks"] == "training gives no frames (train.frames)"
    told = replace(recipe, train=replace(recipe.train, frames=Frames(first=0.5)))
    each = replace(recipe, train=replace(recipe.train, frames=Frames(clock="each")))
    longer = [replace(one, evaluate=Evaluation(rollout=50)) for one in (told, each)]
    assert not any({"evaluate.tasks", "evaluate.rollout"} & set(without_effect(one)) for one in longer)
    for choice, why in ((Evaluation(tasks=0, rollout=50), "evaluate.tasks is 0"),
                        (Evaluation(rollout=12), "a clip of training is no shorter")):
        assert without_effect(replace(told, evaluate=choice))["evaluate.rollout"] == why


def small(frames: Frames, evaluate: Evaluation, latents: Latents = PIXELS, length: int = 12) -> Model:
    recipe = tiny()
    assert isinstance(recipe, Recipe)
    data, patch = Moving(frames=length, height=16, width=16), 8 // latents.build(3).factor
    recipe = replace(recipe, name="moving", data=data, latents=latents, net=house(16, heads=2, depth=1, patch=patch),
                     text=Trained(width=16, depth=1, max_length=32), train=replace(recipe.train, frames=frames),
                     sample=replace(moving().sample, steps=2), evaluate=evaluate)
    return Model(System(recipe, recipe.text.learn_tokenizer(list(data.open("train").captions))))


def test_a_model_is_judged_by_its_tasks():
    model = small(Frames(prefix=0.5), Evaluation(samples=2, tasks=2, rollout=15))
    report = judge(model, Console(quiet=True))
    names = [row.name for row in report.rows]
    assert report["given frames kept"] == 1
    assert {"every second given: PSNR, dB", "rollout to 15 frames: everything right"} <= set(names)
    assert "2 clips of each task" in report.how


def test_a_model_of_latents_is_given_whole_groups():
    report = judge(small(Frames(every=0.5), Evaluation(samples=2, tasks=2, rollout=17), CAUSAL, 13),
                   Console(quiet=True))
    assert report["given frames kept"] == 1
    assert any(row.name == "rollout to 17 frames: PSNR, dB" for row in report.rows)


def test_a_rollout_that_a_latent_model_cannot_make_is_refused():
    with pytest.raises(UserError, match=r"18 frames does not fit.* 17 or 19"):
        judge(small(Frames(every=0.5), Evaluation(samples=2, tasks=2, rollout=18), CAUSAL, 13), Console(quiet=True))


def test_others_can_be_asked_for_than_the_recipe_says():
    model = small(Frames(prefix=0.5), Evaluation(samples=2))
    assert evaluation_settings(model)["tasks"] == 64
    settings = evaluation_settings(model, tasks=3, rollout=20)
    assert (settings["tasks"], settings["rollout"]) == (3, 20)
    assert not {"tasks", "rollout"} & evaluation_settings(model, tasks=0).keys()


def test_a_model_of_text_alone_has_no_tasks():
    model = small(Frames(), Evaluation(samples=2))
    with pytest.raises(UserError, match="--tasks 3 measures nothing of this run: training gives no frames"):
        evaluation_settings(model, tasks=3)
    assert not {"tasks", "rollout"} & evaluation_settings(model).keys()
    assert not any("given" in row.name for row in judge(model, Console(quiet=True)).rows)
