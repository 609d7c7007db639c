"""What is measured of an autoencoder: each measure against a closed form or a slow twin."""

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter

from fromnoise.data.digits import Digits
from fromnoise.data.shapes import Shapes
from fromnoise.evaluate.reconstruction import codebook_use, evaluate_reconstruction, latent_rows, psnr, ssim


def test_psnr_of_a_known_error():
    real = torch.zeros(2, 1, 1, 4, 4)
    made = real + torch.tensor([0.02, 0.2]).view(2, 1, 1, 1, 1)  # a hundredth and a tenth of the range
    assert psnr(made, real).tolist() == pytest.approx([40.0, 20.0], abs=1e-4)
    assert psnr(real, real).tolist() == [100.0, 100.0]


def slow_ssim(x, y):
    """Scipy's Gaussian, cut at 3.5 sigma, which is 5 pixels; places nearer than that to the edge are left out."""
    def mean(z):
        return gaussian_filter(z, 1.5, truncate=3.5)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    s = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return s[5:-5, 5:-5].mean()


def test_ssim_is_that_of_wang_et_al():
    real = torch.rand(2, 3, 20, 17, dtype=torch.float64) * 2 - 1
    made = (real + 0.3 * torch.randn_like(real)).clamp(-1, 1)
    slow = [sum(slow_ssim(made[i, c].numpy(), real[i, c].numpy()) for c in range(3)) / 3 for i in range(2)]
    assert ssim(made, real).tolist() == pytest.approx(slow, rel=1e-6)
    assert ssim(real, real).tolist() == pytest.approx([1.0, 1.0])
    small = real[..., :8, :8]  # a window of 7 pixels
    assert 0 < float(ssim(made[..., :8, :8], small)[0]) < 1


def test_codebook_use():
    codes = torch.tensor([[0, 0, 1, 1], [2, 2, 3, 3]])
    assert codebook_use(codes, 8) == pytest.approx((4.0, 0.5))
    perplexity, used = codebook_use(torch.tensor([0, 0, 0, 1]), 2)
    assert perplexity == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
    assert used == 1


def test_statistics_of_latents():
    latents = torch.randn(64, 1, 2, 16, 16) * torch.tensor([1.0, 3.0]).view(2, 1, 1) + 5
    std, kurtosis = latent_rows(latents)
    assert std.value == pytest.approx(2.0, abs=0.05)
    assert "; std 1.0" in std.note
    assert kurtosis.value == pytest.approx(3.0, abs=0.15)


def perfect(media):
    return media, media[..., ::4, ::4], None


def blurred(media):
    return torch.nn.functional.avg_pool2d(media[:, 0], 9, 1, 4)[:, None], media[..., ::4, ::4], None


def test_a_perfect_autoencoder_of_shapes_beside_a_bad_one():
    best = evaluate_reconstruction(perfect, Shapes(), count=40)
    worst = evaluate_reconstruction(blurred, Shapes(), count=40)
    assert (best["PSNR, dB"], best["perceptual distance"]) == (100, 0)
    assert best["SSIM"] == pytest.approx(1)
    assert best["Frechet distance"] == pytest.approx(0, abs=1e-6)
    assert best["everything right, after the latents"] == 1
    assert worst["everything right, after the latents"] < 0.2
    assert worst["PSNR, dB"] < 25
    assert worst["perceptual distance"] > 0.01
    assert worst["Frechet distance"] > next(row.real for row in worst.rows if row.name == "Frechet distance")


def test_pictures_are_not_compared_with_themselves():
    """Where all that is held out went through the autoencoder, there are no other real ones to stand beside."""
    report = evaluate_reconstruction(lambda media: (media, media, None), Digits(), count=10_000)
    assert "Frechet distance" not in [row.name for row in report.rows]


def test_codes_of_digits_are_counted():
    def coded(media):
        return media, media, torch.arange(len(media)).view(-1, 1, 1, 1) % 4

    report = evaluate_reconstruction(coded, Digits(), count=64, codebook=16)
    assert report["codes, perplexity"] == pytest.approx(4.0)
    assert report["codes, share in use"] == 0.25
    assert report["caption accuracy, after the latents"] > 0.9
