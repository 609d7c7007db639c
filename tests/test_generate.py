"""The front door: loading, sampling, saving and replaying."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file
from test_train import tiny

import fromnoise as fn
from fromnoise.denoise import APG, Guidance
from fromnoise.generate import Model
from fromnoise.nets import house
from fromnoise.output import read_picture
from fromnoise.train import train
from fromnoise.types import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    train(tiny(), folder)
    return folder


@pytest.fixture(scope="module")
def model(run):
    found = fn.load(run)
    with torch.no_grad():  # weights that start at zero would hide faults
        for p in found.system.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return found


def test_recipe_and_weights_alone_rebuild_the_model(run, tmp_path):
    for name in ("recipe.json", "model.safetensors"):
        shutil.copy(run / name, tmp_path)
    a, b = (fn.load(folder).sample(["seven"] * 2, steps=3).media for folder in (run, tmp_path))
    assert torch.equal(a, b)


def test_output_is_what_it_says(model, tmp_path):
    out = model.sample(["a handwritten seven"] * 3, steps=4, guidance=2.0, seed=1)
    assert out.media.shape == (3, 1, 1, 8, 8)
    assert float(out.media.abs().max()) <= 1
    images = out.images()
    assert [(i.size, i.mode) for i in images] == [((8, 8), "L")] * 3
    saved = Image.open(out.save(tmp_path / "a.png"))
    assert saved.width > 100
    assert out.info.nfe == 4


@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m"])
def test_a_sample_depends_on_seed_and_index_alone(model, solver):
    prompts = ["a handwritten seven", "the digit 3", "", "two, a caption of quite another length"] * 4
    together = model.sample(prompts, steps=3, seed=5, solver=solver).media
    apart = torch.cat([model.sample([p], steps=3, seed=5, first=i, solver=solver).media for i, p in enumerate(prompts)])
    torch.testing.assert_close(together, apart, atol=2e-5, rtol=1e-4)
    in_parts = model.sample(prompts, steps=3, seed=5, solver=solver, batch=5).media
    torch.testing.assert_close(together, in_parts, atol=2e-5, rtol=1e-4)
    assert not torch.equal(together, model.sample(prompts, steps=3, seed=6, solver=solver).media)


def test_guidance_is_what_it_says(model):
    """One: the conditional model; zero: the unconditional one; between and beyond: on their line, in one step."""
    def sample(prompts, **kw):
        return model.sample(prompts, steps=1, solver="euler", seed=2, **kw).media

    conditional, unconditional = sample(["seven"] * 2, guidance=1.0), sample([""] * 2, guidance=1.0)
    torch.testing.assert_close(sample(["seven"] * 2, guidance=0.0), unconditional, atol=1e-5, rtol=1e-4)
    half = sample(["seven"] * 2, guidance=0.5)
    within = (conditional.abs() < 1) & (unconditional.abs() < 1)  # beyond, samples are clipped
    assert float(within.float().mean()) > 0.5
    torch.testing.assert_close(half[within], ((conditional + unconditional) / 2)[within], atol=1e-5, rtol=1e-4)
    negative = sample(["seven"] * 2, guidance=0.0, negative="three")
    torch.testing.assert_close(negative, sample(["three"] * 2, guidance=1.0), atol=1e-5, rtol=1e-4)


def test_guidance_may_be_all_its_choices_and_pictures_keep_them(model, tmp_path):
    def sample(guidance):
        return model.sample(["seven", "two"], steps=4, guidance=guidance, negative="three")

    plain = sample(3.0).media
    assert torch.equal(sample(Guidance(scale=3.0)).media, plain)
    assert torch.equal(sample(Guidance(scale=3.0, interval=(0.0, 0.0))).media, sample(1.0).media)
    assert float(sample(Guidance(scale=30.0, threshold="static")).media.abs().max()) <= 1
    choice = Guidance(scale=3.0, clean=1.5, method=APG(norm=2.0, momentum=-0.5), rescale=0.5, max_batch=2)
    out = sample(choice)
    assert float((out.media - plain).abs().max()) > 1e-3
    settings = read_picture(out.save(tmp_path / "a.png"))["settings"]
    assert settings == out.settings
    again = model.sample(settings.prompts, steps=settings.steps, guidance=settings.guidance, negative=settings.negative)
    assert torch.equal(again.media, out.media)


def test_noise_size_and_callback(model):
    noise = torch.randn(2, 1, 1, 8, 8)
    a, b = (model.sample(["one", "two"], noise=noise, steps=2, seed=s).media for s in (0, 1))
    assert torch.equal(a, b)
    assert model.sample(["one"], size=(12, 16), steps=2).media.shape[-2:] == (12, 16)
    seen = []
    model.sample(["one"], steps=3, callback=seen.append)
    assert [p.t_next for p in seen][-1] == 0
    assert torch.equal(model.starting_noise(["a", "b"], seed=3)[1], model.starting_noise(["a", "b", "c"], seed=3)[1])


def test_pictures_say_how_they_were_made(model, tmp_path):
    out = model.sample(["a <seven> & \"more\" ключ"] * 2, steps=2, guidance=1.5, seed=9, negative="x")
    found = read_picture(out.save(tmp_path / "a.png"))
    assert found["settings"] == out.settings
    assert found["recipe"]["name"] == "digits"
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    for path in ("b.png", "none.png"):
        with pytest.raises(UserError):
            read_picture(tmp_path / path)


def test_long_prompts_are_cut_and_said(model):
    out = model.sample(["seven " * 40], steps=1)
    assert len(out.notes) == 1
    assert "cut" in out.notes[0]
    assert not model.sample(["seven"], steps=1).notes


def test_words_that_were_never_in_a_caption_are_named(model):
    known = replace_words(model, ["a", "handwritten", "seven"])
    assert not known.sample(["a handwritten seven", ""], steps=1).notes
    (note,) = known.sample(["a seven-legged spider", "a spider"], steps=1, negative="blue").notes
    assert note == 'No caption of the training had "legged", "spider", "blue": what comes of them is chance.'
    assert not replace_words(model, []).sample(["a spider"], steps=1).notes


def replace_words(model, words):
    return Model(model.system, model.run, model.step, words)


@pytest.mark.parametrize("bad", [
    {"prompts": []}, {"prompts": [1]}, {"prompts": None}, {"prompts": "\udcff"}, {"prompts": b"one"},
    {"steps": 0}, {"steps": 2.5}, {"steps": "3"}, {"steps": True}, {"steps": 10_001},
    {"guidance": -1.0}, {"guidance": float("nan")}, {"guidance": "2"}, {"guidance": 10**400},
    {"solver": "eulr"}, {"solver": ""}, {"solver": 3}, {"negative": None}, {"negative": "\udcff"},
    {"size": (9, 8)}, {"size": (0, 8)}, {"size": 8}, {"size": (8, 8, 8)}, {"size": (8.0, 8.0)}, {"size": ()},
    {"size": "88"}, {"seed": -1}, {"seed": None}, {"seed": 1.5}, {"seed": 2**63}, {"first": -1}, {"first": None},
    {"batch": 0}, {"batch": -1}, {"batch": None},
    {"noise": torch.zeros(1, 1, 1, 4, 4)}, {"noise": [[1.0], [1.0, 2.0]]}, {"noise": "loud"}, {"noise": 3},
    {"noise": torch.full((1, 1, 1, 8, 8), torch.nan)}, {"noise": np.full((1, 1, 1, 8, 8), 1j)},
    {"noise": torch.zeros(1, 1, 1, 8, 8, dtype=torch.complex64)}, {"noise": np.full((1, 1, 1, 8, 8), 1e300)},
])
def test_bad_requests_are_sentences(model, bad):
    with pytest.raises(UserError, match=r"^[^\n]+\.$|Did you mean|Choose one of"):
        model.sample(**({"prompts": ["one"], "steps": 1} | bad))


@pytest.mark.parametrize("bad", [{"enlarge": -1}, {"enlarge": 0}, {"enlarge": 1.5}, {"columns": -1}, {"columns": 0}])
def test_a_sheet_that_cannot_be_is_a_sentence(model, tmp_path, bad):
    with pytest.raises(UserError, match="must be a whole number"):
        model.sample("one", steps=1).save(tmp_path / "a.png", **bad)
    assert not list(tmp_path.iterdir())


def test_numbers_and_noise_come_in_any_form(model, tmp_path):
    noise = torch.randn(2, 1, 1, 8, 8)
    want = model.sample(["one", "two"], noise=noise, steps=2, guidance=1.5).media
    backwards = noise.numpy()[::-1].copy()[::-1]  # of negative stride, which torch cannot hold
    for given in (noise.double(), noise.numpy(), noise.double().numpy(), noise.tolist(), backwards):
        found = model.sample(["one", "two"], noise=given, steps=np.int64(2), guidance=np.float32(1.5))
        assert torch.equal(found.media, want)
    half = model.sample(["one", "two"], noise=noise.half(), steps=2, guidance=1.5).media
    assert torch.equal(half, model.sample(["one", "two"], noise=noise.half().float(), steps=2, guidance=1.5).media)
    assert read_picture(found.save(tmp_path / "a.png"))["settings"] == found.settings
    assert torch.equal(model.starting_noise("one"), model.starting_noise(["one"]))


def rewritten(path, change):
    """The PNG with what it says of itself changed."""
    with Image.open(path) as image:
        said = json.loads(image.text["fromnoise"])
        change(said)
        header = PngImagePlugin.PngInfo()
        header.add_itxt("fromnoise", json.dumps(said))
        image.save(path, pnginfo=header)
    return path


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda d: d["settings"].update(steps="x"), "steps must be a whole number"),
    (lambda d: d["settings"].update(size=[8]), "size must be two whole numbers"),
    (lambda d: d["settings"].update(prompts="abc"), "prompts must be a list"),
    (lambda d: d["settings"].update(prompts=[3]), "prompts must be a list"),
    (lambda d: d["settings"].update(given_noise=1), "given_noise must be true or false"),
    (lambda d: d["settings"].update(churn=0.5), "it comes from a newer fromnoise"),
    (lambda d: d["settings"].pop("steps"), "does not say how it was made"),
    (lambda d: d.update(settings=[]), "does not say how it was made"),
    (lambda d: d.update(run=5), "run must be a text"),
    (lambda d: d.update(recipe=5), "recipe must be an object"),
    (lambda d: d.pop("run"), "does not say how it was made"),
    (lambda d: d.pop("recipe"), "does not say how it was made"),
])
def test_pictures_with_odd_words_are_sentences(model, tmp_path, change, sentence):
    path = rewritten(model.sample("one", steps=1).save(tmp_path / "a.png"), change)
    with pytest.raises(UserError, match=sentence):
        read_picture(path)


def test_a_picture_from_given_noise_says_so_and_older_ones_are_read(model, tmp_path):
    path = model.sample("one", steps=1, noise=torch.zeros(1, 1, 1, 8, 8)).save(tmp_path / "a.png")
    assert read_picture(path)["settings"].given_noise
    rewritten(path, lambda d: d["settings"].pop("given_noise"))
    assert not read_picture(path)["settings"].given_noise


def broken(run, tmp_path, change):
    folder = tmp_path / "run"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoints"))
    change(folder)
    return folder


def flip(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-7] ^= 4
    path.write_bytes(data)


def newer(folder):
    recipe = json.loads((folder / "recipe.json").read_text())
    (folder / "recipe.json").write_text(json.dumps({**recipe, "format": 99, "fromnoise": "9.0"}))


def another(folder):
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["net"]["width"] = 16
    (folder / "recipe.json").write_text(json.dumps(recipe))


def poisoned(folder):
    from fromnoise.weights import load_weights, save_weights

    tensors, tokenizer, step, _ = load_weights(folder)
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    save_weights(folder, tensors, tokenizer, step)


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda f: (f / "model.safetensors").unlink(), "has no weights"),
    (lambda f: (f / "model.safetensors").write_bytes(b"junk"), "damaged"),
    (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5000]), "damaged"),
    (flip, "checksum"), (newer, "newer fromnoise"), (another, "do not belong"), (poisoned, "not finite"),
    (lambda f: (f / "recipe.json").unlink(), "not a run folder"),
    (lambda f: (f / "recipe.json").write_text("{"), "not valid JSON"),
    (lambda f: (f / "recipe.json").write_text('{"name": 3, "wat": 1}'), "wat"),
])
def test_broken_run_folders_are_sentences(run, tmp_path, change, sentence):
    with pytest.raises(UserError, match=sentence):
        fn.load(broken(run, tmp_path, change))


def test_a_file_with_foreign_weights(run, tmp_path):
    folder = broken(run, tmp_path, lambda f: None)
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")  # without our header
    with pytest.raises(UserError):
        fn.load(folder)


@pytest.mark.parametrize("positions", ["relative", "rotary"])
def test_transformer_runs_train_and_take_other_sizes(tmp_path, positions):
    recipe = replace(tiny(steps=2), net=house(patch=2, width=32, depth=2, positions=positions))
    train(recipe, tmp_path)
    out = fn.load(tmp_path).sample(["one"], size=(16, 12), steps=2)
    assert out.media.shape[-2:] == (16, 12)


def test_one_clock_for_all_is_the_same_denoiser_and_has_the_same_gradient(model):
    """Two numbers in place of weights on every frame; where t is learned, as in tuning, its gradient stays."""
    denoiser, x = model.system.denoiser, torch.randn(3, 1, 1, 8, 8)
    condition = model.encode(["seven", "", "one"])
    for time in (1.0, 0.6, 0.05):
        t = torch.tensor(time, dtype=torch.float64)
        many = torch.full((3, 1), time, requires_grad=True)
        with torch.no_grad():
            torch.testing.assert_close(denoiser(x, t, condition), denoiser(x, many.detach(), condition))
        one = t.clone().requires_grad_()
        (a,) = torch.autograd.grad(denoiser(x, one, condition).square().sum(), one)
        (b,) = torch.autograd.grad(denoiser(x, many, condition).square().sum(), many)
        assert float(a) == pytest.approx(float(b.sum()), rel=1e-3)
        assert abs(float(a)) > 1e-6
