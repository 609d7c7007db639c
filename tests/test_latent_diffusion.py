"""Diffusion in the latents of a trained autoencoder: its recipe, its weights in the run, what is kept of its data."""

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import fromnoise as fn
from fromnoise.cli.train import resolve
from fromnoise.config import from_dict, to_dict
from fromnoise.data.pictures import Folder
from fromnoise.data.shapes import Shapes
from fromnoise.data.wrapped import First
from fromnoise.denoise import Guidance
from fromnoise.latents import KL, KLLatents
from fromnoise.nets import UNet
from fromnoise.opening import open_autoencoder, with_autoencoder
from fromnoise.recipe import Encoding, Recipe, Training, differences, without_effect
from fromnoise.recipes import digits, shapes64, shapes64_kl
from fromnoise.system import System
from fromnoise.text import Trained
from fromnoise.train import Hooks, train
from fromnoise.train.autoencoder import NAME, fill_autoencoder
from fromnoise.train.latent_cache import FOLDER, LatentCache, LatentSource, training_source
from fromnoise.types import Encoded, UserError
from fromnoise.weights import load_weights, save_weights
from fromnoise.workflow import encode_data

SPEC = KL(channels=2, widths=(8, 8), depth=1, groups=4, attention=False)


def autoencoder_run(folder, spec=SPEC, channels=3, statistics=None):
    """A run of an autoencoder with random weights."""
    torch.manual_seed(3)
    module = spec.build(channels)
    for p in module.parameters():
        p.data = 0.4 * torch.randn_like(p) + (0.5 if p.ndim == 1 else 0)
    save_weights(folder, {f"latents.{name}": t for name, t in module.state_dict().items()}, "", 5)
    (folder / "recipe.json").write_text(json.dumps({"kind": "autoencoder", "latents": to_dict(spec)}))
    if statistics:
        (folder / "statistics.json").write_text(json.dumps(statistics))
    return module


@pytest.fixture
def coder(tmp_path):
    autoencoder_run(tmp_path / "ae", statistics={"mean": [0.5, -0.5], "std": [2.0, 4.0]})
    return tmp_path / "ae"


def tiny(coder, encoding=None, data=None, **training) -> Recipe:
    settings = {"steps": 6, "batch": 8, "threads": 1, "checkpoint_every": 3, "preview_every": 0, "ema": 0.05,
                **training}
    recipe = Recipe(name="tiny", data=data or Shapes(objects=1, height=16, width=16),
                    net=UNet(width=8, multipliers=(1, 2)), text=Trained(width=16, max_length=16),
                    train=Training(**settings), encoding=encoding or Encoding(examples=40))
    return with_autoencoder(recipe, coder)


def run(recipe, out, hooks=None):
    return train(recipe, out, hooks, lambda: open_autoencoder(recipe.encoding.source)[1])


def built(recipe):
    """(system with the autoencoder's weights, source) of a recipe."""
    source = training_source(recipe)
    system = System(recipe, recipe.text.learn_tokenizer(list(source.captions)))
    fill_autoencoder(system, Path("nowhere"), lambda: open_autoencoder(recipe.encoding.source)[1])
    return system, source


# ---- the recipe ----------------------------------------------------------------------------------------------


def test_the_recipe_says_spec_statistics_and_weights(coder):
    recipe = tiny(coder)
    assert recipe.latents == replace(SPEC, mean=(0.5, -0.5), std=(2.0, 4.0))
    assert recipe.encoding.source == str(coder)
    assert len(recipe.encoding.sha256) == 64
    assert from_dict(Recipe, to_dict(recipe)) == recipe


def test_statistics_are_of_what_the_autoencoder_gives(tmp_path):
    """Latents of an autoencoder with its own mean and std come out as (z - mean) / std of the file."""
    spec = replace(SPEC, mean=(1.0, 2.0), std=(3.0,))
    module = autoencoder_run(tmp_path, spec, statistics={"mean": [0.5, -0.5], "std": [2.0, 4.0]})
    found, weights = open_autoencoder(tmp_path)
    ours = found.build(3)
    ours.load_state_dict(weights)
    media = torch.randn(2, 1, 3, 8, 8)
    mean, std = torch.tensor([0.5, -0.5])[:, None, None], torch.tensor([2.0, 4.0])[:, None, None]
    expected = (module.encode(media) - mean) / std
    torch.testing.assert_close(ours.encode(media), expected)


