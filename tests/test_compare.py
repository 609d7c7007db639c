"""Recipes side by side: equal size, equal work, means with errors, and runs that go on where they were stopped."""

import json
import math
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from fromnoise.cli import main
from fromnoise.compare import operations, resized, same_operations, same_parameters
from fromnoise.compare.match import given, ladders, size_of
from fromnoise.compare.outcome import Comparison, Outcome, summarise
from fromnoise.compare.runs import Job, run_jobs
from fromnoise.data.moving import Moving
from fromnoise.nets.count import count
from fromnoise.recipes import RECIPES
from fromnoise.recipes.presets import with_preset
from fromnoise.train.lock import locked
from fromnoise.types import UserError

TINY = ["--train.steps", "2", "--train.batch", "2", "--evaluate.samples", "20", "--sample.steps", "2",
        "--train.preview-every", "2"]


def preset(name):
    return with_preset(RECIPES["shapes"](), name)


@pytest.mark.parametrize("name", ["cross", "sd3", "flux1", "z_image", "lumina2", "uvit", "sana", "pixart"])
def test_networks_are_brought_to_the_same_size(name):
    found = same_parameters(preset(name), 1_000_000)
    assert abs(size_of(found).parameters / 1_000_000 - 1) < 0.05
    heads = abs(found.net.attention.heads - preset(name).net.attention.heads)
    assert heads <= (2 if name == "lumina2" else 1)  # whose 3 heads cannot share 2 of keys and values
    assert replace(found, net=preset(name).net) == preset(name)  # nothing but the network has changed


def test_a_u_net_comes_as_near_as_its_widths_allow():
    sizes = [size_of(replace(preset("sd1"), net=net)).parameters for net in ladders(preset("sd1").net)[0][:4]]
    target = round((sizes[1] + sizes[2]) / 2) - 1000
    assert size_of(same_parameters(preset("sd1"), target)).parameters == sizes[1]


@pytest.mark.parametrize("name", ["flux1", "lumina2", "uvit", "sd1"])
def test_a_network_at_its_own_width_is_itself(name):
    net = preset(name).net
    assert resized(net, net.width) == net


def test_work_is_matched_by_steps_and_counts_every_product_three_times():
    recipe = preset("cross")
    assert operations(recipe) == 3 * size_of(recipe).flops * recipe.train.batch * recipe.train.steps
    half = same_operations(recipe, operations(recipe) / 2)
    assert half.train.steps == recipe.train.steps // 2
    other = same_operations(preset("single"), operations(recipe))
    assert abs(operations(other) / operations(recipe) - 1) < 1 / other.train.steps


def test_steps_on_single_frames_cost_a_picture():
    film = replace(RECIPES["moving"](), data=Moving(frames=12))
    whole, mixed, alone = (operations(replace(film, train=replace(film.train, stills=share))) for share in (0, 0.5, 1))
    assert math.isclose(mixed, (whole + alone) / 2)
    net, to = film.net, given(film)
    picture = count(net, to.channels, to.size, to.text, to.words, to.pooled, 1)
    assert alone == 3 * picture.flops * film.train.batch * film.train.steps


def test_means_carry_their_standard_error():
    values = [0.2, 0.5, 0.65]
    found = summarise(values, ".1%")
    assert math.isclose(found.mean, statistics.mean(values))
    assert math.isclose(found.error, statistics.stdev(values) / math.sqrt(3))
    assert found.words() == "45.0% ± 13.2%"
    assert summarise([0.5], ".2f").words() == "0.50"


def test_the_table_puts_real_data_last():
    value = summarise([0.5, 0.7], ".0%")
    table = Comparison([Outcome("a", 10**6, 100, 1e12, 3.0, {"right": value})], {"right": 1.0}).markdown()
    assert table.splitlines()[2] == "| `a` | 1.00 M | 100 | 1.00e+12 | 3 | 60% ± 10% |"
    assert table.splitlines()[3].endswith("| 100% |")


