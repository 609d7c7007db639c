"""Editing and inpainting without training, against the exact conditional distributions of mixtures."""

import pytest
import torch
from torch.testing import assert_close

from fromnoise.analytic import GaussianMixture, ode_map
from fromnoise.denoise import classifier_guided, gradient_of, measured, replaced, start_from, under
from fromnoise.process import EDM, VP, Flow
from fromnoise.sample import solve
from fromnoise.types import Condition


def mixture(D=2, seed=0):
    """Six Gaussians of three classes."""
    random = torch.Generator().manual_seed(seed)
    A = torch.randn(6, D, D, generator=random, dtype=torch.float64) * 0.3
    return GaussianMixture(torch.rand(6, generator=random) + 0.2, torch.randn(6, D, generator=random).double(),
                           A @ A.mT + 0.05 * torch.eye(D), torch.arange(6) % 3)


def noisy(x, path, time):
    return float(path.sigma(torch.tensor(time).double())) * x


@pytest.mark.parametrize("path", [Flow(), VP(), EDM(sigma_max=20.0, rho=2.0)], ids=lambda p: p.kind)
def test_sdedit_starts_at_the_noised_picture(path):
    """Against the exact map from alpha x0 + sigma eps at t = 0.5 onward."""
    world = mixture()
    picture, noise = world.means[[0, 3, 5]], torch.randn(3, 2).double()
    t = torch.tensor(0.5).double()
    start = path.alpha(t) * picture + path.sigma(t) * noise
    x0 = solve(world.denoiser(path), start_from(picture, noise, path, 0.5), path=path, solver="heun",
               grid=torch.linspace(0.5, 0, 200, dtype=torch.float64))
    assert_close(x0, ode_map(world, start, path, start=0.5), atol=2e-3, rtol=0)
    with pytest.raises(ValueError, match="no noise"):
        start_from(picture, noise, path, 0.0)


def test_replacement_noises_what_is_known_and_ends_there():
    path = Flow()
    denoise, x = mixture(D=3).denoiser(path), torch.randn(8, 3).double()
    known, mask = torch.tensor([0.4, 0.0, -0.2]).double().expand(8, 3), torch.tensor([True, False, True])
    seen = []
    guided = under(replaced(lambda x, t, _: denoise(x, t), known, mask), Condition())
    x0 = solve(guided, x, path=path, steps=10, callback=seen.append)
    assert_close(x0[:, [0, 2]], known[:, [0, 2]])
    for p in seen:
        want = float(path.alpha(torch.tensor(p.t_next))) * known + p.t_next * x
        assert_close(p.x[:, [0, 2]], want[:, [0, 2]])


def gaussian():
    A = torch.randn(4, 4, generator=torch.Generator().manual_seed(3)).double()
    return GaussianMixture(torch.ones(1), torch.tensor([[0.5, -0.3, 0.0, 1.0]]), (A @ A.mT + 0.1 * torch.eye(4))[None])


@pytest.mark.parametrize("path", [Flow(), VP(), EDM()], ids=lambda p: p.kind)
@pytest.mark.parametrize("std", [0.0, 0.3])
def test_a_measured_gaussian_is_exact(path, std):
    """E[x0 | x_t, y] by conditioning the joint Gaussian of (x0, x_t, y) directly."""
    world, mask = gaussian(), torch.tensor([True, False, True, False])
    plain, known = world.denoiser(path), torch.randn(5, 4).double()
    for time in (0.3, 0.5, 0.9):
        t = torch.tensor(time).double()
        x = noisy(torch.randn(5, 4).double(), path, time)
        alpha, sigma, C, A = float(path.alpha(t)), float(path.sigma(t)), world.covs[0], torch.eye(4).double()[mask]
        H = torch.cat([alpha * torch.eye(4).double(), A])
        S = H @ C @ H.T + torch.diag(torch.tensor([sigma**2] * 4 + [std**2] * 2).double())
        away = torch.cat([x, known[:, mask]], 1) - world.mean @ H.T
        want = world.mean + away @ torch.linalg.solve(S, H @ C)
        guided = measured(lambda x, t, _: plain(x, t), known, mask, path, noise=std)
        with torch.no_grad():
            assert_close(guided(x, t, Condition()), want, rtol=1e-6, atol=1e-6)


def observed(world, std):
    """The mixture of (x0, y) for y, the first coordinate of x0 with noise."""
    A = torch.cat([torch.eye(world.dim), torch.eye(world.dim)[:1]]).double()
    covs = A @ world.covs @ A.T
    covs[:, -1, -1] += std**2
    return GaussianMixture(world.weights, world.means @ A.T, covs)


@pytest.mark.parametrize("path", [Flow(), VP(), EDM(sigma_max=20.0, rho=2.0)], ids=lambda p: p.kind)
def test_exact_inpainting_by_the_gradient_of_a_measurement(path):
    """With grad log p(y | x_t) of y itself the denoiser is that of p(x0 | y), in every point and along the ODE."""
    world, y, std = mixture(seed=4), torch.tensor([-0.5]).double(), 0.1
    joint, plain = observed(world, std), world.denoiser(path)
    exact = joint.given([2], y)

    def log_prob(x, t):
        added = torch.diag_embed(torch.stack([path.sigma(t) ** 2, path.sigma(t) ** 2, 0 * t]))
        scale = torch.stack([path.alpha(t), path.alpha(t), 1 + 0 * t])
        covs = scale[:, None] * joint.covs * scale + added
        each = torch.distributions.MultivariateNormal(joint.means * scale, covs)
        whole = torch.cat([x, y.expand(len(x), 1)], 1)
        return (each.log_prob(whole[:, None]) + joint.weights.log()).logsumexp(1) - world.log_prob(x, t, path)

    guided = classifier_guided(lambda x, t, _: plain(x, t), gradient_of(log_prob), path)
    noise = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).double()
    for time in (0.1, 0.5, 0.9):
        t, x = torch.tensor(time).double(), noisy(noise, path, time)
        assert_close(guided(x, t, Condition()), exact.x0(x, t, path), rtol=1e-7, atol=1e-7)
    x0 = solve(under(guided, Condition()), noise, path=path, solver="heun", steps=100)
    assert_close(x0, ode_map(exact, noisy(noise, path, 1.0), path), atol=0.03, rtol=0)


def test_measuring_comes_closer_to_the_conditional_distribution_than_replacing():
    """On mixtures neither is exact: the Wasserstein distance of the unseen coordinate to p(rest | seen)."""
    path, mask, y = Flow(), torch.tensor([True, False]), -0.5
    noise = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)).double()
    known = torch.tensor([y, 0.0]).double().expand(1000, 2)
    distances = []
    for seed in range(4):
        world = mixture(seed=seed)
        plain = world.denoiser(path)
        exact, _ = world.given([0], torch.tensor([y])).sample(100_000, torch.Generator().manual_seed(1))
        wanted = exact[:, 0].sort().values[50::100]
        for make in (measured, replaced):
            told = (path, 0.0, 2) if make is measured else ()
            x0 = solve(under(make(lambda x, t, _, plain=plain: plain(x, t), known, mask, *told), Condition()), noise,
                       path=path, steps=30)
            assert_close(x0[:, 0], known[:, 0], atol=0.02, rtol=0)
            distances.append(float((x0[:, 1].sort().values - wanted).abs().mean()))
    assert all(a < 0.85 * b for a, b in zip(distances[::2], distances[1::2], strict=True)), distances
