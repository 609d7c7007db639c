"""A stage of a cascade: what it is told against the resize of the data, what it refuses, and how it is made again."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import refused
from test_train import Stop, tiny, weights_of

import fromnoise as fn
from fromnoise.cli import main
from fromnoise.data.shapes import Shapes
from fromnoise.denoise import Guidance
from fromnoise.evaluate.enlarging import evaluate_enlarging
from fromnoise.generate import Model
from fromnoise.latents import KL
from fromnoise.nets import UNet, house
from fromnoise.output import read_picture
from fromnoise.perception import RandomFeatures
from fromnoise.perception.distance import Distance
from fromnoise.process import Upsampling
from fromnoise.process.upsampling import NOISE
from fromnoise.recipe import Encoding, Recipe, Sampling, load_recipe
from fromnoise.recipes import shapes
from fromnoise.system import System
from fromnoise.text.tokenizers import ByteTokenizer
from fromnoise.train import train
from fromnoise.train.loop import Trainer
from fromnoise.train.methods import Diffusion
from fromnoise.types import Batch, Condition, UserError

UP = Upsampling(factor=2, noise=0.5)


def scenes(size: int, **fields) -> Recipe:
    """A tiny model of shapes."""
    return replace(tiny(), name=f"shapes{size}", data=Shapes(height=size, width=size),
                   sample=Sampling(steps=3), **fields)


def upsampler(net=None, **fields) -> Recipe:
    """One that enlarges 16 px to 32."""
    return scenes(32, **{"upsample": UP, "net": net or UNet(width=8, multipliers=(1, 2))} | fields).resolved()


NETS = {"unet": UNet(width=8, multipliers=(1, 2)), "trunk": house(patch=8, width=24, depth=1)}


def rough(model: Model) -> Model:
    """Weights that start at zero would hide faults."""
    with torch.no_grad():
        for p in model.system.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of a model of 16 px and of one that enlarges these."""
    root = tmp_path_factory.mktemp("runs")
    train(scenes(16), root / "base")
    train(upsampler(), root / "up")
    return root / "base", root / "up"


@pytest.fixture(scope="module")
def stages(runs):
    return tuple(rough(fn.load(run)) for run in runs)


# ---- what the network is told -----------------------------------------------------------------------------


def test_the_small_picture_is_of_means_and_the_level_is_a_plane():
    media = torch.randn(3, 2, 3, 8, 12)
    small = UP.shrink(media)
    torch.testing.assert_close(small, media.unflatten(-1, (6, 2)).unflatten(-3, (4, 2)).mean((-1, -3)))
    level = torch.tensor([[0.0], [0.2], [0.5]])
    eps = torch.randn(small.shape)
    told = UP.told(small, level, eps)
    assert told.shape == (3, 2, 4, 8, 12)
    assert torch.equal(told[0, :, :3], UP.enlarge(small)[0])  # no noise: the resize of the data, to the last bit
    noisy = torch.cos(torch.pi / 2 * level).view(3, 1, 1, 1, 1) * small
    noisy = noisy + torch.sin(torch.pi / 2 * level).view(3, 1, 1, 1, 1) * eps
    torch.testing.assert_close(told[:, :, :3], UP.enlarge(noisy), atol=1e-6, rtol=0)
    assert torch.equal(told[:, :, 3], level.view(3, 1, 1, 1).expand(3, 2, 8, 12))


def test_enlarging_is_bicubic_and_keeps_what_is_flat():
    small = torch.rand(2, 1, 3, 6, 6)
    want = torch.nn.functional.interpolate(small[:, 0], size=(12, 12), mode="bicubic")[:, None]
    torch.testing.assert_close(UP.enlarge(small), want)
    torch.testing.assert_close(UP.enlarge(torch.full((1, 1, 3, 4, 4), 0.3)), torch.full((1, 1, 3, 8, 8), 0.3))


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_training_tells_each_example_its_own_level(net, monkeypatch):
    method = Diffusion(System(upsampler(net), ByteTokenizer()))
    seen = []
    output = method.system.denoiser.output
    monkeypatch.setattr(method.system.denoiser, "output", lambda x, t, condition, **told: (
        seen.append(condition.image), output(x, t, condition, **told))[1])
    media = method.system.recipe.data.open("train").batch(range(8), range(8)).media
    for step in (3, 3, 4):
        method.loss(Batch(media, ["a"] * 8, list(range(8))), 7, step)
    first, again, other = seen
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    level = first[:, 0, 3, 0, 0]
    assert torch.equal(first[:, :, 3], level.view(8, 1, 1, 1).expand(8, 1, 32, 32))
    assert 0 <= float(level.min()) < float(level.max()) < 0.5
    assert len(level.unique()) == 8
    # Told alpha small + sigma eps: what is left without the picture is noise of the level that was told.
    rest = first[:, :, :3] - UP.enlarge(NOISE.add_noise(UP.shrink(media), torch.zeros(8, 1, 3, 16, 16), level[:, None]))
    spread = UP.enlarge(torch.randn(64, 1, 3, 16, 16)).std()
    torch.testing.assert_close(rest.flatten(1).std(1), torch.sin(torch.pi / 2 * level) * spread, rtol=0.15, atol=1e-3)