def test_the_recipe_at_64_px_takes_a_run_of_its_autoencoder(tmp_path):
    """Two commands are enough: what the one leaves the other trains in, and both speak of the same pictures."""
    coder, base = shapes64_kl(), shapes64()
    assert base.data == coder.data
    statistics = {"mean": [0.5, -0.5, 0.0, 0.0], "std": [2.0, 4.0, 1.0, 1.0]}
    autoencoder_run(tmp_path / "ae", coder.latents, statistics=statistics)
    recipe = with_autoencoder(base, tmp_path / "ae")
    assert recipe.latents == replace(base.latents, mean=(0.5, -0.5, 0.0, 0.0), std=(2.0, 4.0, 1.0, 1.0))
    short = replace(recipe, encoding=replace(recipe.encoding, examples=12),
                    train=replace(recipe.train, steps=2, batch=6, threads=1, preview_every=0))
    run(short, tmp_path / "run")
    model = fn.load(tmp_path / "run", "cpu")
    assert model.sample("a small red star", steps=2).media.shape == (1, 1, 3, 64, 64)


def test_an_autoencoder_of_diffusers(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8], norm_num_groups=4, layers_per_block=1, scaling_factor=0.25, shift_factor=0.5)
    theirs.save_pretrained(tmp_path / "vae")
    recipe = tiny(tmp_path / "vae")
    system, source = built(recipe)
    media = source.pictures([0, 1], [0, 0])
    with torch.no_grad():
        expected = (theirs.encode(media[:, 0]).latent_dist.mean - 0.5) * 0.25
    torch.testing.assert_close(system.encode(media).mean[:, 0], expected, atol=1e-5, rtol=1e-5)


def test_the_command_line_resolves_a_folder(coder, tmp_path):
    recipe, _, _ = resolve(["shapes", "--latents", str(coder), "--out", str(tmp_path / "run"), "--encoding.draw"])
    assert recipe.latents == replace(SPEC, mean=(0.5, -0.5), std=(2.0, 4.0))
    assert recipe.encoding.draw
    recipe.save(tmp_path / "run" / "recipe.json")
    shutil.rmtree(coder)  # a run that has begun knows its autoencoder
    again, _, _ = resolve(["shapes", "--latents", str(coder), "--out", str(tmp_path / "run"), "--encoding.draw"])
    assert again == recipe
    assert not differences(recipe, replace(recipe, encoding=replace(recipe.encoding, source="moved", folder="x")))


@pytest.mark.parametrize(("make", "words"), [
    (lambda folder: None, "holds no autoencoder"),
    (lambda folder: (folder / "recipe.json").write_text('{"latents": {"kind": "pixels"}}'), "works on pixels"),
    (lambda folder: autoencoder_run(folder, statistics={"mean": [1.0]}), "a number for each channel"),
    (lambda folder: autoencoder_run(folder, statistics={"mean": [1.0, 1.0], "std": [0.0, 1.0]}), "greater than 0"),
])
def test_what_is_no_autoencoder_is_said(make, words, tmp_path):
    make(tmp_path)
    with pytest.raises(UserError, match=words):
        open_autoencoder(tmp_path)


def test_what_cannot_be_is_refused(coder, tmp_path):
    recipe, out = tiny(coder), tmp_path / "run"
    with pytest.raises(UserError, match="need a trained autoencoder: name its folder with --latents"):
        train(replace(recipe, encoding=Encoding()), out)
    with pytest.raises(UserError, match="does not fit the latents"):
        run(replace(recipe, latents=replace(recipe.latents, widths=(8, 16))), out)
    with pytest.raises(UserError, match="threshold static is for models of pixels"):
        run(replace(recipe, sample=replace(recipe.sample, guidance=Guidance(scale=2, threshold="static"))), out)
    with pytest.raises(UserError, match=r"encoding\.draw needs latents that are a distribution"):
        train(replace(digits(), encoding=Encoding(draw=True)), out)
    with pytest.raises(UserError, match="multiples of 4 pixels"):
        run(replace(recipe, data=Shapes(objects=1, height=18, width=16)), out)
    autoencoder_run(coder, replace(SPEC, channels=2, weight=0.1), channels=3)
    save_weights(coder, {name: t + 1 for name, t in load_weights(coder)[0].items()}, "", 5)
    with pytest.raises(UserError, match="is not the one that the recipe was made with"):
        run(recipe, out)
    assert not out.exists()
    with pytest.raises(UserError, match="have no end"):
        encode_data(replace(recipe, encoding=Encoding()), out, out)


