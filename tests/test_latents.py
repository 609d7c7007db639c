"""What holds for all latent spaces; equivariance; tiles and slices of large pictures."""

import pytest
import torch
import torch.nn.functional as F
from parity import draw
from pydantic import TypeAdapter
from torch import nn

from fromnoise.config import to_dict
from fromnoise.latents import DC, FSQ, KL, VQ, Latents, Pixels, Transform, equivariance, sliced, tiled
from fromnoise.latents.pictures import PictureAutoencoder
from fromnoise.random import generator

F64 = torch.float64
TINY = {"widths": (8, 8, 8), "groups": 4, "depth": 1}
SPACES = {  # spec, factor, channels, codebook
    "pixels": (Pixels(), 1, 3, 0),
    "kl": (KL(channels=5, **TINY), 4, 5, 0),
    "kl, packed": (KL(channels=2, patch=2, mean=tuple(range(8)), **TINY), 8, 8, 0),
    "vq": (VQ(codebook=11, channels=5, inner=3, **TINY), 4, 5, 11),
    "fsq": (FSQ(levels=(4, 3), **TINY, std=(2.0, 3.0)), 4, 2, 12),
    "dc": (DC(channels=4, widths=(8, 8, 16), depths=(0, 1, 1), attended=1, head=4, std=(2.0,)), 4, 4, 0),
}


def build(name):
    torch.manual_seed(0)
    return SPACES[name][0].build(3).double()


@pytest.mark.parametrize("name", SPACES)
def test_a_space_is_what_it_says(name):
    """Sizes, statistics, and one pass of training, which reaches everything that is learned."""
    spec, factor, channels, codebook = SPACES[name]
    model, media = build(name), draw(2, 3, 3, 16, 24)
    assert (model.factor, model.channels, model.codebook) == (factor, channels, codebook)
    latents = model.encode(media)
    assert latents.shape == (2, 3, channels, 16 // factor, 24 // factor)
    assert model.decode(latents).shape == media.shape
    torch.testing.assert_close(model.normalised(model.raw(latents)), latents)
    raw = (2, 3, channels // 4, 4, 6) if name == "kl, packed" else latents.shape
    found = model.eval().code(media, draw(*raw, seed=2))
    assert found.media.shape == media.shape
    assert found.latents.shape == latents.shape
    assert all(penalty.ndim == 0 for penalty in found.penalties.values())
    assert (found.codes is None) == (codebook == 0)
    torch.testing.assert_close(model.decode(found.latents), found.media)
    (found.media.square().mean() + sum(found.penalties.values())).backward() if name != "pixels" else None
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    one = model.encode(media[1:, 2:])  # every frame on its own
    torch.testing.assert_close(one[0, 0], model.encode(media)[1, 2])
    adapter = TypeAdapter(Latents)
    assert adapter.validate_python(to_dict(spec)) == spec


@pytest.mark.parametrize("name", [name for name in SPACES if name != "pixels"])
def test_a_picture_of_another_size_is_refused(name):
    model = build(name)
    for size in ((17, 16), (16, 18)):
        with pytest.raises(ValueError, match=f"multiple of {model.factor}"):
            model.encode(torch.zeros(1, 1, 3, *size, dtype=F64))
        with pytest.raises(ValueError, match=f"multiple of {model.factor}"):
            tiled(model, 4, 2).encode(torch.zeros(1, 1, 3, *size, dtype=F64))


# ---- equivariance ----------------------------------------------------------------------------------------


class Blocks(PictureAutoencoder):
    """Means of 2 x 2 pixels, and their repetition."""

    def __init__(self):
        super().__init__(2, 3, (0.5,), (2.0,))

    def to_raw(self, pictures, noise=None):
        return F.avg_pool2d(pictures, 2)

    def from_raw(self, raw):
        return F.interpolate(raw, scale_factor=2.0)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("size", [(8, 12), (4, 6), (2, 3), (4, 12)])
def test_an_equivariant_autoencoder_pays_nothing(turns, size):
    squares = torch.randint(-64, 64, (2, 2, 3, 2, 3), generator=torch.Generator().manual_seed(0)).double()
    model, media = Blocks(), squares.repeat_interleave(8, -1).repeat_interleave(8, -2)
    assert equivariance(model, media, model.encode(media), Transform(size, turns)) == 0
    pixels, any_size = Pixels().build(3), Transform((5, 7), turns)
    assert equivariance(pixels, media, media, any_size) == 0


def test_another_pays_and_its_encoder_hears_of_it():
    model, media = build("kl"), draw(1, 1, 3, 16, 24)
    for transform in (Transform((4, 6), 1), Transform((2, 3), 0)):
        model.zero_grad()
        loss = equivariance(model, media, model.encode(media), transform)
        assert loss > 1e-3
        loss.backward()
        assert model.encoder.enter.weight.grad.abs().max() > 0
    found = equivariance(model, media, model.encode(media), transform, F.l1_loss)
    wanted = F.adaptive_avg_pool2d(media[:, 0], (8, 12))
    back = model.decode(F.adaptive_avg_pool2d(model.encode(media)[:, 0], (2, 3))[:, None])[:, 0]
    torch.testing.assert_close(found, (back - wanted).abs().mean())


def test_transforms_are_drawn_alike_and_by_number_alone():
    drawn = [Transform.draw((40, 80), generator(0, i)) for i in range(2000)]
    assert drawn[7] == Transform.draw((40, 80), generator(0, 7))
    counts = torch.bincount(torch.tensor([t.turns for t in drawn])) / 2000
    assert float((counts - 0.25).abs().max()) < 0.04
    heights = torch.tensor([t.size[0] for t in drawn]).float()
    assert (heights.min(), heights.max()) == (10, 40)
    assert abs(float(heights.mean()) - 25) < 1
    assert all(abs(t.size[1] - 2 * t.size[0]) <= 1 for t in drawn)


# ---- tiles and slices ------------------------------------------------------------------------------------


class Convolutions(PictureAutoencoder):
    """Sees two latents far to encode, two to decode."""

    def __init__(self):
        super().__init__(4, 5, (0.2,), (1.5,))
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.SiLU(), nn.Conv2d(8, 8, 4, 2, 1), nn.SiLU(),
                                     nn.Conv2d(8, 5, 3, padding=1))
        self.decoder = nn.Sequential(nn.Conv2d(5, 8, 3, padding=1), nn.SiLU(), nn.ConvTranspose2d(8, 8, 4, 2, 1),
                                     nn.SiLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1))

    def to_raw(self, pictures, noise=None):
        raw = self.encoder(pictures)
        return raw if noise is None else raw + noise

    def from_raw(self, raw):
        return self.decoder(raw)


