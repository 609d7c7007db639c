"""The causal film autoencoder: what it sees, in parts and in tiles, beside the one of pictures and beside Wan's."""

import pytest
import torch
from parity import draw
from pydantic import TypeAdapter

from fromnoise.config import to_dict
from fromnoise.folders import open_component
from fromnoise.interop.autoencoder import load_latents, to_diffusers
from fromnoise.interop.convolutional import NoCounterpart
from fromnoise.interop.rules import give, take
from fromnoise.interop.wan import wan_rules, wan_spec
from fromnoise.latents import KL, CausalKL, Latents, Pixels, sliced, tiled
from fromnoise.types import UserError

F64 = torch.float64
SPACES = {  # spec, factor, time factor
    "groups": (CausalKL(channels=3, widths=(8, 16, 16), halved=(True, True), depth=1, groups=4, std=(2.0,)), 4, 4),
    "places": (CausalKL(channels=3, widths=(8, 16), halved=(True,), depth=1, norm="rms", narrowing=True, unshuffle=2,
                        mean=(0.1, 0.2, 0.3)), 4, 2),
    "outer": (CausalKL(channels=2, widths=(4, 8, 8), halved=(True, False), decoder_widths=(8, 4, 8), depth=1, groups=2,
                       attention=False), 4, 2),
}