def test_without_noise_sampling_tells_the_resize_of_the_picture(stages, monkeypatch):
    model, told = stages[1], []
    forward = model.system.denoiser.forward

    def hears(x, t, condition, **others):
        told.append(condition.image)
        return forward(x, t, condition, **others)

    monkeypatch.setattr(model.system.denoiser, "forward", hears)
    small = torch.rand(1, 1, 3, 16, 16) * 2 - 1
    model.sample(["a"] * 2, image=small, augment=0.0, guidance=3.0, steps=2)
    assert len(told) == 2
    want = torch.cat([UP.enlarge(small), torch.zeros(1, 1, 1, 32, 32)], 2).expand(4, -1, -1, -1, -1)
    assert all(torch.equal(image, want) for image in told)  # both passes of guidance, both samples
    told.clear()
    model.sample(["a"] * 2, image=small, augment=0.25, guidance=1.0, steps=1)
    assert torch.equal(told[0][:, :, 3], torch.full((2, 1, 32, 32), 0.25))


def test_an_oracle_that_undoes_the_resize_gives_the_true_picture(stages, monkeypatch):
    """A denoiser that answers with the picture it is told: solver, guidance and decoding add nothing."""
    model = stages[1]
    monkeypatch.setattr(model.system.denoiser, "forward", lambda x, t, condition, **_: condition.image[:, :, :3])
    flat = (torch.rand(3, 1, 3, 1, 1) * 2 - 1).expand(3, 1, 3, 32, 32)
    out = model.sample(["a"] * 3, image=UP.shrink(flat), augment=0.0, guidance=2.0).media
    torch.testing.assert_close(out, flat, atol=2e-6, rtol=0)


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, monkeypatch):
    train(upsampler(), tmp_path / "whole")
    original = Trainer.train_step

    def crash(self, batch):
        if self.step == 7:
            raise Stop
        return original(self, batch)

    with monkeypatch.context() as broken:
        broken.setattr(Trainer, "train_step", crash)
        with pytest.raises(Stop):
            train(upsampler(), tmp_path / "stopped")
    train(upsampler(), tmp_path / "stopped")
    assert weights_of(tmp_path / "whole") == weights_of(tmp_path / "stopped")


# ---- sampling ---------------------------------------------------------------------------------------------


def test_a_sample_depends_on_seed_index_and_stage_alone(stages):
    base, up = stages
    low = base.sample(["a red circle"] * 3, seed=4)
    high = up.sample(["a red circle"] * 3, image=low, seed=4)
    assert high.media.shape == (3, 1, 3, 32, 32)
    assert high.settings.stage == 1
    assert high.before is low
    one = up.sample("a red circle", image=low.media[2:], seed=4, first=2)
    torch.testing.assert_close(one.media, high.media[2:], atol=1e-5, rtol=0)
    streams = {replace(high.settings, seed=seed, stage=stage).stream for seed in range(5) for stage in range(5)}
    assert len(streams) == 25
    assert replace(high.settings, stage=0).stream == 4
    noises = base.starting_noise("a", seed=4).flatten(), up.starting_noise("a", seed=4).flatten()
    assert torch.equal(noises[1], up._noise(high.settings)[0].flatten())
    assert not torch.equal(noises[0], noises[1][: noises[0].numel()])


