"""The parts of an autoencoder's loss: pixels, looks, and a discriminator."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from fromnoise.data.digits import Digits
from fromnoise.latents import KL
from fromnoise.latents.reconstruction import Adversary, Reconstruction
from fromnoise.perception import PatchGAN, RandomFeatures, vgg
from fromnoise.perception.distance import EPS, Distance, distance, resolved
from fromnoise.perception.patchgan import forger_loss, judge_loss, r1
from fromnoise.perception.words import common_words, fit_words
from fromnoise.recipe import Coder, Schedule, load_recipe, without_effect
from fromnoise.system import Coding
from fromnoise.train import Hooks, train
from fromnoise.train.checkpoint import load_checkpoint
from fromnoise.train.methods import Reconstruct
from fromnoise.train.methods.adversary import Discriminator, balance, last_layer
from fromnoise.types import UserError
from fromnoise.weights import load_weights


def tiny(steps=8, **loss) -> Coder:
    return Coder(name="tiny", data=Digits(), latents=KL(channels=2, widths=(8, 16), depth=1, groups=4),
                 loss=Reconstruction(**loss),
                 train=Schedule(steps=steps, batch=4, threads=1, checkpoint_every=4, preview_every=0))


def digits(count: int = 16):
    batch = Digits().open("train").batch(range(count), range(count))
    return batch.media[:, 0], batch.text


EVERYTHING = {"perceptual_weight": 0.5, "perceptual": "captions",
              "adversarial": Adversary(weight=0.5, start=0.25, ahead=0.25, r1=0.1, width=8, depth=1)}


# ---- pixels ---------------------------------------------------------------------------------------------


def test_pixel_losses():
    made, real = torch.tensor([0.5, 0.02]), torch.tensor([0.0, 0.0])
    assert float(Reconstruction().of_pixels(made, real)) == pytest.approx(0.26)
    assert float(Reconstruction(pixel="l2").of_pixels(made, real)) == pytest.approx((0.25 + 0.0004) / 2)
    huber = ((0.5 - 0.05) + 0.02**2 / 0.2) / 2  # beta 0.1: |x| - beta / 2, and x^2 / (2 beta)
    assert float(Reconstruction(pixel="huber").of_pixels(made, real)) == pytest.approx(huber)


def test_fields_without_effect():
    idle = without_effect(tiny())
    assert idle["loss.huber_at"] == "pixels are compared by l1"
    assert idle["loss.perceptual"] == "perceptual_weight is 0"
    assert idle["loss.adversarial.start"] == "there is no discriminator"
    assert not {field for field in without_effect(tiny(pixel="huber", **EVERYTHING)) if field.startswith("loss")}


# ---- looks ----------------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """A network whose features are written down."""

    def maps(self, images):
        return [images, 2 * images.mean((2, 3), keepdim=True)]


def slow_distance(a, b, weights):
    """LPIPS as in equation 1 of Zhang et al. 2018, place by place."""
    total = 0.0
    for x, y, w in zip(Fixed().maps(a), Fixed().maps(b), weights, strict=True):
        places = []
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                u, v = x[0, :, i, j], y[0, :, i, j]
                u, v = u / (u @ u + EPS).sqrt(), v / (v @ v + EPS).sqrt()
                places.append(float((w * (u - v) ** 2).sum()))
        total += sum(places) / len(places)
    return total


def test_distance_is_that_of_lpips():
    a, b = torch.randn(2, 1, 3, 4, 5)
    weights = [torch.rand(3), torch.rand(3)]
    assert float(Distance(Fixed(), "", weights)(a, b)) == pytest.approx(slow_distance(a, b, weights), rel=1e-5)
    even = [torch.full((3,), 0.5)] * 2  # equal weights, which sum to 1 over the layers
    assert float(Distance(Fixed(), "")(a, b)) == pytest.approx(slow_distance(a, b, even), rel=1e-5)


def test_distance_of_flat_pictures_has_finite_gradients():
    flat = torch.full((2, 1, 8, 8), -1.0, requires_grad=True)
    Distance(RandomFeatures(1), "")(flat, flat.detach() + 0.1).sum().backward()
    assert torch.isfinite(flat.grad).all()
    assert not Distance(RandomFeatures(1), "")(flat, flat).any()


def test_a_network_learns_the_words_that_tell_pictures_apart():
    captions = ["a red circle", "a red square", "a blue circle", "a blue square"] * 4
    assert common_words(captions) == ["blue", "circle", "red", "square"]
    assert common_words(["a picture"] * 9) == []
    images, text = digits(600)
    net, *same = fit_words(images, text, steps=120), *(fit_words(images, text, steps=2) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(*(s.parameters() for s in same), strict=True))
    words = common_words(text)
    said = {name: net(images)[:, words.index(name)].sigmoid().detach() for name in ("seven", "zero")}
    for name, score in said.items():
        here = torch.tensor([name in caption for caption in text])
        assert float(score[here].mean()) > 2 * float(score[~here].mean())


def test_auto_is_the_best_there_is(monkeypatch, tmp_path):
    monkeypatch.setattr(vgg, "files", lambda: None)
    assert resolved("auto", digits) == "captions"
    assert resolved("auto", lambda: (torch.zeros(2, 1, 8, 8), ["", ""])) == "random"
    monkeypatch.setattr(vgg, "files", lambda: (tmp_path, tmp_path))
    assert resolved("auto", digits) == "lpips"
    assert resolved("random", digits) == "random"
    with pytest.raises(UserError, match="none of their words tells pictures apart"):
        distance("captions", 1, lambda: (torch.zeros(2, 1, 8, 8), ["", ""]))


def test_lpips_reads_the_files_of_libraries(monkeypatch, tmp_path):
    """A package with layers' weights and a folder with the network's, both random: d as in the paper."""
    package, hub = tmp_path / "torchmetrics", tmp_path / "hub"
    (package / vgg.LAYERS["torchmetrics"]).parent.mkdir(parents=True)
    (package / "__init__.py").touch()
    (hub / "checkpoints").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub))
    with pytest.raises(UserError, match="The weights of LPIPS are not on disk"):
        distance("lpips", 3, digits)
    net = vgg.VGG()
    torch.save(net.state_dict() | {"classifier.0.weight": torch.zeros(1)}, hub / "checkpoints" / vgg.BACKBONE)
    layers = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i, (width, _) in enumerate(vgg.BLOCKS)}
    torch.save(layers, package / vgg.LAYERS["torchmetrics"])
    a, b = torch.rand(2, 1, 3, 16, 16) * 2 - 1
    found = float(distance("lpips", 3, digits)(a, b))
    taps, total = (3, 8, 15, 22, 29), 0.0  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
    x, y = ((p - torch.tensor(vgg.SHIFT).view(3, 1, 1)) / torch.tensor(vgg.SCALE).view(3, 1, 1) for p in (a, b))
    for i, layer in enumerate(net.features):
        x, y = layer(x), layer(y)
        if i in taps:
            u, v = (z / (z.square().sum(1, keepdim=True) + EPS).sqrt() for z in (x, y))
            weight = layers[f"lin{taps.index(i)}.model.1.weight"][0]
            total += float(((u - v).square() * weight).sum(1).mean())
    assert found == pytest.approx(total, rel=1e-4)
    (hub / "checkpoints" / vgg.BACKBONE).write_bytes(b"no weights")
    with pytest.raises(UserError, match="cannot be read"):
        distance("lpips", 3, digits)


# ---- the discriminator ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "patch"), [(1, 16), (2, 34), (3, 70)])
def test_patches_are_as_wide_as_said(depth, patch):
    """The verdict in the middle depends on ``patch`` x ``patch`` pixels.  Norms, which see all, are left out."""
    net = PatchGAN(1, 8, depth)
    net.layers = nn.Sequential(*(m for m in net.layers if not isinstance(m, nn.GroupNorm)))
    picture = torch.randn(1, 1, 128, 128, requires_grad=True)
    verdict = net(picture)
    verdict[0, 0, verdict.shape[2] // 2, verdict.shape[3] // 2].backward()
    rows = picture.grad[0, 0].abs().sum(1).nonzero()
    assert int(rows.max() - rows.min()) + 1 == patch


def test_both_sides_of_the_game():
    real, made = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.25])
    assert float(judge_loss(real, made, "hinge")) == pytest.approx((0.25 + 0.625) / 2)
    assert float(forger_loss(made, "hinge")) == pytest.approx(1.375)
    even = torch.zeros(2)
    assert float(judge_loss(even, even, "non_saturating")) == pytest.approx(math.log(2))
    assert float(forger_loss(even, "non_saturating")) == pytest.approx(math.log(2))


def test_r1_of_a_linear_verdict_is_its_squared_slope():
    class Linear(nn.Module):
        def forward(self, x):
            return (3 * x).sum((1, 2, 3), keepdim=True)

    assert float(r1(Linear(), torch.randn(4, 1, 2, 2))) == pytest.approx(9 * 4)


def test_balanced_parts_pull_equally_at_the_last_layer():
    latents = KL(channels=2, widths=(8, 16), depth=1, groups=4).build(1)
    layer = last_layer(latents)
    assert layer is latents.decoder.leave.weight
    made = latents.code(torch.randn(2, 1, 1, 8, 8), torch.randn(2, 1, 2, 4, 4)).media
    rest, fooling = made.square().mean(), 1e-3 * made.mean()
    factor = balance(rest, fooling, layer)
    assert not factor.requires_grad
    pulls = [torch.autograd.grad(loss, layer, retain_graph=True)[0].norm() for loss in (rest, factor * fooling)]
    assert float(pulls[1]) == pytest.approx(float(pulls[0]), rel=0.15)  # 1e-4 stands beside the smaller one


def test_the_discriminator_learns_and_leaves_the_autoencoder_alone():
    spec = Adversary(weight=1.0, width=8, depth=1, lr=1e-2)
    judge, real = Discriminator(spec, 1, 0, torch.device("cpu")), digits()[0]
    made = real.flip(0).roll(3, -1) * 0.5
    made.requires_grad_(True)
    before = float(judge.learn(real, made.detach(), 1.0))
    for _ in range(30):
        after = float(judge.learn(real, made.detach(), 1.0))
    assert after < before / 2
    judge.fool(made).backward()
    assert made.grad.abs().sum() > 0
    assert all(p.grad is None for p in judge.net.parameters())


def test_the_discriminator_is_heard_from_its_start():
    recipe = tiny(steps=8, adversarial=Adversary(weight=0.5, start=0.5, ahead=0.25, width=8, depth=1))
    method = Reconstruct(Coding(recipe))
    batch = recipe.data.open("train").batch(range(4), range(4))
    parts, learned = [], []
    for step in range(8):
        before = method.discriminator.net.layers[0].weight.clone()
        method.loss(batch, 0, step).backward()
        method.follow(1.0)
        parts.append("adversarial" in method.parts())
        learned.append(not torch.equal(before, method.discriminator.net.layers[0].weight))
    assert parts == [False] * 4 + [True] * 4
    assert learned == [False] * 2 + [True] * 6


def test_the_loss_is_the_sum_of_its_parts():
    recipe = tiny(pixel_weight=2.0, **EVERYTHING)
    method = Reconstruct(Coding(recipe))
    batch = recipe.data.open("train").batch(range(4), range(4))
    loss = float(method.loss(batch, 0, 5))
    assert method.parts().keys() == {"pixel", "perceptual", "adversarial", "kl"}
    assert loss == pytest.approx(sum(method.parts().values()), rel=1e-5)


# ---- in training ----------------------------------------------------------------------------------------


class Stop(Exception):
    pass


def test_killed_and_resumed_equals_whole_bit_for_bit_with_every_part(tmp_path):
    def progress(line):
        if line["step"] == 8:  # before the checkpoint of that step
            raise Stop

    recipe = tiny(**EVERYTHING)
    train(recipe, tmp_path / "whole")
    with pytest.raises(Stop):
        train(recipe, tmp_path / "parts", Hooks(progress=progress))
    assert train(recipe, tmp_path / "parts").steps_done == 4
    a, b = (load_checkpoint(tmp_path / name / "checkpoints").tensors for name in ("whole", "parts"))
    assert a.keys() == b.keys() == {"weights", "ema", "optimizer", "method"}
    assert any(name.startswith("discriminator.optimizer.") for name in a["method"])
    for part, tensors in a.items():
        assert all(torch.equal(value, b[part][name]) for name, value in tensors.items())
    model = load_weights(tmp_path / "parts")[0]
    assert model.keys() == Coding(recipe).state_dict().keys()


def test_the_recipe_that_is_written_says_which_network_looks(tmp_path, monkeypatch):
    monkeypatch.setattr(vgg, "files", lambda: None)
    recipe = tiny(steps=1, perceptual_weight=0.1)
    assert recipe.loss.perceptual == "auto"
    train(recipe, tmp_path / "run")
    assert load_recipe(tmp_path / "run" / "recipe.json").loss.perceptual == "captions"
    assert train(recipe, tmp_path / "run").steps_done == 0  # the same command goes on
    with pytest.raises(UserError, match=r"loss\.perceptual captions -> random"):
        train(replace(recipe, loss=replace(recipe.loss, perceptual="random")), tmp_path / "run")
