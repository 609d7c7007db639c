"""Brownian paths: their law, that they are functions, and that more steps come nearer to one sample."""

import math

import pytest
import torch

from fromnoise.analytic import ring
from fromnoise.process import EDM, VP, Flow
from fromnoise.sample import SOLVERS, Brownian, solve
from fromnoise.types import UserError

MIXTURE = ring(std=0.3)


def test_covariance_is_that_of_brownian_motion():
    """E[W(a) W(b)] = min(a, b) on the clock of SNR, also within one interval of the tree."""
    path, logsnr = Brownian(torch.zeros(4000, 5, dtype=torch.float64), seed=1), [-9.0, -3.0, 0.0, 0.1, 4.0, 8.0]
    W = torch.stack([path(v) * math.exp(-v / 2) for v in logsnr])
    found = torch.einsum("abn,cbn->ac", W, W) / (4000 * 5)
    want = torch.tensor([[math.exp(-abs(a - b) / 2) for b in logsnr] for a in logsnr], dtype=torch.float64)
    assert float((found - want).abs().max()) < 0.03


def test_increments_are_normal_and_independent():
    path = Brownian(torch.zeros(4000, 5, dtype=torch.float64), seed=2)
    z = torch.stack([path.normal(a, a + 0.7) for a in (-2.0, -1.3, -0.6, 0.1)]).flatten(1)
    assert float((z @ z.T / z.shape[1] - torch.eye(4, dtype=torch.float64)).abs().max()) < 0.03
    assert float(z.pow(4).mean()) == pytest.approx(3, abs=0.15)
    start = Brownian(torch.zeros(4000, 5, dtype=torch.float64), seed=2).normal(-math.inf, -5.0)
    assert float(start.square().mean()) == pytest.approx(1, abs=0.03)


def test_a_path_is_a_function_of_seed_sample_and_place():
    like = torch.zeros(6, 3)
    places = [3.0, -1.0, 2.99999, -8.0, 3.0]
    whole, forgetful = Brownian(like, seed=3), [Brownian(like, seed=3)(v) for v in places]
    for v, alone in zip(places, forgetful, strict=True):
        torch.testing.assert_close(whole(v), alone, rtol=0, atol=0)
    torch.testing.assert_close(Brownian(like[4:], seed=3, first=4)(1.5), Brownian(like, seed=3)(1.5)[4:])
    own = Brownian(like, seed=3)(torch.tensor([0.0, 1.0, 2.0, 3.0, -4.0, 5.0]))
    torch.testing.assert_close(own[3:4], Brownian(like[3:4], seed=3, first=3)(3.0))
    assert float((Brownian(like, seed=4)(1.5) - whole(1.5)).abs().max()) > 0.1


@pytest.mark.parametrize(("name", "path"), [
    ("ancestral", Flow()), ("ancestral", VP()), ("ancestral", EDM()), ("euler_maruyama", Flow()),
    ("euler_maruyama", VP()), ("dpmpp_2m_sde", Flow()), ("dpmpp_2m_sde", EDM()), ("sa_solver", Flow()),
    ("er_sde_3", Flow()), ("dpmpp_sde", Flow()), ("dpmpp_sde", EDM())], ids=str)
def test_more_steps_come_nearer_to_one_sample(name, path):
    """Strong convergence on one Brownian path; with noise drawn anew there is none."""
    noise = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def samples(steps, **kw):
        return solve(MIXTURE.denoiser(path), noise, path=path, solver=name, steps=steps, grid="logsnr", **kw)

    def median(a, b):
        return float((a - b).norm(dim=1).median())

    x = [samples(steps, brownian=True) for steps in (50, 100, 200)]
    gaps = [median(a, b) for a, b in zip(x[:-1], x[1:], strict=True)]
    assert gaps[1] < 0.75 * gaps[0]
    assert gaps[1] < 0.15 * median(samples(100), samples(200))


def test_one_step_or_many_are_the_same_where_the_denoiser_is_constant():
    """The exact noise of an ancestral step is an increment of W: with a constant x0 any grid gives one sample."""
    noise = torch.randn(8, 2, dtype=torch.float64)
    grids = ([0.9, 0.2], [0.9, 0.5, 0.2], [0.9, 0.8, 0.31, 0.3, 0.2])
    first, *others = (solve(lambda x, t: torch.ones_like(x), noise, path=Flow(), solver="ancestral", grid=grid,
                            brownian=True, seed=4) for grid in grids)
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-9, atol=1e-9)


def test_a_brownian_sample_does_not_depend_on_its_neighbours():
    noise = torch.randn(6, 1, 2, 1, 1)
    settings = {"path": Flow(), "solver": "dpmpp_2m_sde", "steps": 10, "brownian": True, "seed": 5}
    whole = solve(MIXTURE.denoiser(Flow()), noise, **settings)
    torch.testing.assert_close(solve(MIXTURE.denoiser(Flow()), noise[4:], first=4, **settings), whole[4:])


@pytest.mark.parametrize("name", ["pc", "churn", "restart"])
def test_noise_of_another_kind_has_no_brownian_path(name):
    assert name in SOLVERS
    with pytest.raises(UserError, match="not that of one reverse SDE"):
        solve(MIXTURE.denoiser(Flow()), torch.randn(2, 2), path=Flow(), solver=name, steps=20, grid="karras",
              brownian=True)