def test_fields_without_effect_are_known(coder):
    recipe = tiny(coder)
    assert "encoding.draw" in without_effect(digits())
    assert "encoding.draw" not in without_effect(recipe)
    idle = without_effect(replace(recipe, encoding=replace(recipe.encoding, cached=False)))
    assert {"encoding.dtype", "encoding.folder", "latents.weight"} <= idle.keys()


# ---- encoding ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [1, 2])
def test_the_posterior_is_that_of_encode(patch, tmp_path):
    spec = replace(SPEC, patch=patch, mean=(0.3,), std=(1.7,))
    module = autoencoder_run(tmp_path, spec)
    media, raw = torch.randn(3, 1, 3, 16, 16), torch.randn(3, 1, 2, 8, 8)
    mean, logvar = module.posterior(media)
    torch.testing.assert_close(mean, module.encode(media))
    noise = torch.nn.functional.pixel_unshuffle(raw, patch)
    torch.testing.assert_close(mean + torch.exp(logvar / 2) * noise, module.encode(media, raw))


def test_a_draw_has_the_mean_and_spread_it_was_told():
    encoded = Encoded(torch.full((4000, 1, 2, 2, 2), 3.0), torch.full((4000, 1, 2, 2, 2), -1.0))
    drawn = encoded.draw(torch.Generator().manual_seed(0))
    assert float(drawn.mean()) == pytest.approx(3, abs=0.02)
    assert float(drawn.var()) == pytest.approx(np.exp(-1), rel=0.03)
    assert torch.equal(Encoded(drawn).draw(torch.Generator()), drawn)


def test_the_rest_of_a_system_begins_alike_behind_every_autoencoder(coder, tmp_path):
    autoencoder_run(tmp_path / "other", replace(SPEC, depth=2))
    a, b = (built(tiny(folder))[0] for folder in (coder, tmp_path / "other"))
    assert a.learned().keys() == b.learned().keys()
    assert not any(n.startswith("latents.") for n in a.learned())
    for name, parameter in a.learned().items():
        assert torch.equal(parameter, b.learned()[name])
    assert a.train().latents.training is False
    assert a.denoiser.training


@pytest.mark.parametrize("draw", [False, True])
def test_kept_latents_train_as_encoding_anew_does(coder, tmp_path, draw):
    """In float32: to rounding, since convolutions of another batch may round otherwise."""
    results = {}
    for cached in (True, False):
        recipe = tiny(coder, Encoding(examples=40, draw=draw, cached=cached))
        results[cached] = run(recipe, tmp_path / f"run-{cached}").system.learned()
    for name, parameter in results[True].items():
        torch.testing.assert_close(parameter, results[False][name], atol=2e-4, rtol=2e-3)
    other = run(tiny(coder, Encoding(examples=40, draw=not draw)), tmp_path / "other").system.learned()
    assert any(not torch.allclose(p, results[True][name], atol=2e-4, rtol=2e-3) for name, p in other.items())


def test_training_on_kept_latents_never_encodes(coder, tmp_path, monkeypatch):
    recipe = tiny(coder)
    encode_data(recipe, tmp_path / FOLDER, tmp_path)
    monkeypatch.setattr(KLLatents, "encode", lambda *_: pytest.fail("encoded in training"))
    assert run(recipe, tmp_path / "run").step == 6


# ---- the run -------------------------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_without_the_folder_it_came_from(coder, tmp_path):
    recipe = tiny(coder, Encoding(examples=40, draw=True))
    whole = run(recipe, tmp_path / "whole")

    def stop(line):
        if line["step"] == 6:  # told before it is saved, so that the checkpoint of step 3 is the last
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run(recipe, tmp_path / "part", Hooks(progress=stop))
    shutil.rmtree(coder)
    shutil.rmtree(tmp_path / FOLDER)
    again = run(recipe, tmp_path / "part")
    assert again.steps_done == 3
    for name, tensor in whole.system.state_dict().items():
        assert torch.equal(tensor, again.system.state_dict()[name]), name


