"""Spectra of pictures and noise against closed forms."""

import math

import pytest
import torch

from fromnoise.evaluate.spectra import (
    band_loss,
    band_snr,
    bands,
    drowning_time,
    noise_of_bits,
    quantise,
    radial_power,
    wiener_loss,
)
from fromnoise.evaluate.spectra_plots import plot_blind_spots, plot_frequencies
from fromnoise.process import EDM, VP, Cosine, Flow, expand

COUNT, SIZE = 8, 32


def coloured(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(stationary Gaussian pictures ``[count, 1, 1, SIZE, SIZE]``, their power ``[COUNT]``), flat in each band."""
    _, index = bands(SIZE, SIZE, COUNT)
    power = torch.logspace(1, -2, COUNT, dtype=torch.float64)
    noise = torch.randn(count, 1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    gain = torch.where(index >= 0, power[index.clamp(min=0)].sqrt(), 0)
    return torch.fft.ifft2(torch.fft.fft2(noise) * gain).real, power


def test_every_coefficient_has_its_band():
    for height, width in ((32, 32), (24, 40), (9, 11)):
        frequency, index = bands(height, width, 4)
        assert index.shape == (height, width)
        assert (index == -1).sum() == 1
        assert bool((frequency.diff() > 0).all())
        radius = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])
        assert bool((index[radius > 0.5] == 3).all())
        assert bool((index[(radius > 0) & (radius < 0.12)] == 0).all())
    with pytest.raises(ValueError, match="too many"):
        bands(8, 8, 20)


def test_white_noise_is_flat_and_a_wave_lies_in_its_band():
    x = 0.5 * torch.randn(400, 1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    _, power = radial_power(x, COUNT)
    torch.testing.assert_close(power, torch.full((COUNT,), 0.25), rtol=0.02, atol=0)
    column = torch.arange(SIZE)
    wave = torch.cos(2 * math.pi * 5 / SIZE * column).expand(1, 1, 1, SIZE, SIZE)  # 5/32 cycles a pixel
    _, power = radial_power(wave, COUNT)
    assert int(power.argmax()) == int(5 / 32 * 2 * COUNT)
    assert float(power.sort().values[-2]) < 1e-9


def test_power_is_that_of_the_pixels():
    """Parseval, the mean apart."""
    x = torch.randn(3, 2, 3, 24, 40, dtype=torch.float64) + 0.7
    _, index = bands(24, 40, COUNT)
    _, power = radial_power(x, COUNT)
    members = torch.bincount(index[index >= 0], minlength=COUNT)
    variance = (x - x.mean((-2, -1), keepdim=True)).square().mean()
    assert float((power * members).sum() / (24 * 40)) == pytest.approx(float(variance))


@pytest.mark.parametrize("path", [Flow(), VP(), EDM(), Cosine()], ids=lambda p: p.kind)
def test_band_snr_is_that_of_noisy_pictures(path):
    """alpha^2 P_b / (sigma^2 N) with N, the power of white noise, measured as P_b is."""
    x0, power = coloured(600)
    t = torch.tensor([0.3, 0.6], dtype=torch.float64)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for i, time in enumerate(t):
        signal, rest = (radial_power(part, COUNT)[1] for part in (path.alpha(time) * x0, path.sigma(time) * noise))
        torch.testing.assert_close(signal / rest, band_snr(power, path, t)[i], rtol=0.03, atol=0)
    drowned = drowning_time(power, path)
    torch.testing.assert_close(band_snr(power, path, drowned).diagonal(), torch.ones(COUNT, dtype=torch.float64))
    assert bool((drowned.diff() < 0).all())  # fine bands first


def test_loss_by_band_of_the_best_denoiser_is_wieners():
    x0, power = coloured(300)
    path, t = Flow(), torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    _, index = bands(SIZE, SIZE, COUNT)
    spectrum = torch.where(index >= 0, power[index.clamp(min=0)], 0)

    def wiener(x, t):
        a, s = path.alpha(expand(t, x)), path.sigma(expand(t, x))
        return torch.fft.ifft2(torch.fft.fft2(x) * a * spectrum / (a**2 * spectrum + s**2)).real

    found = band_loss(wiener, x0, path, t, COUNT, torch.Generator().manual_seed(2))
    torch.testing.assert_close(found, wiener_loss(power, path, t), rtol=0.04, atol=0)
    lazy = band_loss(lambda x, t: torch.zeros_like(x), x0, path, t, COUNT)
    assert bool((lazy > found).all())


def test_fewer_bits():
    x = torch.linspace(-1, 1, 100_001, dtype=torch.float64)
    for bits in (1, 3, 8):
        rounded = quantise(x, bits)
        assert len(rounded.unique()) == 2**bits
        assert torch.equal(quantise(rounded, bits), rounded)
        assert rounded[0] == -1
        assert rounded[-1] == 1
        assert float((rounded - x).square().mean().sqrt()) == pytest.approx(noise_of_bits(bits), rel=0.02)
    pixels = torch.arange(256) / 127.5 - 1
    torch.testing.assert_close(quantise(pixels, 8), pixels)
    with pytest.raises(ValueError, match="from 1 to 16"):
        quantise(x, 0)


def test_figures_are_written(tmp_path):
    x0, _ = coloured(2)
    chart = plot_frequencies(x0.float(), Flow(), tmp_path / "f.png", count=COUNT)
    assert len(chart.axes) == 5 + 3 + 1  # with the colour bar
    plot_blind_spots(x0[0].float(), tmp_path / "b.png", depths=(4, 2))
    assert min(p.stat().st_size for p in tmp_path.iterdir()) > 10_000