@pytest.mark.long
def test_a_comparison_goes_on_where_it_was_stopped(tmp_path, capsys):
    out = tmp_path / "both"
    command = ["compare", "shapes", "base", "long: --train.steps 3", *TINY, "--net", "unet", "--net.width", "8",
               "--seeds", "1", "--jobs", "2", "--out", str(out)]
    assert main(command) == 0
    found = json.loads((out / "comparison.json").read_text())
    assert {one["name"]: one["steps"] for one in found["outcomes"]} == {"base": 2, "long": 3}  # its own options win
    assert all(len(one["measures"]["everything right"]["seeds"]) == 1 for one in found["outcomes"])
    page = (out / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "fromnoise compare shapes base" in page
    before = (out / "runs" / "base-0" / "model.safetensors").stat().st_mtime_ns
    (out / "runs" / "long-0" / "evaluation.json").unlink()
    capsys.readouterr()
    assert main(command) == 0
    said = capsys.readouterr().err
    assert "2 runs, 1 of them done" in said
    assert "long-0 done" in said
    assert "base-0 done" not in said
    assert (out / "runs" / "base-0" / "model.safetensors").stat().st_mtime_ns == before
    assert main([*command[:-2], "--train.lr", "1", "--out", str(out)]) == 2
    assert main([*command[:-2], "--seed", "5", "--net.width", "16", "--out", str(out)]) == 2
    assert "holds a run of another recipe" in capsys.readouterr().err


@pytest.mark.long
def test_a_run_that_fails_is_told_and_the_others_go_on(tmp_path):
    good = replace(RECIPES["digits"](), name="good")
    good = replace(good, train=replace(good.train, steps=1, batch=2, threads=1, preview_every=0),
                   evaluate=replace(good.evaluate, samples=20))
    bad = replace(good, name="bad", train=replace(good.train, device="cuda:7"))
    told = []
    jobs = [Job("bad", bad, tmp_path / "bad"), Job("good", good, tmp_path / "good")]
    failed = run_jobs(jobs, 2, lambda job, what: told.append((job.variant, what)))
    assert failed == [jobs[0]]
    assert jobs[1].report() is not None
    assert any(variant == "bad" and 'no device "cuda:7"' in what for variant, what in told)
    assert all(what.startswith(("started", "failed: fromnoise: ")) for variant, what in told if variant == "bad")


@pytest.mark.long
def test_a_comparison_that_is_terminated_leaves_no_run_behind(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "fromnoise", "compare", "shapes", "cross", "double", "--seeds", "1", "--jobs", "2",
               "--out", str(out), *TINY, "--train.steps", "100000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    logs = [out / "runs" / f"{name}-0.log" for name in ("cross", "double")]
    wait_for(lambda: all(log.exists() and "steps/s" in log.read_text() for log in logs))
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 130
    for name in ("cross", "double"):
        assert list((out / "runs" / f"{name}-0" / "checkpoints").iterdir())  # which a run writes when it is stopped
        with locked(out / "runs" / f"{name}-0"):  # and nobody trains there any more
            pass


def wait_for(so, seconds=120):
    end = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.parametrize(("arguments", "words"), [
    (["--seeds", "2"], "Name a recipe first"),
    (["shapes", "cross"], "two variants at least"),
    (["shapes", "cross", "cross"], "two variants called"),
    (["shapes", "cross", "crosss"], 'no preset "crosss"'),
    (["shapez", "cross", "double"], 'no recipe "shapez"'),
    (["shapes", "cross", "double", "--seeds", "0"], "--seeds should be a whole number"),
    (["shapes", "cross", "double", "--parameters", "many"], "--parameters should be a positive number"),
    (["shapes", "cross", "double", "--train.step", "4"], "--train.steps"),
])
def test_faults_are_one_sentence_before_anything_is_trained(arguments, words, tmp_path, capsys):
    assert main(["compare", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_of_another_recipe_is_refused(tmp_path):
    recipe = preset("cross")
    recipe.save(tmp_path / "run" / "recipe.json")
    with pytest.raises(UserError, match="another recipe"):
        Job("cross", replace(recipe, seed=3), tmp_path / "run").report()
