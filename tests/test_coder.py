"""Autoencoders as recipes: the one training loop, its checkpoints, and what a run of them gives."""

import json
from dataclasses import replace

import pytest
import torch

import fromnoise as fn
from fromnoise.cli.train import resolve
from fromnoise.data.digits import Digits
from fromnoise.latents import KL
from fromnoise.recipe import Coder, Looking, Schedule, load_recipe, read_recipe, recipe_dict
from fromnoise.recipes import autoencoder, digits, shapes_kl
from fromnoise.train import Hooks, train
from fromnoise.types import UserError


def tiny(**training) -> Coder:
    settings = {"steps": 8, "batch": 4, "threads": 1, "checkpoint_every": 4, "preview_every": 0, **training}
    return Coder(name="tiny", data=Digits(), latents=KL(channels=2, widths=(8, 16), depth=1, groups=4),
                 train=Schedule(**settings))


class Stop(Exception):
    pass


def stopped_at(step: int) -> Hooks:
    def progress(line):
        if line["step"] == step:
            raise Stop

    return Hooks(progress=progress)


def test_a_recipe_says_its_kind_and_one_without_is_of_diffusion(tmp_path):
    recipe = tiny()
    recipe.save(tmp_path / "recipe.json")
    assert json.loads((tmp_path / "recipe.json").read_text())["kind"] == "autoencoder"
    assert load_recipe(tmp_path / "recipe.json") == recipe
    old = recipe_dict(digits())
    assert old.pop("kind") == "diffusion"
    assert read_recipe(old, "here") == digits()
    with pytest.raises(UserError, match="kind 'autoencodr', which is not known here"):
        read_recipe({**recipe_dict(recipe), "kind": "autoencodr"}, "here")


def test_killed_and_resumed_equals_whole_bit_for_bit(tmp_path):
    whole = train(tiny(), tmp_path / "whole")
    with pytest.raises(Stop):
        train(tiny(), tmp_path / "parts", stopped_at(8))  # before the checkpoint of step 8
    parts = train(tiny(), tmp_path / "parts")
    assert parts.steps_done < whole.steps_done
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "parts/model.safetensors").read_bytes()


def test_a_run_opens_as_a_codec_with_statistics_of_its_latents(tmp_path):
    train(tiny(), tmp_path / "run")
    codec = fn.load(tmp_path / "run")
    media = Digits().open("test").batch(range(6), range(6)).media
    latents = codec.encode(media)
    assert latents.shape == (6, 1, 2, 4, 4)
    assert torch.equal(codec.decode(latents), codec.reconstruct(media))
    assert codec.reconstruct(media).shape == media.shape
    found = json.loads((tmp_path / "run" / "statistics.json").read_text())
    source = Digits().open("train")
    with torch.no_grad():
        posterior = codec.system.latents.posterior(source.batch(range(len(source)), range(len(source))).media)
    mean, variance = (part.movedim(2, 0).flatten(1).double() for part in (posterior[0], posterior[1].exp()))
    of_draws = (mean.var(1) + variance.mean(1)).sqrt()  # the law of total variance
    torch.testing.assert_close(torch.tensor(found["mean"]).double(), mean.mean(1), atol=0.05, rtol=0.05)
    torch.testing.assert_close(torch.tensor(found["std"]).double(), of_draws, atol=0.05, rtol=0.05)
    assert float((of_draws / mean.std(1)).max()) > 1.1  # here the noise of a draw is part of what is measured
    with pytest.raises(UserError, match="both sides must be multiples of 2"):
        codec.encode(torch.zeros(1, 1, 1, 9, 8))
    with pytest.raises(UserError, match=r"takes pictures \[B, T, 1, H, W\]"):
        codec.encode(torch.zeros(1, 1, 3, 8, 8))


def test_what_asks_for_a_diffusion_model_refuses_an_autoencoder(tmp_path):
    from fromnoise import generate
    from fromnoise.opening import load_model

    train(tiny(steps=1), tmp_path / "run")
    for load in (generate.load, load_model):
        with pytest.raises(UserError, match="is a run of kind autoencoder, and this asks for a diffusion model"):
            load(tmp_path / "run")
    digits().save(tmp_path / "run" / "recipe.json")
    with pytest.raises(UserError, match="kind diffusion -> autoencoder"):
        train(tiny(steps=1), tmp_path / "run")


def test_fields_of_an_autoencoder_on_the_command_line():
    recipe, named, out = resolve(["shapes-kl", "--latents.channels", "8", "--loss.pixel", "l2", "--data", "digits"])
    assert (recipe.latents.channels, recipe.loss.pixel, recipe.data) == (8, "l2", Digits())
    assert named == shapes_kl()
    assert out.name == "shapes-kl"
    assert resolve(["autoencoder", "--data", "./photos"])[0].data.root == "./photos"
    assert autoencoder().kind == "autoencoder"
    for arguments, words in {
        ("shapes-kl", "--latents", "pixels"): "should be an autoencoder, such as kl: pixels have nothing to train",
        ("shapes-kl", "--latents", "klx"): 'Did you mean "kl"',
        ("shapes-lk",): 'Did you mean "shapes-kl"',
        ("shapes-kl", "--preset", "sd3"): "--preset is for diffusion models",
        ("shapes-kl", "--net", "unet"): "There is no option --net",
    }.items():
        with pytest.raises(UserError, match=words):
            resolve(list(arguments))


def test_pictures_that_do_not_fit_are_refused(tmp_path):
    recipe = replace(tiny(), latents=KL(channels=2, widths=(8,) * 5, depth=1, groups=4))
    with pytest.raises(UserError, match="multiples of 16"):
        train(recipe, tmp_path / "run")


@pytest.mark.long
def test_a_run_is_shown_and_measured_like_any_other(tmp_path, capsys):
    from rich.console import Console

    from fromnoise.cli import main
    from fromnoise.workflow import read_report, train_run

    run = tmp_path / "run"
    recipe = replace(tiny(preview_every=4), evaluate=Looking(samples=32))
    showcase = train_run(recipe, run, "fromnoise train tiny", Console(quiet=True))
    assert showcase.originals.shape == showcase.reconstructions.shape == (12, 1, 1, 8, 8)
    assert [step for step, _ in showcase.previews] == [0, 4, 8]
    page, card = ((run / name).read_text() for name in ("index.html", "README.md"))
    assert "Through the autoencoder" in page
    assert "codec.encode" in card
    assert "model.sample" not in card
    report = read_report(run)
    assert {"PSNR, dB", "SSIM", "caption accuracy, after the latents"} <= {row.name for row in report.rows}
    assert train_run(recipe, run, "", Console(quiet=True)).report == report  # nothing left to train or to measure
    assert main(["evaluate", str(run), "--samples", "24"]) == 0
    assert read_report(run).samples == 24
    assert "PSNR" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--guidance", "2"]) == 2
    assert "An autoencoder is not guided" in capsys.readouterr().err
    assert main(["sample", str(run), "seven"]) == 2
    assert "is a run of kind autoencoder" in capsys.readouterr().err
