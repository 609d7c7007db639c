"""The autoencoder in training beside the network (REPA-E): who moves whom, and what a run keeps of it."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from test_latent_diffusion import autoencoder_run, built, run, tiny
from test_terms import tiny as tiny_teacher
from test_terms import weights_of

import fromnoise as fn
from fromnoise.cli import main
from fromnoise.latents import DC, VQ, EndToEnd, Reconstruction, Representation
from fromnoise.latents.coding import noise_shape
from fromnoise.latents.reconstruction import Adversary
from fromnoise.nets import Tap
from fromnoise.opening import open_autoencoder
from fromnoise.random import POSTERIOR, generator
from fromnoise.recipe import Encoding, without_effect
from fromnoise.system import System
from fromnoise.terms import Repa, Run
from fromnoise.text.tokenizers import ByteTokenizer
from fromnoise.train import train
from fromnoise.train.autoencoder import NAME
from fromnoise.train.loop import Trainer
from fromnoise.train.methods import Diffusion
from fromnoise.train.methods.reconstruction import statistics
from fromnoise.train.metrics import read_metrics
from fromnoise.train.optim import rate
from fromnoise.train.order import Order
from fromnoise.types import UserError
from fromnoise.weights import load_weights

SILENT = Reconstruction(pixel_weight=0.0)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A folder with a teacher and an autoencoder."""
    root = tmp_path_factory.mktemp("sources")
    train(tiny_teacher(steps=4), root / "teacher")
    autoencoder_run(root / "ae", statistics={"mean": [0.5, -0.5], "std": [2.0, 4.0]})
    return root


def joint(sources, together=None, weight=1e-6, **training):
    """A tiny recipe whose autoencoder goes on learning."""
    repa = Repa(weight=0.5, width=8, teacher=Run(run=str(sources / "teacher")))
    recipe = tiny(sources / "ae", Encoding(cached=False), repa=repa, end_to_end=together or EndToEnd(lr=1e-3),
                  **training)
    return replace(recipe, latents=replace(recipe.latents, weight=weight))


def method_of(recipe) -> tuple[Diffusion, torch.Tensor]:
    """(the method of a system whose every weight of the network is random, a batch)."""
    system, source = built(recipe)
    torch.manual_seed(5)
    with torch.no_grad():
        for p in system.denoiser.parameters():
            p.copy_(0.2 * torch.randn(p.shape))
    return Diffusion(system.train()), source.batch(range(8), [0] * 8)