def test_a_cascade_is_made_again_from_its_picture(runs, tmp_path, capsys):
    base, up = map(str, runs)
    first, again, less = (tmp_path / f"{name}.png" for name in ("first", "again", "less"))
    assert main(["sample", base, "a red circle", "a blue star", "--n", "2", "--seed", "3", "--steps", "2",
                 "--guidance", "3", "--then", up, "--augment", "0.3", "--out", str(first)]) == 0
    story = read_picture(first)
    assert (story["run"], story["before"]["run"]) == (up, base)
    assert (story["settings"].augment, story["settings"].steps, story["settings"].size) == (0.3, 3, (32, 32))
    assert (story["before"]["settings"].steps, story["before"]["settings"].guidance.scale) == (2, 3.0)
    assert main(["sample", "--like", str(first), "--out", str(again)]) == 0
    assert again.read_bytes() == first.read_bytes()
    assert main(["sample", "--like", str(first), "--augment", "0", "--out", str(less)]) == 0
    assert read_picture(less)["settings"].augment == 0
    assert less.read_bytes() != first.read_bytes()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(set(lines))
    low = fn.load(base).sample(["a red circle"] * 2 + ["a blue star"] * 2, seed=3, steps=2, guidance=3.0)
    high = fn.load(up).sample(low.settings.prompts, image=low, seed=3, augment=0.3)
    pixels = np.asarray(Image.open(high.save(tmp_path / "python.png", columns=2)))
    assert np.array_equal(pixels, np.asarray(Image.open(first)))


def test_a_file_is_enlarged_also_where_it_was_saved_large(runs, tmp_path, capsys):
    base, up = map(str, runs)
    low = fn.load(base).sample("a red circle")
    plain, large = low.save(tmp_path / "plain.png", enlarge=1), low.save(tmp_path / "large.png", enlarge=8)
    made = []
    for path in (plain, large):
        out = tmp_path / f"of-{path.name}"
        assert main(["sample", up, "a red circle", "--image", str(path), "--n", "2", "--out", str(out)]) == 0
        made.append(np.asarray(Image.open(out)))
    assert np.array_equal(*made)
    assert "--image" in refused(capsys, "sample", "--like", str(out))
    again = tmp_path / "again.png"
    assert main(["sample", "--like", str(out), "--image", str(plain), "--out", str(again)]) == 0
    assert np.array_equal(np.asarray(Image.open(again)), made[0])
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    assert main(["sample", "--like", str(out), "--image", str(tmp_path / "red.png"), "--out", str(again)]) == 0
    assert "will not come out the same" in capsys.readouterr().err


def test_sizes_go_backwards_through_a_cascade(runs, tmp_path, capsys):
    base, up = map(str, runs)
    out = tmp_path / "out.png"
    assert main(["sample", base, "a", "--n", "1", "--size", "64x32", "--then", up, "--out", str(out)]) == 0
    story = read_picture(out)
    assert (story["settings"].size, story["before"]["settings"].size) == ((32, 64), (16, 32))
    assert "no multiple of the factor 2" in refused(capsys, "sample", base, "a", "--size", "33x33", "--then", up)


@pytest.mark.parametrize(("argv", "words"), [
    ("{base} a --then {base}", "makes pictures of noise alone and cannot enlarge"),
    ("{up} a", "give it one with --image"),
    ("{up} a --then {up} --image {tmp}/16.png", "from those of 16x16 in 3 channels, and here they are of 32x32"),
    ("{base} a --then {up} --augment 0.7", "augment 0.7 is more noise"),
    ("{base} a --augment 0.2", "it makes pictures of noise alone"),
    ("{up} a --image {tmp}/none.png", "cannot be used: the file is missing"),
    ("{up} a --image {tmp}/17.png", "and here they are of 17x17"),
    ("{base} a --image {tmp}/16.png", "cannot enlarge one"),
])
def test_what_does_not_fit_is_one_sentence(argv, words, runs, tmp_path, capsys):
    for side in (16, 17):
        Image.new("RGB", (side, side)).save(tmp_path / f"{side}.png")
    words_of = argv.format(base=runs[0], up=runs[1], tmp=tmp_path).split(" ")
    assert words in refused(capsys, "sample", *words_of)


@pytest.mark.parametrize(("image", "words"), [
    (torch.zeros(2, 1, 3, 16, 16), "one small picture, or one for each of the 3 prompts"),
    (torch.zeros(1, 1, 1, 16, 16), "in 1 channels"), (torch.full((1, 1, 3, 16, 16), torch.nan), "finite real numbers"),
    ("small.png", "an array of numbers"),
])
def test_images_that_are_none(image, words, stages):
    with pytest.raises(UserError, match=re.escape(words)):
        stages[1].sample(["a"] * 3, image=image)


# ---- what is measured and shown ---------------------------------------------------------------------------