def test_a_run_is_whole_and_its_checkpoints_do_not_repeat_the_autoencoder(coder, tmp_path):
    _, weights = open_autoencoder(coder)
    run(tiny(coder), tmp_path / "run")
    shutil.rmtree(coder)
    for file in (tmp_path / "run" / "checkpoints").glob("*/*.safetensors"):
        assert not any(name.startswith("latents.") for name in load_file(file))
    (tmp_path / "run" / NAME).unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    model = fn.load(tmp_path / "run")
    for name, tensor in weights.items():
        assert torch.equal(model.system.latents.state_dict()[name], tensor)
    assert model.sample("a red circle", steps=2).media.shape == (1, 1, 3, 16, 16)
    assert model.sample("a red circle", steps=2, size=(16, 24)).media.shape == (1, 1, 3, 16, 24)
    with pytest.raises(UserError, match="multiples of 4 pixels"):
        model.sample("a red circle", size=(18, 16))
    with pytest.raises(UserError, match="threshold dynamic is for models of pixels"):
        model.sample("a red circle", guidance=Guidance(scale=2, threshold="dynamic"))


def test_pictures_are_decoded_a_few_at_a_time(coder, tmp_path, monkeypatch):
    run(tiny(coder), tmp_path / "run")
    model = fn.load(tmp_path / "run")
    whole, sizes = model.sample(["a red circle"] * 5, steps=2).media, []
    decode = KLLatents.decode
    monkeypatch.setattr("fromnoise.system.AT_ONCE", 2 * 16 * 16)
    monkeypatch.setattr(KLLatents, "decode", lambda self, z: sizes.append(len(z)) or decode(self, z))
    torch.testing.assert_close(model.sample(["a red circle"] * 5, steps=2).media, whole)
    assert sizes == [2, 2, 1]


# ---- what is kept --------------------------------------------------------------------------------------------


def test_what_was_killed_is_completed(coder, tmp_path, monkeypatch):
    monkeypatch.setattr("fromnoise.train.latent_cache.BYTES", 8 * 2 * 8 * 8 * 4)
    recipe = tiny(coder)
    system, source = built(recipe)
    cache = LatentCache(tmp_path, system, source)
    assert [len(s.members) for s in cache.shards] == [8] * 5

    def stop(done, total):
        if done == 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.fill(stop)
    assert [s.path.exists() for s in cache.shards] == [True] * 3 + [False] * 2
    kept = cache.shards[0].path.stat().st_mtime_ns
    cache.shards[1].path.write_bytes(cache.shards[1].path.read_bytes()[:100])  # damaged besides
    told = []
    LatentCache(tmp_path, system, source).fill(lambda done, total: told.append((done, total)))
    assert told == [(16, 40), (24, 40), (32, 40), (40, 40)]
    assert cache.shards[0].path.stat().st_mtime_ns == kept
    chosen = [39, 0, 17, 8, 17]
    torch.testing.assert_close(LatentCache(tmp_path, system, source).rows(chosen, [0] * 5).mean,
                               system.encode(source.pictures(chosen, [0] * 5)).mean)


def test_two_that_encode_the_same_wait_for_each_other(coder, tmp_path, monkeypatch):
    monkeypatch.setattr("fromnoise.train.latent_cache.BYTES", 8 * 2 * 8 * 8 * 4)
    system, source = built(tiny(coder))
    first, second = (LatentCache(tmp_path, system, source) for _ in range(2))
    said, told, threads = [], [], []

    def during(done, total):
        if done == 8:
            threads.append(threading.Thread(target=second.fill, args=(lambda d, t: told.append(d), said.append)))
            threads[0].start()
            while not said:
                threads[0].join(0.01)

    first.fill(during)
    threads[0].join()
    assert "Another process encodes into" in said[0]
    assert told[-1] == 40
    assert all(s.read() is not None for s in second.shards)