def gradients(module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


# ---- who moves whom ------------------------------------------------------------------------------------------


def test_denoising_does_not_reach_the_autoencoder_and_the_alignment_does(sources):
    """With its own loss silent, what the autoencoder gets is of the alignment alone, and nothing without that."""
    without, batch = method_of(joint(sources, EndToEnd(lr=1e-3, alignment_weight=0.0, loss=SILENT), weight=0.0))
    without.loss(batch, 0, 3).backward()
    assert all(not g.any() for g in gradients(without.system.latents).values())
    assert any(g.any() for g in gradients(without.system.denoiser).values())
    with_it, _ = method_of(joint(sources, EndToEnd(lr=1e-3, loss=SILENT), weight=0.0))
    with_it.loss(batch, 0, 3).backward()
    found = gradients(with_it.system.latents)
    assert found["encoder.enter.weight"].abs().max() > 1e-6
    assert not any(g.any() for name, g in found.items() if name.startswith(("decoder", "post_quant")))
    for name, g in gradients(without.system.denoiser).items():
        assert torch.equal(g, gradients(with_it.system.denoiser)[name])  # the network learns as before


def test_the_gradient_is_that_of_the_alignment_of_a_second_pass(sources):
    """Slow twin: the network runs again on noisy latents that are not cut off from the encoder."""
    recipe = joint(sources, EndToEnd(lr=1e-3, alignment_weight=0.7, loss=SILENT), weight=0.0)
    method, batch = method_of(recipe)
    method.loss(batch, 0, 3).backward()
    system, latents = method.system, method.system.latents
    found = gradients(latents)
    for p in latents.parameters():
        p.grad = None
    noise = torch.randn(noise_shape(latents, batch.media), generator=generator(0, POSTERIOR, 3))
    raw = latents.encode(batch.media, noise)
    mean, variance = raw.mean((0, 1, 3, 4), keepdim=True), raw.var((0, 1, 3, 4), keepdim=True, unbiased=False)
    random = generator(0, 2, 3)  # the stream of noise
    t = recipe.objective.draw_times(8, recipe.path, random)[:, None]
    x0 = (raw - mean) / (variance + 1e-5).sqrt()
    x = recipe.path.add_noise(x0, torch.randn(x0.shape, generator=random), t)
    condition = system.text.encode(method.drop(batch.text, 0, 3))
    with Tap(system.denoiser.net, set(method.terms.blocks.values())) as tap:
        system.denoiser.output(x, t, condition)
    (0.7 * method.terms.aligned.loss(tap.features(method.terms.blocks["repa"], x), batch.media)).backward()
    twin = gradients(latents)
    assert twin["encoder.enter.weight"].abs().max() > 1e-6
    for name, g in twin.items():
        torch.testing.assert_close(found[name], g, atol=1e-6, rtol=1e-4)


def test_without_alignment_the_autoencoder_moves_as_its_own_loss_moves_it(sources, tmp_path):
    """A run beside a loop of the autoencoder alone."""
    recipe = joint(sources, EndToEnd(lr=1e-2, alignment_weight=0.0), steps=4, ema=1e-6)
    result = run(recipe, tmp_path)
    system, source = built(recipe)
    latents, spec = system.latents.train(), recipe.train.end_to_end
    order = Order(source.groups, 8, recipe.seed)
    optimizer = torch.optim.AdamW(latents.parameters(), betas=recipe.train.optimizer.betas, weight_decay=0.0)
    for step in range(4):
        media = source.batch(order.indices(step), [0] * 8).media
        noise = torch.randn(noise_shape(latents, media), generator=generator(0, POSTERIOR, step))
        coded = latents.code(media, noise)
        (spec.loss.of_pixels(coded.media, media) + coded.penalties["kl"]).backward()
        torch.nn.utils.clip_grad_norm_(latents.parameters(), recipe.train.optimizer.clip)
        optimizer.param_groups[0]["lr"] = spec.lr * rate(step, 4, recipe.train.optimizer)
        optimizer.step()
        optimizer.zero_grad()
    first = open_autoencoder(sources / "ae")[1]
    for name, p in latents.named_parameters():
        torch.testing.assert_close(result.system.latents.get_parameter(name), p, atol=1e-5, rtol=1e-4)
        assert not torch.equal(p, first[name])


def test_a_rate_of_nothing_changes_nothing(sources, tmp_path):
    off = EndToEnd(lr=0.0, alignment_weight=9.0, loss=Reconstruction(perceptual_weight=1.0))
    for name, together in (("plain", EndToEnd()), ("off", off)):
        run(joint(sources, together, steps=3), tmp_path / name)
    assert weights_of(tmp_path / "plain") == weights_of(tmp_path / "off")
    kept = load_weights(tmp_path / "off")[0]
    assert not {"latents.mean", "latents.std"} & kept.keys()
    first = open_autoencoder(sources / "ae")[1]
    assert torch.equal(kept["latents.encoder.enter.weight"], first["encoder.enter.weight"])


# ---- what a run keeps ----------------------------------------------------------------------------------------


def test_a_stopped_run_ends_in_the_same_weights(sources, tmp_path, monkeypatch):
    game = Adversary(weight=0.1, start=0.2, width=4)
    loss = Reconstruction(perceptual_weight=0.1, perceptual="random", adversarial=game)
    recipe = joint(sources, EndToEnd(lr=1e-3, loss=loss))
    run(recipe, tmp_path / "whole")
    original = Trainer.train_step

    def crash(self, batch):
        if self.step == 5:
            raise RuntimeError
        return original(self, batch)

    monkeypatch.setattr(Trainer, "train_step", crash)
    with pytest.raises(RuntimeError):
        run(recipe, tmp_path / "stopped")
    monkeypatch.setattr(Trainer, "train_step", original)
    run(recipe, tmp_path / "stopped")
    assert weights_of(tmp_path / "whole") == weights_of(tmp_path / "stopped")
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "stopped/model.safetensors").read_bytes()
    assert {"latents.encoder.enter.weight", "latents.mean"} <= load_file(
        sorted((tmp_path / "whole" / "checkpoints").glob("step-*"))[-1] / "weights.safetensors").keys()
    run(recipe, tmp_path / "whole")  # a run that is done is the same when it is asked for again
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "stopped/model.safetensors").read_bytes()


