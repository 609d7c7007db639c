"""The exact test-bed against autograd, sampling and itself."""

import pytest
import torch

from fromnoise.analytic import PRESETS, GaussianMixture, ode_map, ring
from fromnoise.process import EDM, VP, Cosine, Flow, ScaledLinear, SubVP

PATHS = [Flow(), VP(), Cosine(), ScaledLinear(), SubVP(), EDM(sigma_max=5.0, rho=1.0)]


def small(seed=0, K=4, D=3):
    random = torch.Generator().manual_seed(seed)
    A = torch.randn(K, D, D, generator=random, dtype=torch.float64) * 0.5
    return GaussianMixture(torch.rand(K, generator=random) + 0.2, torch.randn(K, D, generator=random).double(),
                           A @ A.mT + 0.05 * torch.eye(D), torch.arange(K) % 2)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.kind)
def test_score_is_the_gradient_and_the_rest_follows(path):
    """Against autograd, and Tweedie: x0 = (x + sigma^2 score) / alpha, eps = -sigma score."""
    mixture, x = small(), torch.randn(16, 3, dtype=torch.float64).requires_grad_()
    for time in (0.03, 0.4, 0.97):
        t = torch.full((16,), time, dtype=torch.float64)
        (grad,) = torch.autograd.grad(mixture.log_prob(x, t, path).sum(), x)
        score = mixture.score(x, t, path)
        torch.testing.assert_close(score, grad, rtol=1e-10, atol=1e-10)
        alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
        torch.testing.assert_close(mixture.x0(x, t, path) * alpha, x + sigma**2 * score, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(mixture.eps(x, t, path), -sigma * score, rtol=1e-10, atol=1e-10)


def test_densities_against_torch_distributions():
    mixture, x = small(), torch.randn(9, 3, dtype=torch.float64)
    each = torch.distributions.MultivariateNormal(mixture.means, mixture.covs)
    want = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(mixture.weights), each)
    torch.testing.assert_close(mixture.log_prob(x), want.log_prob(x))


@pytest.mark.parametrize("time", [0.0, 1.0])
def test_the_ends_are_finite(time):
    mixture, path, x = small(), Flow(), torch.randn(5, 3, dtype=torch.float64)
    x0, eps, velocity = (f(x, time, path) for f in (mixture.x0, mixture.eps, mixture.velocity))
    if time == 0:
        torch.testing.assert_close(x0, x)
        torch.testing.assert_close(eps, torch.zeros_like(x))
    else:
        torch.testing.assert_close(x0, mixture.mean.expand(5, 3))
        torch.testing.assert_close(eps, x)
    assert bool(torch.isfinite(velocity).all())


def test_samples_have_the_moments():
    mixture = small()
    x, which = mixture.sample(400_000, torch.Generator().manual_seed(1))
    torch.testing.assert_close(x.mean(0), mixture.mean, atol=0.01, rtol=0)
    torch.testing.assert_close(torch.cov(x.T), mixture.cov, atol=0.02, rtol=0)
    torch.testing.assert_close(torch.bincount(which) / len(which), mixture.weights.float(), atol=0.005, rtol=0)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.kind)
def test_ode_of_one_gaussian_is_closed_form(path):
    """(x - alpha mu) / sqrt(alpha^2 c + sigma^2) is kept along each axis."""
    one = GaussianMixture(torch.ones(1), torch.tensor([[0.3, -1.0]]), torch.diag(torch.tensor([0.04, 2.0]))[None])
    x = float(path.sigma(torch.tensor(1.0).double())) * torch.randn(6, 2, dtype=torch.float64)
    for end in (0.0, 0.3):
        t0, t1 = torch.ones((), dtype=torch.float64), torch.tensor(end, dtype=torch.float64)
        cov = torch.tensor([0.04, 2.0]).double()
        scale = [(path.alpha(t) ** 2 * cov + path.sigma(t) ** 2).sqrt() for t in (t0, t1)]
        want = path.alpha(t1) * one.mean + (x - path.alpha(t0) * one.mean) * scale[1] / scale[0]
        torch.testing.assert_close(ode_map(one, x, path, end=end), want, rtol=1e-7, atol=1e-8)


