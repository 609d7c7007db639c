"""What is measured of films: each measure on films whose value is known, and whether faults over time are seen."""

import math

import numpy as np
import pytest
import torch
from parity import draw
from scipy.ndimage import gaussian_filter
from sliding import Sliding

from fromnoise.evaluate import evaluate, reconstruction
from fromnoise.evaluate.flow import blur, flow, visible, warp
from fromnoise.evaluate.real import everything, films, stills
from fromnoise.evaluate.reconstruction import evaluate_reconstruction, psnr
from fromnoise.evaluate.temporal import clip_frechet, flicker, movement, over_frames, temporal_rows, warping_error
from fromnoise.perception import Distance, RandomClipFeatures, RandomFeatures

TO_NORMAL = math.sqrt(2 / math.pi)  # E |x| of a normal number, in standard deviations


def texture(dx=0.0, dy=0.0, n=4, side=32):
    """Sums of waves, moved by (dx, dy) exactly, ``[n, 3, side, side]``."""
    random = torch.Generator().manual_seed(0)
    wave = (torch.rand(n, 3, 12, 2, generator=random, dtype=torch.float64) * 2 - 1) * 0.9
    phase = 2 * math.pi * torch.rand(n, 3, 12, generator=random, dtype=torch.float64)
    y, x = torch.meshgrid(*[torch.arange(side, dtype=torch.float64) - d for d in (dy, dx)], indexing="ij")
    angle = wave[..., :1, None] * x + wave[..., 1:, None] * y + phase[..., None, None]
    return 2 * torch.sin(angle).mean(2).float()


def film(dx, dy, frames=3):
    """The texture at a constant speed, ``[n, frames, 3, side, side]``."""
    return torch.stack([texture(t * dx, t * dy) for t in range(frames)], dim=1)


def speckled(media, std, seed=1):
    """With new normal noise in every frame."""
    return media + std * draw(*media.shape, seed=seed).float()


@pytest.fixture(scope="module")
def real():
    return films(Sliding(objects=1, frames=7).open("test"), 300)[0]


# ---- flow -----------------------------------------------------------------------------------------------