def test_a_perfect_model_is_perfect_and_bicubic_stands_beside_it(monkeypatch):
    monkeypatch.setattr("fromnoise.evaluate.enlarging.looks", lambda data: Distance(RandomFeatures(3), ""))
    data, true = Shapes(height=32, width=32), {}

    def perfect(small, captions):
        true["media"] = data.open("test").batch(range(24), range(24)).media
        assert torch.equal(small, UP.shrink(true["media"]))
        return true["media"]

    def plain(small, captions):
        return UP.enlarge(small).clamp(-1, 1)

    best, bicubic = (evaluate_enlarging(how, UP, data, count=24) for how in (perfect, plain))
    assert best["PSNR, dB"] == best["PSNR brought down again, dB"] == 100
    assert best["SSIM"] == pytest.approx(1)
    assert best["everything right"] == 1
    error = (plain(UP.shrink(true["media"]), []) - true["media"]).double().square().flatten(1).mean(1)
    assert bicubic["PSNR, dB"] == pytest.approx(float((10 * torch.log10(4 / error)).mean()))
    assert [row.note for row in best.rows] == [f"bicubic: {row.words()[0]}" for row in bicubic.rows]


@pytest.mark.long
def test_a_run_is_judged_and_shown(tmp_path, capsys):
    run = tmp_path / "run"
    argv = ["train", "shapes", "--out", str(run), "--upsample.factor", "2", "--net", "unet", "--net.width", "8",
            "--train.steps", "2", "--train.batch", "4", "--train.threads", "1", "--train.preview-every", "2",
            "--evaluate.samples", "4", "--sample.steps", "2", "--sample.augment", "0.2"]
    assert main(argv) == 0
    assert load_recipe(run / "recipe.json").net.image_channels == 4
    page, card = (run / "index.html").read_text(), (run / "README.md").read_text()
    assert ">Enlarged<" in page
    assert "pictures, enlarged again as training went on" in page
    assert "--image small.png" in card
    assert {p.name for p in (run / "samples").iterdir()} == {"grid.png", "step-000000.png", "step-000002.png"}
    assert main(["evaluate", str(run), "--samples", "3"]) == 0
    said = json.loads((run / "evaluation.json").read_text())
    assert said["settings"]["augment"] == 0.2
    assert said["samples"] == 3
    assert all(row["note"].startswith("bicubic: ") for row in said["rows"])
    assert main(argv) == 0  # nothing is left to do
    assert "--upsample.noise has no effect" not in capsys.readouterr().err


# ---- recipes ----------------------------------------------------------------------------------------------


def test_recipes_that_cannot_be(stages):
    recipe = upsampler()
    assert recipe.net.image_channels == 4
    with pytest.raises(UserError, match=r"net\.image_channels is 3: set it so"):
        System(replace(recipe, net=replace(recipe.net, image_channels=3)), ByteTokenizer())
    with pytest.raises(UserError, match="one picture beside x"):
        System(replace(recipe, train=replace(recipe.train, self_conditioning=0.5)), ByteTokenizer())
    with pytest.raises(UserError, match="is for models of pixels"):
        System(replace(recipe, latents=KL(channels=3), encoding=Encoding(sha256="1")), ByteTokenizer())
    with pytest.raises(UserError, match="multiples of 6"):
        System(replace(recipe, upsample=Upsampling(factor=3)), ByteTokenizer()).latent_size(32, 32)
    with pytest.raises(UserError, match="cannot be tuned"):
        stages[1].tune(4)


def test_a_recipe_without_a_cascade_is_what_it_was():
    recipe = shapes()
    assert recipe.resolved() == recipe
    assert {"upsample.noise", "sample.augment"} <= recipe.idle().keys()
    assert not {"upsample.noise", "sample.augment"} & replace(recipe, upsample=UP).idle().keys()


def test_a_guide_is_told_the_small_picture_too(runs, stages):
    """Guided by itself, the scale changes nothing."""
    low = stages[0].sample("a red circle")
    model = fn.load(runs[1])
    guided = model.sample("a", image=low, guidance=Guidance(scale=3.0, guide=str(runs[1])))
    torch.testing.assert_close(guided.media, model.sample("a", image=low, guidance=1.0).media, atol=1e-4, rtol=0)
    with pytest.raises(UserError, match="cannot guide this run: the upsample of its recipe is another"):
        model.sample("a", image=low, guidance=Guidance(scale=3.0, guide=str(runs[0])))


def test_a_network_without_a_picture_says_so():
    model = Model(System(upsampler(), ByteTokenizer()))
    with pytest.raises(ValueError, match="reads image of the condition"):
        model.system.denoiser(torch.zeros(1, 1, 3, 32, 32), torch.tensor(0.5), Condition())
