"""Likelihoods of exact denoisers against the closed form."""

import math

import pytest
import torch
from torch.testing import assert_close

from fromnoise.analytic import GaussianMixture, anisotropic, grid25, ring
from fromnoise.denoise import bits_per_dim, dequantised, log_likelihood, variational_bound
from fromnoise.process import EDM, VP, Cosine, Flow, Shifted, Trigonometric


@pytest.mark.parametrize("path", [Flow(), Cosine(), Trigonometric(), Shifted()], ids=lambda p: p.kind)
@pytest.mark.parametrize("mixture", [ring(), grid25(), anisotropic(dim=6, modes=4)], ids=["ring", "grid25", "six"])
def test_the_exact_trace_gives_the_exact_likelihood(mixture, path):
    x, _ = mixture.sample(12, torch.Generator().manual_seed(0))
    x = torch.cat([x, torch.randn(4, mixture.dim, dtype=torch.float64)])  # and points that are no data
    found = log_likelihood(mixture.denoiser(path), x, path, tolerance=1e-8)
    torch.testing.assert_close(found.nats, mixture.log_prob(x), atol=1e-5, rtol=0)
    assert not bool(found.error.any())


@pytest.mark.parametrize("path", [VP(), EDM()], ids=lambda p: p.kind)
def test_with_the_exact_prior_it_is_exact_on_paths_that_keep_some_signal(path):
    mixture = ring()
    x, _ = mixture.sample(8, torch.Generator().manual_seed(0))
    found = log_likelihood(mixture.denoiser(path), x, path, tolerance=1e-8,
                           prior=lambda end: mixture.log_prob(end, 1.0, path))
    torch.testing.assert_close(found.nats, mixture.log_prob(x), atol=1e-5, rtol=0)
    gaussian = log_likelihood(mixture.denoiser(path), x, path, tolerance=1e-8)
    torch.testing.assert_close(gaussian.nats, mixture.log_prob(x), atol=2e-3, rtol=0)


def test_a_fixed_grid_is_of_fourth_order():
    mixture, path = ring(), Flow()
    x, _ = mixture.sample(16, torch.Generator().manual_seed(0))
    error = [float((log_likelihood(mixture.denoiser(path), x, path, steps=n).nats - mixture.log_prob(x)).abs().mean())
             for n in (80, 160, 320)]
    assert error[0] < 1e-6
    assert math.log2(error[1] / error[2]) == pytest.approx(4, abs=0.2)
    with pytest.raises(ValueError, match="at least 1"):
        log_likelihood(mixture.denoiser(path), x, path, steps=0)


def test_start_is_the_density_of_noisy_data():
    mixture, path = ring(), Trigonometric()
    x, _ = mixture.sample(8, torch.Generator().manual_seed(0))
    found = log_likelihood(mixture.denoiser(path), x, path, tolerance=1e-8, start=0.1)
    torch.testing.assert_close(found.nats, mixture.log_prob(x, 0.1, path), atol=1e-5, rtol=0)


def test_hutchinson_is_unbiased_with_an_honest_error():
    mixture, path = anisotropic(dim=12, modes=3), Flow()
    x, _ = mixture.sample(48, torch.Generator().manual_seed(0))
    x = x.view(48, 1, 3, 4)  # any shape
    found = log_likelihood(mixture.denoiser(path), x, path, steps=60, probes=6)
    exact = log_likelihood(mixture.denoiser(path), x, path, steps=60)
    z = (found.nats - exact.nats) / found.error
    assert float(found.error.min()) > 0
    assert abs(float(z.mean())) < 4 * 1.5 / 48**0.5
    assert 0.6 < float(z.std()) < 2.2  # Student's t with 5 degrees of freedom has 1.3
    alone = log_likelihood(mixture.denoiser(path), x[40:], path, steps=60, probes=6, first=40)
    torch.testing.assert_close(alone.nats, found.nats[40:])


def test_a_network_has_a_likelihood():
    from fromnoise.denoise import Denoiser
    from fromnoise.nets import UNet
    from fromnoise.types import Condition

    net = UNet(width=8, multipliers=(1, 2)).build(1, 8)
    denoiser = Denoiser(net, Flow(), "velocity").requires_grad_(False).eval()
    x = torch.randn(2, 1, 1, 8, 8)
    text = Condition(torch.zeros(2, 3, 8), torch.ones(2, 3, dtype=torch.bool))
    found = log_likelihood(lambda x, t: denoiser(x, t, text), x, Flow(), steps=4, probes=2, start=0.01)
    assert found.nats.shape == (2,)
    assert bool(torch.isfinite(found.nats).all())


