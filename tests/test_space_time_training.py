"""Image runs inflated to films from the command line and in Python: what begins, what moves, and what is refused."""

import shutil
from dataclasses import replace

import pytest
import torch
from test_cli import refused
from test_train import tiny, weights_of

from fromnoise.cli import main
from fromnoise.nets import UNet, house
from fromnoise.nets.trunk.settings import Temporal
from fromnoise.nets.unet import TemporalLevels
from fromnoise.recipe import Start, load_recipe, without_effect
from fromnoise.system import TEMPORAL, load_system
from fromnoise.train import Hooks, train
from fromnoise.train.checkpoint import load_checkpoint
from fromnoise.weights import load_weights

NETS = {"unet": UNet(width=8, multipliers=(1, 2)), "trunk": house(32, 2, 2, 4)}
ALONG = {"unet": TemporalLevels(levels=(1,), kernel=3), "trunk": Temporal(every=2)}


def film(base, name, only="temporal", **changes):
    recipe = tiny(start=Start(run=str(base)), only=only, **changes)
    return replace(recipe, net=replace(NETS[name], temporal=ALONG[name]))


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, net in NETS.items():
        train(replace(tiny(), net=net, seed=3), folder / name)
    return folder


@pytest.mark.parametrize("name", NETS)
def test_an_inflated_run_begins_as_its_image_model_and_moves_the_layers_along_time_alone(bases, tmp_path, name):
    begun = []
    image = load_system(bases / name, "cpu")[0].eval()
    torch.manual_seed(0)
    x, t = torch.randn(2, 3, 1, 16, 16), torch.rand(2, 3)
    told = image.text.encode(["three", "a handwritten seven"])

    def look(system, step):
        with torch.no_grad():
            begun.append((system.denoiser(x, t, told), dict(system.learned()), {
                key: value.clone() for key, value in system.state_dict().items()}))

    train(film(bases / name, name), tmp_path / "run", Hooks(started=look))
    said, learned, first = begun[0]
    with torch.no_grad():
        apart = torch.cat([image.denoiser(x[:, i : i + 1], t[:, i : i + 1], told) for i in range(3)], dim=1)
    torch.testing.assert_close(said, apart, rtol=1e-5, atol=1e-6)
    assert learned
    assert all(key.startswith(TEMPORAL) for key in learned)
    last, source = load_weights(tmp_path / "run")[0], load_weights(bases / name)[0]
    assert all(torch.equal(last[key], value) for key, value in source.items())
    moved = [key for key in learned if not torch.equal(last[key], first[key])]
    assert any(key.endswith("heads.out.weight") for key in moved)
    ema = load_checkpoint(tmp_path / "run" / "checkpoints").tensors["ema"]
    assert ema.keys() == learned.keys()


@pytest.mark.parametrize("only", ["temporal", "all"])
def test_an_inflated_run_goes_on_to_the_same_weights_without_its_base(bases, tmp_path, only):
    shutil.copytree(bases / "unet", tmp_path / "base")
    recipe = film(tmp_path / "base", "unet", only)
    train(recipe, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000012")
    (tmp_path / "run" / "model.safetensors").unlink()
    shutil.rmtree(tmp_path / "base")
    train(recipe, tmp_path / "run")
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")
    source = load_weights(bases / "unet")[0]
    last = load_weights(tmp_path / "run")[0]
    assert all(torch.equal(last[key], value) for key, value in source.items()) == (only == "temporal")


def test_a_run_is_inflated_from_the_command_line(bases, tmp_path, capsys):
    common = ["train", "digits", "--train.steps", "2", "--train.batch", "4", "--train.threads", "1",
              "--train.preview_every", "0", "--evaluate.samples", "4", "--text.width", "16", "--text.max_length", "16"]
    net = ["--net", "unet", "--net.width", "8", "--net.multipliers", "1", "2"]
    start = ["--train.start", str(bases / "unet"), "--train.only", "temporal"]
    whole = [*common, "--out", str(tmp_path / "film"), *net, "--net.temporal.levels", "0", "1"]
    assert main([*whole, *start]) == 0
    recipe = load_recipe(tmp_path / "film" / "recipe.json")
    assert (recipe.train.only, recipe.net.temporal.levels) == ("temporal", (0, 1))

    def sentence(*arguments):
        return refused(capsys, *common, "--out", str(tmp_path / "refused"), *arguments)

    assert "name the run that it is of with train.start" in sentence(
        *net, "--net.temporal.levels", "1", "--train.only", "temporal")
    assert "this network has none: set net.temporal.levels" in sentence(*net, *start)
    assert "whose network is another" in sentence(
        "--net", "unet", "--net.width", "16", "--net.multipliers", "1", "2", "--net.temporal.levels", "1", *start)
    assert "has no place in it" in sentence(*net, "--train.start", str(tmp_path / "film"))
    assert "another path or prediction" in sentence(
        *net, "--net.temporal.levels", "1", *start, "--objective.prediction", "x0")
    assert not (tmp_path / "refused" / "recipe.json").exists()


def test_fields_along_time_that_do_nothing_are_told():
    recipe = film("base", "trunk")
    assert not any(field.startswith("net.temporal") for field in without_effect(recipe))
    alone = without_effect(replace(recipe, net=NETS["trunk"]))
    assert alone["net.temporal.theta"] == "net.temporal.every names no place for layers along time"
    learned = replace(recipe, net=replace(recipe.net, temporal=Temporal(every=1, reach=2)))
    assert "net.temporal.reach" in without_effect(learned)["net.temporal.theta"]
