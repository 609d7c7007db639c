"""Experts for intervals of noise: the composition against one denoiser, and what their training draws."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import refused
from test_train import tiny, weights_of

import fromnoise as fn
from fromnoise.analytic import ring
from fromnoise.cli import main
from fromnoise.denoise import classifier_free, experts
from fromnoise.denoise.experts import fill
from fromnoise.nets import UNet, house
from fromnoise.output import read_picture
from fromnoise.process import EDM, VP, Cosine, Flow, LogNormal, LogUniform, MinSNR, Mode, Objective, Uniform
from fromnoise.process.effective import raw_weighting
from fromnoise.recipe import Start, load_recipe
from fromnoise.sample import solve
from fromnoise.train import Hooks, train
from fromnoise.train.metrics import read_metrics
from fromnoise.types import Condition, UserError
from fromnoise.weights import load_weights


def test_the_exact_denoiser_cut_in_three_is_the_whole():
    mixture, path = ring(), Flow()
    exact = mixture.denoiser(path)
    calls = {name: [] for name in "abc"}

    def part(name):
        def denoise(x, t, condition):
            calls[name].append(float(t))
            return exact(x, t)
        return denoise

    cut = experts([(part("c"), 0.6, 1.0), (part("a"), 0.0, 0.25), (part("b"), 0.25, 0.6)])
    noise = torch.randn(16, 2, dtype=torch.float64)
    for solver in ("heun", "dpmpp_2m"):
        assert torch.equal(solve(lambda x, t: cut(x, t, Condition()), noise, path=path, solver=solver, steps=12),
                           solve(exact, noise, path=path, solver=solver, steps=12))
    assert min(calls["c"]) > 0.6 >= max(calls["b"]) > 0.25 >= max(calls["a"])
    assert max(calls["c"]) == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_frame_goes_to_its_expert(dtype):
    seen = []

    def part(number):
        def denoise(x, t, condition):
            seen.append((number, tuple(x.shape)))
            return torch.full_like(x, number)
        return denoise

    cut = experts([(part(0), 0.0, 0.2), (part(1), 0.2, 0.6), (part(2), 0.6, 1.0)])
    t = torch.tensor([[0.0, 0.2, 0.21], [0.6, 0.61, 1.0]], dtype=dtype)
    x = torch.randn(2, 3, 1, 4, 4, dtype=dtype)
    found = cut(x, t, Condition())
    assert torch.equal(found, torch.tensor([[0.0, 0, 1], [1, 2, 2]], dtype=dtype).view(2, 3, 1, 1, 1).expand_as(x))
    assert sorted(seen) == [(i, x.shape) for i in range(3)]  # frames see each other, so every expert sees all of x
    seen.clear()
    cut(x, torch.tensor(0.6, dtype=dtype), Condition())
    cut(x, torch.full((1, 3), 0.7, dtype=dtype), Condition())
    assert [number for number, _ in seen] == [1, 2]


def test_guidance_composes_with_experts():
    mixture, path = ring(), Flow()
    told = {name: mixture.denoiser(path, label) for name, label in (("c", 2), ("u", None))}

    def denoise(x, t, condition):
        return torch.where(condition.numbers == 1, told["c"](x, t), told["u"](x, t))

    x = torch.randn(5, 2, dtype=torch.float64)
    c, u = (Condition(numbers=torch.full((5, 1), float(i))) for i in (1, 0))
    cut = experts([(denoise, 0.0, 0.5), (denoise, 0.5, 1.0)])
    for t in (0.3, 0.5, 0.8):
        at = torch.tensor(t, dtype=torch.float64)
        assert torch.equal(classifier_free(cut, u, 3.0)(x, at, c), classifier_free(denoise, u, 3.0)(x, at, c))


@pytest.mark.parametrize(("intervals", "words"), [
    ([(0, 0.4), (0.5, 1)], "no expert for the times from 0.4 to 0.5"),
    ([(0.1, 1)], "no expert for the times from 0 to 0.1"),
    ([(0, 0.6), (0.5, 1)], "for the times from 0.5 to 0.6: their intervals may not overlap"),
    ([(0, 0.9)], "must end at 1"),
    ([(0, 0.5), (0.5, 0.5), (0.5, 1)], "from a smaller to a larger"),
])
def test_intervals_that_do_not_fit(intervals, words):
    with pytest.raises(UserError, match=re.escape(words)):
        experts([(lambda x, t, condition: x, *ends) for ends in intervals])


def test_what_experts_leave_over():
    assert fill([(0.6, 1.0)]) == [(0.0, 0.6)]
    assert fill([(0.6, 0.8), (0.0, 0.2)]) == [(0.2, 0.6), (0.8, 1.0)]
    assert fill([(0.0, 0.5), (0.5, 1.0)]) == []


# ---- training one -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [Flow(), Cosine(), VP(), EDM()], ids=lambda p: p.kind)
@pytest.mark.parametrize("law", [Uniform(), LogNormal(mean=0.3, std=1.3), Mode(scale=1.29),
                                 LogUniform(low=-14, high=14)], ids=str)
def test_a_cut_law_is_the_law_inside_and_nothing_outside(law, path):
    whole, cut = Objective(times=law, shift=1.5), Objective(times=law, shift=1.5, between=(0.3, 0.7))
    u = torch.linspace(0, 1, 201, dtype=torch.float64)
    t = cut.law.times(u, path)
    assert float(t.min()) >= 0.3
    assert float(t.max()) <= 0.7
    torch.testing.assert_close(cut.law.quantile_of(t, path), u, atol=1e-6, rtol=0)
    ends = path.logsnr(torch.tensor([0.7, 0.3], dtype=torch.float64))
    grid = torch.linspace(float(ends[0]), float(ends[1]), 4001, dtype=torch.float64)[1:-1]
    at = path.time(grid)
    assert float(torch.trapezoid(cut.law.density(at, path), grid)) == pytest.approx(1, abs=2e-3)
    ratio = cut.law.density(at, path) / whole.law.density(at, path)
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-6, atol=0)
    outside = torch.tensor([0.1, 0.29, 0.71, 0.99], dtype=torch.float64)
    assert not cut.law.density(outside, path).any()


def test_weighting_of_a_cut_objective_is_that_of_the_whole_inside():
    """A named weighting, as a function of log-SNR, does not depend on how often times are drawn."""
    lambdas = torch.linspace(-3, 3, 61, dtype=torch.float64)
    t = Flow().time(lambdas)
    inside = (t >= 0.3) & (t <= 0.7)
    whole, cut = (raw_weighting(Objective(weighting=MinSNR(), max_weight=1e30, between=between), Flow(), lambdas)
                  for between in ((0.0, 1.0), (0.3, 0.7)))
    torch.testing.assert_close(cut[inside], whole[inside])
    assert not cut[~inside].any()


def test_an_interval_that_a_law_never_visits_is_refused():
    with pytest.raises(UserError, match="draws no times"):
        Objective(times=LogUniform(low=-4, high=4), between=(0.0, 0.01)).draw_times(4, Flow(), torch.Generator())


# ---- a run and its branches -------------------------------------------------------------------------------


def branch(base, **fields):
    """The recipe of an expert that begins as ``base``."""
    recipe = tiny(start=Start(run=str(base)))
    return replace(recipe, objective=replace(recipe.objective, between=(0.5, 1.0)), **fields)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "base"
    train(replace(tiny(), seed=3), folder)
    return folder


@pytest.fixture(scope="module")
def expert(base):
    train(branch(base), base.parent / "expert")
    return base.parent / "expert"


def test_an_expert_begins_with_the_weights_of_its_base(base, tmp_path):
    begun = []
    recipe = branch(base)
    train(recipe, tmp_path / "run", Hooks(started=lambda system, step: begun.append(
        {name: value.clone() for name, value in system.state_dict().items()})))
    weights, tokenizer, _, _ = load_weights(base)
    assert all(torch.equal(begun[0][name], value) for name, value in weights.items())
    assert load_weights(tmp_path / "run")[1] == tokenizer
    said = load_recipe(tmp_path / "run" / "recipe.json")
    assert len(said.train.start.sha256) == 64
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) > 0
    assert any(not torch.equal(value, weights[name]) for name, value in load_weights(tmp_path / "run")[0].items())


def test_a_run_goes_on_without_the_base_that_it_began_with(base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    recipe = branch(tmp_path / "base")
    for name in ("whole", "run"):
        train(recipe, tmp_path / name)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000012")
    shutil.rmtree(tmp_path / "base")
    train(recipe, tmp_path / "run")
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")
    with pytest.raises(UserError, match="is not a run folder"):
        train(recipe, tmp_path / "new")


def test_bases_that_cannot_be_begun_with(base, tmp_path):
    with pytest.raises(UserError, match="whose network is another"):
        train(branch(base, net=UNet(width=16, multipliers=(1, 2))), tmp_path / "a")
    recipe = branch(base)
    recipe = replace(recipe, train=replace(recipe.train, start=Start(run=str(base), sha256="0" * 64)))
    with pytest.raises(UserError, match="are not those that the recipe was made with"):
        train(recipe, tmp_path / "b")
    assert not list(tmp_path.glob("*/recipe.json"))


def test_experts_that_are_the_run_itself_give_the_same_picture(base):
    model = fn.load(base)
    ask = {"prompts": ["the digit 3"] * 3, "guidance": 3.0, "steps": 6, "seed": 2}
    alone = model.sample(**ask)
    among = model.sample(**ask, experts=[(str(base), 0.6, 1.0), (str(base), 0.0, 0.25)])
    assert torch.equal(alone.media, among.media)
    assert among.settings.experts == [(str(base), 0.6, 1.0), (str(base), 0.0, 0.25)]


def test_each_time_is_answered_by_its_expert(base, tmp_path, monkeypatch):
    """Of another architecture, and with its own text encoder."""
    train(replace(tiny(), net=house(patch=4, width=24, depth=1)), tmp_path / "other")
    model = fn.load(base)
    other = model._other(str(tmp_path / "other"), "be an expert of", model.settings("the digit 3", seed=0))
    calls = []
    for name, one in (("own", model), ("other", other)):
        forward = one.system.denoiser.forward
        monkeypatch.setattr(one.system.denoiser, "forward", lambda x, t, c, name=name, forward=forward, **told: (
            calls.append((name, float(t))), forward(x, t, c, **told))[1])
    model.sample("the digit 3", guidance=2.0, steps=5, solver="euler", experts=[(str(tmp_path / "other"), 0.5, 1.0)])
    assert [name for name, _ in calls] == ["other" if t > 0.5 else "own" for _, t in calls]
    assert {name for name, _ in calls} == {"own", "other"}


def test_from_the_command_line(base, expert, tmp_path, capsys):
    first, again, all_of_it = (tmp_path / f"{name}.png" for name in ("first", "again", "all"))
    argv = ["sample", str(base), "3", "--n", "2", "--steps", "4"]
    assert main([*argv, "--expert", f"{expert}:0.5-1", "--expert", f"{base}:0-0.1", "--out", str(first)]) == 0
    assert read_picture(first)["settings"].experts == [(str(expert), 0.5, 1.0), (str(base), 0.0, 0.1)]
    assert main(["sample", "--like", str(first), "--out", str(again)]) == 0
    assert again.read_bytes() == first.read_bytes()
    assert main([*argv, "--expert", f"{expert}:0-1", "--out", str(all_of_it)]) == 0
    whole = fn.load(expert).sample(["3"] * 2, steps=4).save(tmp_path / "whole.png")
    assert np.array_equal(np.asarray(Image.open(all_of_it)), np.asarray(Image.open(whole)))
    for said, words in ((["--expert", f"{expert}:0.5-1", "--expert", f"{base}:0.4-0.6"], "may not overlap"),
                        (["--expert", str(expert)], "such as runs/noisy:0.6-1"),
                        (["--expert", f"{expert}:0.5-1.5"], "times from 0 to 1"),
                        (["--expert", f"{expert}:0.7-0.7"], "from a smaller to a larger"),
                        (["--expert", f"{expert}:0.9-0.1"], "from a smaller to a larger"),
                        (["--expert", f"{tmp_path}:0.5-1"], "is not a run folder")):
        assert words in refused(capsys, *argv, *said)


def test_an_interval_is_a_field(capsys):
    assert "should be two times in [0, 1]" in refused(capsys, "train", "digits", "--objective.between", "0.5", "0.2")