SIZES = [(52, 100), (100, 52), (32, 48), (36, 33 * 4)]  # one that divides, one tile high, uneven ones


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("tile", "overlap", "margin"), [(12, 4, 2), (12, 6, 2), (9, 4, 2), (16, 8, 2)])
def test_tiles_are_exact_where_nothing_beyond_the_margin_is_seen(size, tile, overlap, margin):
    model = Convolutions().float()
    parts = tiled(model, tile, overlap, margin)
    media = torch.randn(2, 2, 3, *size, generator=torch.Generator().manual_seed(1))
    whole = model.encode(media)
    noise = torch.randn(whole.shape, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(parts.encode(media), whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(parts.encode(media, noise), model.encode(media, noise), rtol=0, atol=1e-5)
    torch.testing.assert_close(parts.decode(whole), model.decode(whole), rtol=0, atol=1e-5)


def test_without_a_margin_only_the_seams_differ():
    model = Convolutions()
    media = torch.randn(1, 1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    latents = model.encode(media)
    error = (tiled(model, 16, 4, 0).decode(latents) - model.decode(latents)).abs().amax((0, 1, 2))
    away = torch.ones(128, dtype=torch.bool)
    away[4 * 12 : 4 * 28] = False  # tiles begin at 0, 12 and 16 of 32 latents, and share what lies between
    assert error.max() > 1e-4
    assert error[away][:, away].max() < 1e-5


def test_a_picture_that_fits_is_done_whole_and_nothing_larger_than_a_tile_is_seen(monkeypatch):
    model, seen = Convolutions(), []
    monkeypatch.setattr(model, "from_raw", lambda raw: (seen.append(raw.shape[-2:]), model.decoder(raw))[1])
    tiled(model, 12, 4).decode(torch.zeros(1, 1, 5, 12, 9))
    assert seen == [(12, 9)]
    seen.clear()
    out = tiled(model, 12, 4).decode(torch.zeros(1, 1, 5, 30, 9))
    assert out.shape == (1, 1, 3, 120, 36)
    assert seen == [(12, 9)] * 4
    assert isinstance(tiled(sliced(model)).encode(torch.zeros(1, 1, 3, 8, 8)), torch.Tensor)


@pytest.mark.parametrize("name", SPACES)
def test_slices_are_equal(name):
    model, media = build(name).eval(), draw(3, 2, 3, 16, 24)
    latents = model.encode(media)
    noise = draw(3, 2, 2, 4, 6) if name == "kl, packed" else draw(*latents.shape, seed=2)
    for batch in (1, 4, 10):
        parts = sliced(model, batch)
        assert (parts.factor, parts.channels, parts.codebook) == (model.factor, model.channels, model.codebook)
        assert torch.equal(parts.encode(media, noise), model.encode(media, noise))
        assert torch.equal(parts.decode(latents), model.decode(latents))


@pytest.mark.parametrize("wrong", [{"tile": 8, "overlap": 5}, {"overlap": 4, "margin": 3}, {"overlap": 0}])
def test_tiles_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="must have room"):
        tiled(Convolutions(), **wrong)
    with pytest.raises(ValueError, match="at least 1"):
        sliced(Convolutions(), 0)