def test_bits_of_uniform_noise():
    """Uniform data in [-1, 1] of 256 levels need 8 bits."""
    assert float(bits_per_dim(torch.tensor(-5 * math.log(2.0)), 5)) == pytest.approx(8)


def test_dequantised_pictures_fill_their_cells_and_depend_on_their_index_alone():
    levels = torch.arange(256).repeat(200, 1)
    x = levels / 127.5 - 1
    y = dequantised(x, seed=3)
    cell = (y.double() + 1) * 128
    assert torch.equal(cell.floor().long(), levels)
    part = (cell - cell.floor()).flatten()
    assert float(part.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(part.var()) == pytest.approx(1 / 12, abs=0.002)
    assert torch.equal(dequantised(x[2:4], seed=3, first=2), y[2:4])
    assert not torch.equal(dequantised(x, seed=4), y)
    for wrong in (x + 0.001, x * 2):
        with pytest.raises(ValueError, match="256 levels"):
            dequantised(wrong)


def test_bits_of_dequantised_pictures_bound_those_of_the_levels():
    """A density that is even in each cell has exactly the bits of its levels; a Gaussian has more by Jensen's gap."""
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    levels = torch.arange(4).repeat(20_000)[:, None]
    y = dequantised(levels.double() * 2 / 3 - 1, bits=2)
    density = p[((y[:, 0] + 1) * 2).long()] * 2  # four cells of width 1/2
    assert_close(bits_per_dim(density.log(), 1, bits=2), -p[levels[:, 0]].log2())
    normal = torch.distributions.Normal(torch.tensor(0.1, dtype=torch.float64), 0.7)
    found = bits_per_dim(normal.log_prob(y[:, 0]), 1, bits=2)
    edges = normal.cdf(torch.linspace(-1, 1, 5, dtype=torch.float64))
    for k in range(4):
        ours, nodes = found[levels[:, 0] == k], torch.linspace(-1 + k / 2, -0.5 + k / 2, 2001, dtype=torch.float64)
        mean = bits_per_dim(torch.trapezoid(normal.log_prob(nodes), nodes) * 2, 1, bits=2)
        assert float(ours.mean()) == pytest.approx(float(mean), abs=5 * float(ours.std()) / len(ours) ** 0.5)
        assert float(mean) > float(-(edges[k + 1] - edges[k]).log2())


@pytest.mark.parametrize("cleanest", [3.0, 5.0, 13.0])
def test_the_bound_of_a_gaussian_has_the_gap_of_its_decoder(cleanest):
    """N(0, C): the decoder's variance s^2 stands for the true c s^2 / (c + s^2), on each axis; else it is tight."""
    variances = torch.tensor([1.0, 0.1, 0.02], dtype=torch.float64)
    gaussian = GaussianMixture(torch.ones(1), torch.zeros(1, 3), torch.diag(variances)[None])
    x, _ = gaussian.sample(6000, torch.Generator().manual_seed(0))
    found = variational_bound(gaussian.denoiser(Flow()), x, Flow(), draws=24, cleanest=cleanest)
    ratio = variances / (variances + math.exp(-cleanest))
    gap = float((ratio - 1 - ratio.log()).sum() / 2)
    excess = found.nats + gaussian.log_prob(x)
    assert float(excess.mean()) == pytest.approx(gap, abs=4 * float(excess.std()) / 6000**0.5 + 1e-3)
    assert float(excess.std()) < 3 * float(found.error.square().mean()) ** 0.5 + 1  # of the order that it says
    if cleanest == 3:
        assert gap > 0.3


@pytest.mark.parametrize("path", [Flow(), VP(), EDM()], ids=lambda p: p.kind)
def test_the_bound_of_a_mixture_is_its_likelihood_in_expectation(path):
    mixture, count = ring(), 6000
    x, _ = mixture.sample(count, torch.Generator().manual_seed(0))
    found = variational_bound(mixture.denoiser(path), x, path, draws=24)
    excess = found.nats + mixture.log_prob(x)
    assert abs(float(excess.mean())) < 4 * float(excess.std()) / count**0.5
    exact = mixture.denoiser(path)
    worse = variational_bound(lambda x, t: 0.97 * exact(x, t), x[:600], path, draws=24)
    assert float((worse.nats - found.nats[:600]).mean()) > 0.1
    with pytest.raises(ValueError, match="at least two"):
        variational_bound(exact, x, path, draws=1)


def test_the_bound_of_a_sample_does_not_depend_on_its_batch():
    mixture, path = ring(), Flow()
    x, _ = mixture.sample(6, torch.Generator().manual_seed(0))
    together = variational_bound(mixture.denoiser(path), x, path, draws=4)
    alone = variational_bound(mixture.denoiser(path), x[4:], path, draws=4, first=4)
    torch.testing.assert_close(alone.nats, together.nats[4:])
