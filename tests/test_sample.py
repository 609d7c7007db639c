"""Solvers against closed forms."""

import math

import pytest
import torch

from fromnoise.process import Flow, Trigonometric
from fromnoise.sample import SOLVERS, solve, time_grid
from fromnoise.types import UserError

PATHS = [Flow(), Trigonometric()]


def gaussian_denoiser(path, mean, std):
    """Exact E[x0 | x_t] of N(mean, std^2)."""
    def denoise(x, t):
        a, s = float(path.alpha(t)), float(path.sigma(t))
        return mean + a * std**2 / (a**2 * std**2 + s**2) * (x - a * mean)
    return denoise


def exact(path, mean, std, noise, t0, t1):
    """The probability-flow ODE of a Gaussian keeps (x - alpha mean) / sqrt(alpha^2 std^2 + sigma^2)."""
    def scale(t):
        return float((path.alpha(t) ** 2 * std**2 + path.sigma(t) ** 2) ** 0.5)
    start = float(path.sigma(t0)) * noise
    return float(path.alpha(t1)) * mean + (start - float(path.alpha(t0)) * mean) * scale(t1) / scale(t0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_order_of_convergence_inside(path, name, order):
    """Halving the steps of an interior interval divides the error by 2^order."""
    noise, errors = torch.randn(64, dtype=torch.float64), []
    for steps in (40, 80, 160):
        grid = torch.linspace(0.9, 0.1, steps + 1, dtype=torch.float64)
        x = solve(gaussian_denoiser(path, 0.3, 0.5), noise, path=path, solver=name, grid=grid)
        errors.append(float((x - exact(path, 0.3, 0.5, noise, grid[0], grid[-1])).abs().mean()))
    slopes = [math.log2(errors[i] / errors[i + 1]) for i in range(2)]
    assert slopes[-1] == pytest.approx(order, abs=0.2), (errors, slopes)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", SOLVERS)
def test_whole_interval_and_evaluation_count(path, name):
    noise, calls = torch.randn(256, dtype=torch.float64), 0
    exact_denoise = gaussian_denoiser(path, 0.3, 0.5)

    def counted(x, t):
        nonlocal calls
        calls += 1
        return exact_denoise(x, t)

    x, info = solve(counted, noise, path=path, solver=name, steps=200, shift=2.0, return_info=True)
    want = exact(path, 0.3, 0.5, noise, torch.tensor(1.0), torch.tensor(0.0))
    assert float((x - want).abs().max()) < (0.05 if name == "euler" else 0.005)
    assert info.nfe == calls
    assert (info.grid[0], info.grid[-1]) == (1.0, 0.0)


def test_euler_is_ddim_and_the_flow_rule():
    path, noise = Flow(), torch.randn(5, dtype=torch.float64)
    denoise = gaussian_denoiser(path, 0.3, 0.5)
    x = noise.clone()
    times = time_grid(7, path)
    for t, u in zip(times[:-1], times[1:], strict=True):
        x = x + (u - t) * (x - denoise(x, t)) / t
    torch.testing.assert_close(solve(denoise, noise, path=path, solver="euler", steps=7), x, atol=1e-12, rtol=1e-12)


def test_callback_sees_every_step():
    seen = []
    solve(gaussian_denoiser(Flow(), 0, 1), torch.randn(3), path=Flow(), solver="heun", steps=4, callback=seen.append)
    assert [p.step for p in seen] == [1, 2, 3, 4]
    assert seen[-1].t_next == 0
    assert [p.t for p in seen] == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize(
    "bad", [{"solver": "heunn"}, {"steps": 0}, {"grid": [0.0, 1.0]}, {"grid": [2.0, 0.0]}, {"shift": 0.0}])
def test_bad_requests_are_sentences(bad):
    with pytest.raises(UserError):
        solve(gaussian_denoiser(Flow(), 0, 1), torch.randn(3), path=Flow(), **bad)