def randomised(module, seed=0):
    """Every parameter random, so that none hides behind a constant."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=F64)
        parameter.data = (0.3 * noise + (0.5 if parameter.ndim == 1 else 0)).to(parameter.dtype)
    return module.eval()


def build(name):
    return randomised(SPACES[name][0].build(3).double())


def film(name, groups=2, side=8):
    return draw(2, 1 + groups * SPACES[name][2], 3, side, side + 4)


@pytest.mark.parametrize("name", SPACES)
def test_a_space_of_films_is_what_it_says(name):
    """Sizes, statistics, and one pass of training, which reaches everything that is learned."""
    spec, factor, times = SPACES[name]
    model, media = build(name), film(name)
    assert (model.factor, model.time_factor, model.channels) == (factor, times, spec.channels)
    latents = model.encode(media)
    assert latents.shape == (2, 3, spec.channels, 2, 3)
    assert model.decode(latents).shape == media.shape
    noise = draw(*latents.shape, seed=2)
    found = model.code(media, noise)
    torch.testing.assert_close(found.latents, model.encode(media, noise))
    torch.testing.assert_close(found.media, model.decode(found.latents))
    mean, logvar = model.posterior(media)
    torch.testing.assert_close(found.latents, mean + torch.exp(logvar / 2) * noise)
    (found.media.square().mean() + found.penalties["kl"]).backward()
    assert all(float(p.grad.abs().max()) > 0 for p in model.parameters())
    assert TypeAdapter(Latents).validate_python(to_dict(spec)) == spec


def test_latent_frames_and_what_they_stand_for():
    model = build("groups")
    assert [model.latent_frames(n) for n in (1, 5, 17)] == [1, 2, 5]
    assert model.spans(9) == [range(1), range(1, 5), range(5, 9)]
    for alone in (Pixels().build(3), KL(widths=(4, 8), groups=4).build(3), tiled(KL(widths=(4, 8), groups=4).build(3))):
        assert (alone.time_factor, alone.latent_frames(7)) == (1, 7)
        assert alone.spans(3) == [range(1), range(1, 2), range(2, 3)]
    for frames, near in ((4, "1 or 5"), (16, "13 or 17"), (0, "1")):
        with pytest.raises(UserError, match=f"film of {frames} frames does not fit .* 4 at a time: give it {near}"):
            model.latent_frames(frames)
    with pytest.raises(UserError, match="6 frames does not fit"):
        model.encode(draw(1, 6, 3, 8, 8))
    with pytest.raises(ValueError, match="multiple of 4"):
        model.encode(draw(1, 5, 3, 8, 10))


@pytest.mark.parametrize("name", SPACES)
def test_nothing_is_seen_of_later_frames(name):
    """Gradients of earlier latents to later frames are exactly 0, and of frames to later latents; others are not."""
    model, media = build(name), film(name).requires_grad_(True)
    latents, spans = model.encode(media), model.spans(media.shape[1])
    for i, span in enumerate(spans):
        (pull,) = torch.autograd.grad(latents[:, i].square().sum(), media, retain_graph=True)
        assert not pull[:, span.stop :].any()
        assert all(pull[:, t].any() for t in range(span.stop))
    latents = latents.detach().requires_grad_(True)
    made = model.decode(latents)
    for i, span in enumerate(spans):
        for t in span:
            (pull,) = torch.autograd.grad(made[:, t].square().sum(), latents, retain_graph=True)
            assert not pull[:, i + 1 :].any()
            assert pull[:, i].any()


@pytest.mark.parametrize("name", SPACES)
def test_in_parts_is_as_whole(name):
    """Values and gradients, whatever the parts; the seam carries gradients of later frames to earlier ones."""
    model, media = build(name), film(name, 4)
    noise = draw(2, 5, model.channels, 2, 3, seed=2)
    whole, made = model.moments(media), model.decode(noise)
    pull = draw(*made.shape, seed=3)
    (whole[0].sum() + (made * pull).sum()).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    for at_once in (1, 2, 3):
        model.zero_grad()
        mean, logvar = model.moments(media, at_once)
        again = model.decode(noise, at_once)
        torch.testing.assert_close((mean, logvar, again), (*whole, made), rtol=0, atol=1e-12)
        (mean.sum() + (again * pull).sum()).backward()
        for n, p in model.named_parameters():
            torch.testing.assert_close(p.grad, gradients[n], rtol=1e-9, atol=1e-10)
    single = model.float()
    torch.testing.assert_close(single.decode(noise.float(), 1), single.decode(noise.float()), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_long_film_takes_bounded_memory(monkeypatch):
    """However long the film is, no convolution is given more frames than of one part and what it remembers."""
    model, most = build("groups"), []
    forward = torch.nn.Conv3d.forward
    monkeypatch.setattr(torch.nn.Conv3d, "forward",
                        lambda self, x: (most.append(x.shape[2]), forward(self, x))[1])
    for groups in (4, 40):
        most.clear()
        latents, _ = model.moments(draw(1, 1 + 4 * groups, 3, 4, 4), 2)
        model.decode(latents, 2)
        assert max(most) == 2 * 4 + 2
        assert latents.shape[1] == 1 + groups


def test_tiles_of_films():
    """Within what a latent sees, by tiles is as whole; films are cut in space alone, and sliced as films."""
    model = randomised(CausalKL(channels=2, widths=(8, 8), halved=(True,), depth=1, norm="rms",
                                attention=False).build(3).double())
    media = draw(2, 3, 3, 8, 160)
    with torch.no_grad():
        latents = model.encode(media)
        parts = tiled(model, 56, 28, 14)
        assert parts.spans(3) == model.spans(3)
        torch.testing.assert_close(parts.encode(media), latents, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(parts.decode(latents), model.decode(latents), rtol=1e-9, atol=1e-9)
        noise = draw(*latents.shape, seed=2)
        few = sliced(model, 1)
        torch.testing.assert_close(few.encode(media, noise), model.encode(media, noise), rtol=0, atol=1e-12)
        torch.testing.assert_close(few.decode(latents), model.decode(latents), rtol=0, atol=1e-12)


# ---- Wan -------------------------------------------------------------------------------------------------

WAN = {"base_dim": 8, "z_dim": 3, "dim_mult": [1, 2, 4], "num_res_blocks": 2, "attn_scales": [],
       "latents_mean": [0.1, -0.2, 0.3], "latents_std": [1.5, 2.0, 0.5]}
WANS = {
    "both": {"temperal_downsample": [True, True]},
    "one, another decoder": {"temperal_downsample": [False, True], "decoder_base_dim": 12, "num_res_blocks": 1},
}


def near(a, b):
    """To 1e-10 of the largest value, or of 1."""
    assert float((a - b).detach().abs().max()) < 1e-10 * max(1.0, float(b.detach().abs().max()))


def wan(change):
    diffusers = pytest.importorskip("diffusers")
    theirs = randomised(diffusers.AutoencoderKLWan(**WAN | change).double())
    spec = wan_spec(theirs.config)
    ours = spec.build(3).double()
    ours.load_state_dict(take(theirs.state_dict(), wan_rules(spec)))
    return ours, theirs


@pytest.mark.parametrize("name", WANS)
def test_it_is_the_autoencoder_of_wan(name, monkeypatch):
    """Outputs and every gradient of tiny random weights, in float64, which theirs would leave where it enlarges."""
    ours, theirs = wan(WANS[name])
    kind = type(theirs.decoder.up_blocks[0].upsamplers[0].resample[0])
    monkeypatch.setattr(kind, "forward", torch.nn.Upsample.forward)
    media = draw(2, 9, 3, 16, 24)
    law = theirs.encode(media.transpose(1, 2)).latent_dist
    mean, logvar = ours.moments(media)
    near(mean.transpose(1, 2), law.mean)
    near(logvar.transpose(1, 2), law.logvar)
    noise = draw(*mean.shape, seed=2)
    drawn = ours.encode(media, noise)
    raw = law.mean + law.std * noise.transpose(1, 2)
    shift, scale = (torch.tensor(WAN[f"latents_{n}"], dtype=F64).view(-1, 1, 1, 1) for n in ("mean", "std"))
    near(drawn.transpose(1, 2), (raw - shift) / scale)
    made, true = ours.decode(drawn).clamp(-1, 1), theirs.decode(raw).sample.transpose(1, 2)
    near(made, true)
    assert float((made.abs() < 1).double().mean()) > 0.1  # theirs are cut, and not all of them may be
    pull = draw(*made.shape, seed=3)
    ((made * pull).sum() + mean.sum()).backward()
    ((true * pull).sum() + law.mean.sum()).backward()
    gradients = take({n: p.grad for n, p in theirs.named_parameters()}, wan_rules(ours.spec))
    for n, p in ours.named_parameters():
        assert gradients[n].any(), n
        near(p.grad, gradients[n])


def test_a_folder_of_wan_opens_and_what_is_exported_opens_there(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    first, theirs = wan(WANS["both"])
    theirs.float().save_pretrained(tmp_path)
    ours = load_latents(open_component(tmp_path))
    assert ours.spec == first.spec
    kind, config, tensors = to_diffusers(ours)
    again = getattr(diffusers, kind)(**config)
    again.load_state_dict(tensors)
    assert all(torch.equal(again.state_dict()[n], t) for n, t in theirs.state_dict().items())
    assert give(ours.state_dict(), wan_rules(ours.spec)).keys() == theirs.state_dict().keys()
    with pytest.raises(NoCounterpart, match="norms of kind rms"):
        to_diffusers(build("groups"))


def test_published_size_of_wan():
    """126,892,531 parameters, as diffusers builds it by default."""
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        theirs = diffusers.AutoencoderKLWan()
        ours = wan_spec(theirs.config).build(3)
    assert [sum(p.numel() for p in m.parameters()) for m in (ours, theirs)] == [126_892_531] * 2
    assert (ours.factor, ours.time_factor, ours.channels) == (8, 4, 16)


@pytest.mark.parametrize(("change", "words"), [
    ({"is_residual": True}, "is_residual"), ({"patch_size": 2}, "patch_size"), ({"attn_scales": [0.5]}, "attn_scales"),
    ({"out_channels": 4}, "other channels"), ({"dim_mult": [2, 4, 4]}, "begin with 1"),
    ({"latents_mean": None}, "must hold latents_mean"), ({"temperal_downsample": [True]}, "for each level"),
])
def test_what_has_no_counterpart_is_said(change, words):
    with pytest.raises(UserError, match=words):
        wan_spec(WAN | {"temperal_downsample": [True, True]} | change)