def test_the_run_holds_the_changed_autoencoder_with_exact_statistics(sources, tmp_path):
    recipe = joint(sources, EndToEnd(lr=3e-2))
    result = run(recipe, tmp_path / "run")
    model = fn.load(tmp_path / "run", "cpu")
    first = open_autoencoder(sources / "ae")[1]
    state = model.system.latents.state_dict()
    assert not torch.equal(state["encoder.enter.weight"], first["encoder.enter.weight"])
    assert all(torch.equal(value, state[name]) for name, value in result.system.latents.state_dict().items())
    assert model.sample("a small red star", steps=2).media.isfinite().all()
    mean, std = statistics(model.system, recipe.data.open("train"))  # of what the denoiser sees
    assert mean == pytest.approx([0, 0], abs=1e-5)
    assert std == pytest.approx([1, 1], abs=1e-5)
    kept = load_file(tmp_path / "run" / NAME)
    assert kept.keys() == first.keys()
    assert all(torch.equal(kept[name], value) for name, value in first.items())  # what training began with
    # Another run may be trained in the latents that this one ended with.
    spec, weights = open_autoencoder(tmp_path / "run")
    assert spec.mean == tuple(state["mean"].tolist())
    assert weights.keys() == first.keys()
    ours = spec.build(3)
    ours.load_state_dict(weights)
    media = recipe.data.open("test").batch(range(2), [0, 0]).media
    with torch.no_grad():
        torch.testing.assert_close(ours.encode(media), model.system.encode(media).mean)
    said = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert {"denoising", "repa", "autoencoder.pixel", "autoencoder.kl"} <= said.keys()


def test_running_statistics_follow_the_batches(sources):
    method, batch = method_of(joint(sources))
    before = {name: getattr(method.system.latents, name).clone() for name in ("mean", "std")}
    method.loss(batch, 0, 0).backward()
    raw = method.coder.coded.latents.detach() * before["std"][:, None, None] + before["mean"][:, None, None]
    method.follow(1.0)
    values = raw.movedim(2, 0).flatten(1)
    torch.testing.assert_close(method.system.latents.mean, 0.9 * before["mean"] + 0.1 * values.mean(1))
    torch.testing.assert_close(method.system.latents.std.square(), 0.9 * before["std"].square() + 0.1 * values.var(1),
                               atol=1e-4, rtol=1e-3)


def test_another_average_has_statistics_of_its_own(sources, tmp_path, capsys):
    run(joint(sources, EndToEnd(lr=3e-2), snapshots=3), tmp_path / "run")
    assert main(["ema", str(tmp_path / "run"), "--sigma-rel", "0.2", "--out", str(tmp_path / "wide")]) == 0
    system = fn.load(tmp_path / "wide", "cpu").system
    assert statistics(system, system.recipe.data.open("train"))[1] == pytest.approx([1, 1], abs=1e-5)


def test_an_export_has_the_statistics_of_the_end(sources, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    from fromnoise.interop.export import export_autoencoder

    run(joint(sources, EndToEnd(lr=3e-2), steps=2), tmp_path / "run")
    model = fn.load(tmp_path / "run", "cpu")
    export_autoencoder(model.system.latents, tmp_path / "out")
    theirs = diffusers.AutoencoderKL.from_pretrained(tmp_path / "out" / "vae")
    assert theirs.config.latents_mean == pytest.approx(model.system.latents.mean.tolist())
    media = torch.rand(1, 1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        latents = model.system.latents
        raw = latents.raw(latents.encode(media))[:, 0]
        torch.testing.assert_close(theirs.encode(media[:, 0]).latent_dist.mean, raw, atol=1e-5, rtol=1e-5)


# ---- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "words"), [
    (lambda r: replace(r, encoding=replace(r.encoding, cached=True)), "as it was, and train.end_to_end moves it"),
    (lambda r: replace(r, train=replace(r.train, repa=Repa())), "set train.repa.weight"),
    (lambda r: replace(r, latents=VQ(codebook=8, widths=(8, 8), groups=4)), "this one is vq"),
    (lambda r: replace(r, latents=Representation()), "this one is representation"),
    (lambda r: replace(r, latents=fn.latents.Pixels()), "this one is pixels"),
])
def test_what_cannot_be_is_refused(sources, change, words):
    with pytest.raises(UserError, match=words):
        System(change(joint(sources)), ByteTokenizer())


def test_a_deterministic_autoencoder_learns_too(sources, tmp_path):
    spec = DC(channels=2, widths=(8, 8), depths=(1, 1), attended=0)
    autoencoder_run(tmp_path / "dc", spec)
    recipe = fn.opening.with_autoencoder(joint(sources, steps=2), tmp_path / "dc")
    run(recipe, tmp_path / "run")
    assert fn.load(tmp_path / "run", "cpu").system.latents.mean.shape == (2,)


def test_fields_without_effect_are_told(sources):
    on, off = joint(sources), joint(sources, EndToEnd())
    assert without_effect(off)["train.end_to_end.alignment_weight"] == "train.end_to_end.lr is 0"
    assert "train.end_to_end.loss.pixel" not in without_effect(on)
    assert "train.end_to_end.loss.huber_at" in without_effect(on)
    assert "latents.weight" in without_effect(off)
    assert "latents.weight" not in without_effect(on)
    assert "encoding.draw" in without_effect(on)