def test_the_ode_map_is_exact_invertible_and_maps_noise_to_data():
    mixture, path = ring(), Flow()
    noise = torch.randn(256, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x0 = ode_map(mixture, noise, path)
    assert float((x0 - ode_map(mixture, noise, path, tolerance=5e-13)).abs().max()) < 1e-10
    torch.testing.assert_close(ode_map(mixture, x0[:32], path, start=0.0, end=1.0), noise[:32], rtol=0, atol=1e-6)
    assert bool((mixture.log_prob(x0) > -6).all())
    shares = torch.bincount(mixture.mode(x0), minlength=8) / 256
    assert bool((shares > 0.06).all())


def test_the_posterior_has_the_mean_of_the_denoiser_and_total_variance():
    mixture, path = small(), VP()
    x = torch.randn(1, 3, dtype=torch.float64).expand(200_000, 3)
    t = torch.tensor(0.4, dtype=torch.float64)
    draws = mixture.posterior(x, t, path, torch.Generator().manual_seed(0))
    torch.testing.assert_close(draws.mean(0), mixture.x0(x[:1], t, path)[0], atol=0.01, rtol=0)
    jacobian = torch.autograd.functional.jacobian(lambda y: mixture.x0(y[None], t, path)[0], x[0])
    want = jacobian * path.sigma(t) ** 2 / path.alpha(t)  # cov(x0 | x) = sigma^2 / alpha dE[x0|x]/dx
    torch.testing.assert_close(torch.cov(draws.T), want, atol=0.02, rtol=0)


def test_classes_and_classifier():
    mixture, path, x, t = small(), Flow(), torch.randn(7, 3).double().requires_grad_(), torch.tensor(0.5)
    inside = mixture.of_label(1)
    torch.testing.assert_close(inside.means, mixture.means[[1, 3]])
    odds = mixture.responsibilities(x, t, path)[:, [1, 3]].sum(1).log().sum()
    (grad,) = torch.autograd.grad(odds, x)
    torch.testing.assert_close(mixture.classifier(1, path)(x, t), grad)
    with pytest.raises(ValueError, match="label 5"):
        mixture.of_label(5)


def test_inpainting_is_the_conditional_density():
    """p(rest | seen) = p(whole) / p(seen), up to one constant."""
    mixture, seen = small(D=4), torch.tensor([0.2, -0.4], dtype=torch.float64)
    conditional = mixture.given([0, 2], seen)
    rest = torch.randn(11, 2, dtype=torch.float64)
    whole = torch.stack([seen[0].expand(11), rest[:, 0], seen[1].expand(11), rest[:, 1]], 1)
    difference = mixture.log_prob(whole) - conditional.log_prob(rest)
    torch.testing.assert_close(difference, difference[:1].expand(11), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_unit_variance(name):
    mixture = PRESETS[name]()
    assert float(mixture.cov.trace()) / mixture.dim == pytest.approx(1, abs=0.02)
    assert float(mixture.mean.abs().max()) < 1e-9
    denoise = mixture.denoiser(Flow())
    x = torch.randn(3, 1, 1, mixture.dim)
    assert denoise(x, torch.tensor(0.5)).shape == x.shape
    assert denoise(x, torch.full((3, 1), 0.5)).dtype == x.dtype


def test_bad_mixtures_are_refused():
    good = ring()
    for change in ({"weights": -good.weights}, {"covs": -good.covs}, {"weights": torch.ones(3)}):
        with pytest.raises(ValueError):
            GaussianMixture(**{"weights": good.weights, "means": good.means, "covs": good.covs, **change})