def test_the_folder_is_another_where_latents_would_be(coder, tmp_path):
    recipe = tiny(coder)
    others = [replace(recipe, encoding=replace(recipe.encoding, **change)) for change in
              ({"draw": True}, {"dtype": "bfloat16"}, {"examples": 41}, {"sha256": "0"})]
    others += [replace(recipe, data=Shapes(objects=2, height=16, width=16)),
               replace(recipe, latents=replace(recipe.latents, mean=(0.0,)))]
    same = replace(recipe, seed=4, train=replace(recipe.train, batch=3))
    folders = [LatentCache(tmp_path, System(r, r.text.learn_tokenizer(["a"])), training_source(r)).folder
               for r in (recipe, same, *others)]
    assert folders[0] == folders[1]
    assert len(set(folders)) == 1 + len(others)


def test_bfloat16_is_right_to_its_digits(coder, tmp_path):
    recipe = tiny(coder, Encoding(examples=40, dtype="bfloat16", draw=True))
    system, source = built(recipe)
    cache = LatentCache(tmp_path, system, source)
    cache.fill()
    found, exact = cache.rows(range(40), [0] * 40), system.encode(source.pictures(range(40), [0] * 40))
    assert found.mean.dtype == torch.float32
    assert found.logvar is not None
    assert exact.logvar is not None
    for a, b in ((found.mean, exact.mean), (found.logvar, exact.logvar)):
        assert 0 < float(((a - b).abs() / b.abs().clamp(min=1e-3)).max()) <= 2**-8


@pytest.fixture
def photographs(tmp_path):
    """Twenty pictures of two shapes, each with two captions."""
    random = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(20):
        size = (32, 16) if i % 2 else (16, 32)
        Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(f"picture {i}\nnumber {i}\n")
    return Folder(root=str(folder), resolution=24, multiple=4, flip=True, held_out=0)


def test_both_versions_of_pictures_in_buckets_are_kept_and_captions_come_by_key(coder, tmp_path, photographs):
    recipe = tiny(coder, Encoding(), data=photographs)
    system, source = built(recipe)
    assert len(source.groups) == 2
    cache = LatentCache(tmp_path / "cache", system, source)
    cache.fill()
    latents, mirrored = LatentSource(source, cache), 0
    for group in source.groups:
        for keys in (range(10), range(50, 60)):
            found, expected = latents.batch(group, list(keys)), source.batch(group, list(keys))
            assert (found.text, found.index, len(found)) == (expected.text, expected.index, len(expected))
            assert found.latents is not None
            torch.testing.assert_close(found.latents.mean, system.encode(expected.media).mean)
            mirrored += sum(source.choose(group, list(keys))[0])
    assert 0 < mirrored < 40
    assert run(recipe, tmp_path / "run").step == 6
    before = cache.folder
    picture = next((tmp_path / "photos").glob("*.png"))
    Image.fromarray(np.zeros((32, 16, 3), dtype=np.uint8)).save(picture)  # another picture under the same name
    assert LatentCache(tmp_path / "cache", system, source).folder != before


def test_the_first_examples_of_a_source():
    source = Shapes(objects=1, height=16, width=16).open("train")
    first = First(source, 5)
    assert len(first) == 5
    assert list(first.groups[0]) == [0, 1, 2, 3, 4]
    assert first.batch([3], [0]).text == source.batch([3], [0]).text


@pytest.mark.long
def test_from_the_command_line(coder, tmp_path, monkeypatch, capsys):
    from fromnoise.cli import main

    monkeypatch.chdir(tmp_path)
    few = ["--latents", "ae", "--encoding.examples", "64", "--train.threads", "1", "--data.height", "16",
           "--data.width", "16"]
    assert main(["encode", "shapes", *few]) == 0
    shards = list((tmp_path / "runs" / FOLDER).glob("*/*.safetensors"))
    before = [s.stat().st_mtime_ns for s in shards]
    assert shards
    net = ["--net", "transformer", "--net.patch", "1", "--net.width", "32", "--net.depth", "1", "--train.steps", "4"]
    assert main(["train", "shapes", *few, *net, "--evaluate.samples", "16"]) == 0
    assert "behind an autoencoder of" in capsys.readouterr().err
    assert [s.stat().st_mtime_ns for s in shards] == before
    assert (tmp_path / "runs/shapes/index.html").is_file()
    assert main(["sample", "runs/shapes", "a red circle", "--size", "24x16", "--out", "x.png"]) == 0
    assert main(["evaluate", "runs/shapes", "--samples", "16"]) == 0
