"""Film autoencoders as recipes: training, what a run of them gives, and diffusion in their latents."""

import re
from dataclasses import replace

import pytest
import torch
from parity import draw
from sliding import Sliding
from test_coder import Stop, stopped_at
from test_film_latents import randomised

from fromnoise.codec import Codec
from fromnoise.data.wrapped import First
from fromnoise.generate import Model
from fromnoise.latents import KL, CausalKL, Reconstruction, inflated
from fromnoise.latents.reconstruction import Adversary
from fromnoise.nets import house
from fromnoise.random import NOISE, generator
from fromnoise.recipe import Coder, Optimizer, Schedule, without_effect
from fromnoise.recipes import digits
from fromnoise.showing.previews import read_previews
from fromnoise.showing.reconstructions import save_preview, show
from fromnoise.studio import render_page
from fromnoise.system import Coding, System
from fromnoise.train import train
from fromnoise.train.latent_cache import LatentCache
from fromnoise.train.methods.adversary import windows
from fromnoise.train.methods.reconstruction import Reconstruct, statistics
from fromnoise.train.optim import Muon, build_optimizers
from fromnoise.train.terms import Aligned
from fromnoise.types import Batch, UserError

SMALL = CausalKL(channels=2, widths=(8, 8, 8), halved=(True, True), depth=1, groups=4, attention=False)
DATA = Sliding(objects=1, frames=5, height=16, width=16)


def tiny(loss=None, **training) -> Coder:
    settings = {"steps": 6, "batch": 2, "threads": 1, "checkpoint_every": 3, "preview_every": 0, **training}
    return Coder(name="tiny", data=DATA, latents=SMALL, loss=loss or Reconstruction(), train=Schedule(**settings))


def test_killed_and_resumed_equals_whole_bit_for_bit(tmp_path):
    """With all parts of the loss: looks of frames, and a discriminator of runs of three."""
    loss = Reconstruction(pixel="l2", perceptual_weight=0.1, perceptual="random",
                          adversarial=Adversary(weight=0.1, start=0.0, ahead=0.0, frames=3, width=8))
    train(tiny(loss), tmp_path / "whole")
    with pytest.raises(Stop):
        train(tiny(loss), tmp_path / "parts", stopped_at(6))  # before the checkpoint of step 6
    train(tiny(loss), tmp_path / "parts")
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "parts/model.safetensors").read_bytes()


def test_windows_are_runs_of_frames():
    media = draw(2, 4, 3, 5, 6)
    assert torch.equal(windows(media, 1), media.flatten(0, 1))
    found = windows(media, 3).unflatten(0, (2, 2))
    for b in range(2):
        for i in range(2):
            assert torch.equal(found[b, i], media[b, i : i + 3].flatten(0, 1))


def test_a_discriminator_of_several_frames_sees_an_order_that_one_of_single_frames_does_not():
    media = draw(2, 5, 3, 16, 16).float()
    shuffled = media[:, torch.tensor([2, 0, 4, 1, 3])]
    for frames, sees in ((1, False), (3, True)):
        adversary = Adversary(weight=1.0, start=0.0, ahead=0.0, frames=frames, width=8)
        method = Reconstruct(Coding(tiny(Reconstruction(adversarial=adversary))))
        verdicts = [method.discriminator.net(windows(x, frames)).mean(dim=(1, 2, 3)).sort().values
                    for x in (media, shuffled)]
        assert (not torch.allclose(*verdicts, atol=1e-5)) == sees
    too_many = Reconstruction(adversarial=Adversary(weight=1.0, frames=6))
    with pytest.raises(UserError, match=r"sees 6 frames at once, and these data have 5: set loss.adversarial.frames"):
        Reconstruct(Coding(tiny(too_many)))


def test_the_loss_of_a_film_is_the_mean_over_its_frames():
    method = Reconstruct(Coding(tiny(Reconstruction(pixel="l2"))))
    media = DATA.open("train").batch(range(3), range(3)).media
    with torch.no_grad():
        method.loss(Batch(media, [""] * 3, [0, 1, 2]), 0, 0)
        noise = torch.randn(3, 2, 2, 4, 4, generator=generator(0, NOISE, 0))
        made = method.system.latents.code(media, noise).media
    assert set(method.parts()) == {"pixel", "kl"}
    each = (made - media).square().mean((0, 2, 3, 4))
    assert method.parts()["pixel"] == pytest.approx(float(each.mean()), rel=1e-5)


def test_films_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"film of 7 frames does not fit .* give it 5 or 9"):
        train(replace(tiny(), data=replace(DATA, frames=7)), tmp_path / "run")
    codec = Codec(Coding(tiny()))
    with pytest.raises(UserError, match="film of 4 frames does not fit"):
        codec.encode(torch.zeros(1, 4, 3, 16, 16))