def test_blur_is_scipys():
    x = draw(1, 1, 20, 24)
    expected = gaussian_filter(x[0, 0].numpy(), 2.0, mode="nearest", truncate=3.0)
    np.testing.assert_allclose(blur(x)[0, 0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("by", [(1.0, 0.0), (0.5, -0.25), (2.0, 1.5), (3.0, -2.5)])
def test_flow_of_a_known_translation(by):
    found = flow(texture(), texture(*by))[..., 8:-8, 8:-8]
    assert float((found - torch.tensor(by)[:, None, None]).abs().mean()) < 0.06
    assert not flow(texture(), texture()).any()


def test_warp_by_whole_pixels_is_a_shift():
    x = draw(2, 3, 8, 9).float()
    by = torch.tensor([2.0, -1.0])[:, None, None].expand(2, 2, 8, 9)
    torch.testing.assert_close(warp(x, by)[..., 1:, :-2], x[..., :-1, 2:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(warp(x, torch.zeros(2, 2, 8, 9)), x, atol=1e-5, rtol=1e-5)


def test_what_leaves_the_picture_or_is_covered_is_not_seen():
    there = torch.zeros(1, 2, 8, 8)
    there[:, 0] = 3.0
    assert visible(there, -there).sum() == 8 * 5  # the last three columns go out
    assert not visible(there, there).any()  # further away instead of home


# ---- measures -------------------------------------------------------------------------------------------


def test_a_frozen_film_has_nothing_over_time():
    frozen = texture()[:, None].expand(-1, 4, -1, -1, -1)
    for measure in (movement, flicker, warping_error):
        assert not measure(frozen).any()


def test_noise_of_known_strength_flickers_by_as_much():
    """x_(t+1) - x_t of independent noise has variance 2, and the second difference 1 + 4 + 1."""
    noisy = speckled(texture()[:, None].expand(-1, 9, -1, -1, -1), 0.1)
    assert float(movement(noisy).mean()) == pytest.approx(0.1 * math.sqrt(2) * TO_NORMAL, rel=0.02)
    assert float(flicker(noisy).mean()) == pytest.approx(0.1 * math.sqrt(6) * TO_NORMAL, rel=0.02)


def test_an_even_change_does_not_flicker():
    brighter = torch.linspace(-1, 1, 5).view(1, 5, 1, 1, 1).expand(2, 5, 3, 8, 8)
    assert movement(brighter).tolist() == pytest.approx([0.5, 0.5])
    assert float(flicker(brighter).max()) < 1e-6


def test_warping_error_of_a_translation_is_of_interpolation_alone():
    moved = film(1.0, 0.5)
    assert float(warping_error(moved).mean()) < 0.06 * float(movement(moved).mean())
    noisy = float(warping_error(speckled(moved, 0.1)).mean())
    assert 0.8 * 0.1 * TO_NORMAL < noisy < 1.1 * 0.1 * math.sqrt(2) * TO_NORMAL  # interpolation takes some noise away


def test_what_changes_on_its_way_has_a_warping_error(real):
    fading = real[:32] * torch.linspace(1, 0.3, 7).view(7, 1, 1, 1)
    assert float(warping_error(fading).mean()) > 2 * float(warping_error(real[:32]).mean())


def test_the_curve_over_frames_is_of_each_frame():
    media = draw(3, 4, 1, 8, 8)
    made = media + torch.tensor([0.02, 0.2, 0.02, 2.0]).view(4, 1, 1, 1)
    assert over_frames(psnr, made, media).tolist() == pytest.approx([40, 20, 40, 0], abs=1e-3)
    with pytest.raises(ValueError, match="frame by frame"):
        over_frames(psnr, made[:, :2], media)


def test_short_films_have_the_rows_that_they_allow(real):
    assert [row.name for row in temporal_rows(real[:4], real[4:8])] == ["movement", "flicker", "warping error"]
    assert [row.name for row in temporal_rows(real[:4, :2], real[4:8])] == ["movement", "warping error"]
    assert temporal_rows(real[:4, :1], real[4:8]) == []


# ---- features of films ----------------------------------------------------------------------------------


def test_features_of_films_do_not_depend_on_the_batch(real):
    net = RandomClipFeatures(3)
    torch.testing.assert_close(net.look(real[:9], 4), net.look(real[:9], 9), atol=1e-5, rtol=1e-5)
    assert torch.equal(net.look(real[:2]), RandomClipFeatures(3).look(real[:2]))
    assert net.look(real[:2, :2]).shape == net.look(real[:2]).shape == (2, 96)
    still = net.look(real[:2, :1].expand(-1, 4, -1, -1, -1))[:, 32:]  # what changes, of films that do not
    torch.testing.assert_close(still[0], still[1])


FAULTS = {  # what is done to true films, which leaves every single frame as it was, or nearly
    "frozen": lambda x: x[:, :1].expand_as(x),
    "shuffled": lambda x: x[:, torch.tensor([3, 0, 5, 2, 6, 1, 4])],
    "faster": lambda x: x[:, torch.tensor([0, 2, 4, 6, 4, 2, 0])],
    "speckled": lambda x: speckled(x, 0.1),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_over_time_are_far_beyond_the_null(name, real):
    """In the Frechet distance of films; that of other true films is about its null."""
    data, (made, true, other) = Sliding(objects=1, frames=7), real.view(3, 100, *real.shape[1:])
    fine, broken = clip_frechet(made, true, other, data), clip_frechet(FAULTS[name](made), true, other, data)
    assert fine.real == broken.real
    assert fine.value < 2 * fine.real
    assert broken.value > 4 * broken.real


# ---- wired ----------------------------------------------------------------------------------------------


def test_stills_take_frames_in_turn():
    media = torch.arange(6).view(3, 2, 1, 1, 1).float()
    assert stills(media).flatten().tolist() == [0, 3, 4]
    source = Sliding(objects=1, frames=7).open("test")
    whole, text = films(source, 70, size=(16, 16))
    assert (whole.shape, len(text)) == ((70, 7, 3, 16, 16), 70)
    pictures, same = everything(source, 10, size=(16, 16))
    assert same == films(source, 10)[1]
    torch.testing.assert_close(pictures, stills(films(source, 10, size=(16, 16))[0]))


@pytest.mark.parametrize("broken", [False, True])
def test_an_evaluation_of_films_holds_what_they_show_over_time(broken):
    """Beside true films, and the panel is of whole films: true ones pass it and frozen ones do not."""
    data = Sliding(objects=1, frames=7)
    made = data.open("test").batch(range(1000, 1024), range(24)).media
    report = evaluate(lambda prompts, seed: FAULTS["frozen"](made) if broken else made, data, count=24)
    assert {"movement", "flicker", "warping error", "Frechet distance of films"} <= {row.name for row in report.rows}
    assert report.panel.size == 24
    assert report.panel.differs == broken
    assert (report["movement"] == 0) == broken


def test_films_through_an_autoencoder_have_rows_over_time(monkeypatch):
    data = Sliding(objects=1, frames=7)
    eye = Distance(RandomFeatures(3), "a random network")
    monkeypatch.setattr(reconstruction, "looks", lambda data: eye)  # fitting one to the captions takes long
    report = evaluate_reconstruction(lambda media: (speckled(media, 0.05), media[:, ::2, :, ::4, ::4], None), data,
                                     count=24)
    assert report["PSNR, dB"] == pytest.approx(20 * math.log10(2 / 0.05), abs=0.05)
    assert report["PSNR, dB, worst frame"] <= report["PSNR, dB"]
    assert report["flicker of the error"] == pytest.approx(0.05 * math.sqrt(2) * TO_NORMAL, rel=0.02)
    found = {row.name: row for row in report.rows}
    assert found["flicker"].value > 2 * found["flicker"].real
    assert found["Frechet distance of films"].value > 0
