"""Grids fitted to a model: the dynamic programme, its two costs in closed form, and what they are good for."""

from itertools import combinations, pairwise

import pytest
import torch

from fromnoise.analytic import GaussianMixture, grid25, ode_map
from fromnoise.process import VP, Flow
from fromnoise.sample import SOLVERS, Tuned, ays_grid, gits_grid, on_grid, solve, time_grid
from fromnoise.sample.fitted import ays_costs, cheapest, gits_costs, squared_changes
from fromnoise.sample.solve import plan
from fromnoise.types import UserError

C = 0.5  # standard deviation of the data
GAUSS = GaussianMixture.isotropic(torch.zeros(1, 1), C)


def total(path, times):
    """The variance of x_t for data N(0, C^2)."""
    return (path.alpha(times) * C).square() + path.sigma(times).square()


def draw(count, dim=1, seed=0):
    return torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", range(1, 8))
def test_the_cheapest_grid_is_that_of_trying_all(steps):
    costs = torch.rand(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(steps))
    costs[torch.ones(8, 8).tril().bool()] = torch.inf

    def price(nodes):
        return float(sum(costs[a, b] for a, b in pairwise(nodes)))

    every = [(0, *inner, 7) for inner in combinations(range(1, 7), steps - 1)]
    assert tuple(cheapest(costs, steps)) == min(every, key=price)


@pytest.mark.parametrize("path", [Flow(), VP()], ids=lambda p: p.kind)
def test_the_error_of_a_step_in_closed_form(path):
    """Gaussian data: trajectories are x sqrt(S_j / S_i), and a step of DDIM is a factor too."""
    noise, times = draw(50), time_grid(64, path, "cosine")
    costs = gits_costs(GAUSS.denoiser(path), path, noise, times, "abm_angle")
    alpha, sigma, S = path.alpha(times), path.sigma(times), total(path, times)
    x = sigma[0] * noise / S[0].sqrt()  # of unit variance, but for chance
    spread = C * x.std()
    for i, j in ((0, 1), (0, 40), (10, 30), (30, 63), (40, 64)):
        keep = sigma[j] / sigma[i]
        step = keep + (alpha[j] - keep * alpha[i]) * alpha[i] * C**2 / S[i]
        error = (S[j].sqrt() - step * S[i].sqrt()).abs() * x.square().mean().sqrt()
        expected = error * spread / torch.hypot(alpha[j] * spread, sigma[j])
        assert float(costs[i, j]) == pytest.approx(float(expected), rel=0.01, abs=1e-5)
    assert bool(costs.tril().isinf()[torch.ones_like(costs).tril().bool()].all())


@pytest.mark.parametrize("path", [Flow(), VP()], ids=lambda p: p.kind)
def test_changes_of_the_prediction_are_differences_of_its_error(path):
    """E|D_i - D_j|^2 = mmse_i - mmse_j for j cleaner than i, since D_i is what D_j is expected to be."""
    times = time_grid(10, path, "angle")[:-1]
    clean = C * draw(40_000)
    changes = squared_changes(GAUSS.denoiser(path), path, clean, times)
    mmse = (C * path.sigma(times)).square() / total(path, times)
    for i, j in ((0, 3), (0, 9), (2, 3), (4, 8), (8, 9)):
        assert float(changes[i, j]) == pytest.approx(float(mmse[i] - mmse[j]), rel=0.04)


def test_the_bound_bounds_the_divergence():
    """Gaussian data: the KL divergence of the end of ancestral sampling is below the bound, which the grid makes small.

    The bound is on whole paths, so of two grids the one with the smaller bound may have the larger divergence.
    """
    path = Flow()
    denoise, times, clean = GAUSS.denoiser(path), time_grid(64, path, "angle"), C * draw(2_000)
    costs, found = ays_costs(denoise, path, clean, times), {}
    for name, nodes in (("ays", cheapest(costs, 8)), ("even", [0, 9, 18, 27, 36, 45, 54, 63, 64])):
        grid = times[nodes]
        assert name == "even" or torch.equal(grid, ays_grid(denoise, path, clean, 8, candidates=64))
        variance = total(path, grid)[0]
        for t, stage in zip(grid[:-2], plan(SOLVERS["ancestral"], path, tuple(grid.tolist())).stages, strict=False):
            (_, a), (_, b) = stage.states[0] if stage.states else (0, 0.0), stage.predictions[0]
            variance = (a + b * path.alpha(t) * C**2 / total(path, t)) ** 2 * variance + stage.noise**2
        ratio = variance / total(path, grid)[-2]  # where the last step to t = 0 begins
        divergence = float(-1 - (1 / ratio).log() + 1 / ratio) / 2
        bound = float(sum(costs[i, j] for i, j in pairwise(nodes)))
        assert 0 < divergence < bound
        found[name] = bound
    assert found["ays"] < 0.9 * found["even"]


def test_a_fitted_grid_is_better_where_few_steps_must_be_well_placed():
    """Five steps on grid25: the median path ends nearer to its exact end than on any fixed grid."""
    path, mixture = Flow(), grid25()
    denoise, noise = mixture.denoiser(path), draw(128, 2, 1)
    exact = ode_map(mixture, noise, path, 1.0, 0.0)
    fitted = gits_grid(denoise, path, draw(64, 2), 5)
    ends = [solve(denoise, noise, path=path, solver="dpmpp_2m", grid=grid, steps=5)
            for grid in (fitted, "uniform", "logsnr", "angle")]
    errors = [float((x - exact).norm(dim=1).median()) for x in ends]
    assert errors[0] < 0.6 * min(errors[1:])


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "unipc_2", "abm_angle"])
def test_a_solver_is_kept_with_its_grid(name, tmp_path):
    path, noise = Flow(), draw(8)
    grid = gits_grid(GAUSS.denoiser(path), path, noise, 6, candidates=32)
    on_grid(SOLVERS[name], path, grid).save(tmp_path / "dp-6.json")
    x = solve(GAUSS.denoiser(path), noise, path=path, solver=Tuned.load(tmp_path / "dp-6.json"), nfe=6)
    same = solve(GAUSS.denoiser(path), noise, path=path, solver=name, grid=grid)
    torch.testing.assert_close(x, same, rtol=1e-10, atol=1e-12)


def test_what_is_refused():
    path, noise = Flow(), draw(4)
    with pytest.raises(UserError, match="40 steps cannot be chosen from 32"):
        gits_grid(GAUSS.denoiser(path), path, noise, 40, candidates=32)
    with pytest.raises(UserError, match="No grid of 1 steps leads"):  # the last step must begin where the bound ends
        ays_grid(GAUSS.denoiser(path), path, noise, 1, candidates=32)
    for name in ("heun", "ancestral"):
        with pytest.raises(UserError, match="Only a solver without fresh noise"):
            on_grid(SOLVERS[name], path, time_grid(4, path))