def test_a_codec_takes_pictures_and_films_and_measures_its_latents():
    codec = Codec(Coding(tiny()))
    media = DATA.open("test").batch(range(3), range(3)).media
    latents = codec.encode(media)
    assert latents.shape == (3, 2, 2, 4, 4)
    torch.testing.assert_close(codec.encode(media, batch=1), latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(codec.encode(media[:, :1]), latents[:, :1], atol=1e-5, rtol=1e-5)
    assert codec.reconstruct(media).shape == media.shape
    codec.trial()
    mean, std = statistics(codec.system, DATA.open("train"), count=20)
    assert len(mean) == len(std) == 2


def test_films_are_shown_as_strips(tmp_path):
    codec = Codec(Coding(tiny()))
    page = show(codec, tmp_path)
    assert page.originals.shape == page.reconstructions.shape == (3, 5, 3, 16, 16)
    assert page.description == ("Films of 5 frames of 16x16 as latents of 2 x 4x4 in 2 channels, 60 times fewer "
                                "numbers.")
    assert torch.equal(page.originals[1], DATA.open("test").batch([1], [1]).media[0])
    html = render_page("films", [page])
    strips = html.split('<ol class="strip">')[1:]
    assert [re.findall(r'class="tick">(\d+)<', strip) for strip in strips] == [list("01234")] * 3
    assert [strip.count("<img") for strip in strips] == [15] * 3
    assert 'aria-label="Film 3, frame by frame"' in html
    assert 'alt="comes back as 2, frame 4"' in html
    assert (tmp_path / "samples" / "grid.png").is_file()
    save_preview(codec, tmp_path, 3)
    assert [(step, media.shape) for step, media in read_previews(codec, tmp_path)] == [(3, (8, 1, 3, 16, 16))]


def test_convolutions_over_frames_are_matrices_to_muon():
    optimizers = build_optimizers(Coding(tiny()).latents, Optimizer(matrices="muon"))
    inner = [p for group in optimizers[1].param_groups for p in group["params"]]
    assert isinstance(optimizers[1], Muon)
    assert {p.ndim for p in inner} == {4, 5}
    before = [p.detach().clone() for p in inner]
    for p in inner:
        p.grad = torch.randn_like(p)
    optimizers[1].step()
    change = (inner[0] - before[0]).detach().flatten(1) / 0.02
    assert 0.5 < float(torch.linalg.svdvals(change / max(1, change.shape[0] / change.shape[1]) ** 0.5).mean()) < 1.3


def test_fields_without_effect():
    assert "latents.groups" in without_effect(replace(tiny(), latents=replace(SMALL, norm="rms")))
    assert "latents.groups" not in without_effect(tiny())
    assert "loss.adversarial.frames" in without_effect(tiny())


# ---- inflation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quant", [True, False])
def test_an_inflated_autoencoder_is_that_of_pictures(quant):
    """Every frame of a film, exactly, where frames are not halved; else the last of each span, coming back for all."""
    spec = KL(channels=3, widths=(8, 16, 8), groups=4, quant=quant, post_quant=quant, mean=(0.2,), std=(1.5,))
    pictures, media = randomised(spec.build(3).double()), draw(2, 5, 3, 8, 12)
    films = inflated(pictures, (False, False))
    torch.testing.assert_close(films.posterior(media), pictures.posterior(media), rtol=0, atol=1e-12)
    latents = pictures.encode(media)
    torch.testing.assert_close(films.decode(latents), pictures.decode(latents), rtol=0, atol=1e-12)
    films = inflated(pictures, (True, True))
    coded = films.encode(media)
    torch.testing.assert_close(coded, latents[:, [0, 4]], rtol=0, atol=1e-12)
    made = pictures.decode(coded)
    torch.testing.assert_close(films.decode(coded), made[:, [0, 1, 1, 1, 1]], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="packs 2 x 2 latents"):
        inflated(KL(widths=(8, 8), groups=4, patch=2).build(3), (True,))


# ---- diffusion in their latents ---------------------------------------------------------------------------


def system_of(data=DATA) -> System:
    recipe = replace(digits(), name="films", data=data, latents=SMALL, net=house(width=16, depth=1, heads=2, patch=1))
    return System(recipe, recipe.text.learn_tokenizer(["a circle"]))


def test_a_model_in_latents_of_films_samples_films():
    """Noise has as many frames as latents, samples as many as films; films that do not fit are refused."""
    model = Model(system_of())
    assert model.starting_noise(["a circle"]).shape == (1, 2, 2, 4, 4)
    assert model.sample(["a circle"] * 2, steps=1).media.shape == (2, 5, 3, 16, 16)
    with pytest.raises(UserError, match="film of 4 frames does not fit"):
        system_of(replace(DATA, frames=4))


def test_latents_of_films_are_kept(tmp_path):
    system, source = system_of(), First(DATA.open("train"), 5)
    cache = LatentCache(tmp_path, system, source)
    cache.fill()
    kept = cache.rows([4, 1], [0, 0]).mean
    assert kept.shape == (2, 2, 2, 4, 4)
    torch.testing.assert_close(kept, system.encode(source.pictures([4, 1], [0, 0])).mean, atol=1e-5, rtol=1e-5)


def test_a_teacher_speaks_of_the_last_frame_of_each_span():
    """A teacher of pictures says something of every frame, one in the same latents of every latent frame."""
    aligned, media = Aligned.__new__(Aligned), draw(2, 9, 3, 4, 4)
    aligned.spans = SMALL.build(3).spans
    aligned.teacher = lambda media: media
    assert torch.equal(aligned.taught(media), media[:, [0, 4, 8]])
    aligned.teacher = lambda media: media[:, :3]
    assert torch.equal(aligned.taught(media), media[:, :3])
