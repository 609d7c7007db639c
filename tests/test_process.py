"""Paths, predictions, time laws and solvers against closed forms."""

import math

import pytest
import torch

from fromnoise.process import Cosine, Flow, LogNormal, Objective, convert, error_scale, from_x0, target, to_x0
from fromnoise.sample import SOLVERS, solve, time_grid
from fromnoise.types import UserError

PATHS = [Flow(), Cosine()]
PREDICTIONS = ["x0", "eps", "v", "velocity"]
T = torch.linspace(0.001, 0.999, 37, dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS)
def test_path_derivatives_and_inverse(path):
    t = T.clone().requires_grad_()
    for value, slope in ((path.alpha, path.alpha_dot), (path.sigma, path.sigma_dot)):
        (grad,) = torch.autograd.grad(value(t).sum(), t)
        torch.testing.assert_close(grad, slope(T))
    torch.testing.assert_close(path.time(path.logsnr(T)), T)
    ends = torch.tensor([0.0, 1.0])
    assert path.alpha(ends).tolist() == pytest.approx([1, 0], abs=1e-7)
    assert path.sigma(ends).tolist() == pytest.approx([0, 1], abs=1e-7)
    assert path.time(path.logsnr(ends)).tolist() == pytest.approx([0, 1], abs=1e-6)


def test_shift_is_sd3s_on_the_flow_path_and_log_snr_elsewhere():
    torch.testing.assert_close(Flow().shift(T, 3.0), 3 * T / (1 + 2 * T))
    path = Cosine()
    torch.testing.assert_close(path.logsnr(path.shift(T, 3.0)), path.logsnr(T) - 2 * math.log(3))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_prediction_gives_back_x0(path, prediction):
    x0, eps = torch.randn(2, 37, 1, 3, 2, 2, dtype=torch.float64)
    t = T[:, None]
    x = path.add_noise(x0, eps, t)
    output = target(prediction, path, x0, eps, t)
    torch.testing.assert_close(to_x0(prediction, path, output, x, t), x0, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(from_x0(prediction, path, x0, x, t), output, atol=1e-8, rtol=1e-8)
    for other in PREDICTIONS:
        there = convert(prediction, other, path, output, x, t)
        torch.testing.assert_close(there, target(other, path, x0, eps, t), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_predictions_are_finite_at_both_ends(path, prediction):
    x = torch.randn(2, 1, 3, 2, 2)
    t = torch.tensor([[0.0], [1.0]])
    assert torch.isfinite(to_x0(prediction, path, torch.randn_like(x), x, t)).all()
    assert torch.isfinite(from_x0(prediction, path, torch.randn_like(x), x, t)).all()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_error_scale_is_the_derivative(path, prediction):
    x = torch.randn(37, 1, 1, 1, 1, dtype=torch.float64)
    x0 = torch.randn_like(x).requires_grad_()
    t = T[:, None]
    (grad,) = torch.autograd.grad(from_x0(prediction, path, x0, x, t).sum(), x0)
    torch.testing.assert_close(grad.abs().flatten(), error_scale(prediction, path, T))


def test_losses_in_another_space_equal_that_space():
    path, t = Flow(), torch.rand(8, 1) * 0.8 + 0.1
    x0, eps = torch.randn(2, 8, 1, 1, 3, 3)
    x = path.add_noise(x0, eps, t)
    guess = torch.randn_like(x0)
    for prediction in PREDICTIONS:
        output = from_x0(prediction, path, guess, x, t)
        losses = [Objective(prediction=p, loss="velocity", max_weight=1e9).losses(
            from_x0(p, path, guess, x, t), x0, eps, t, path) for p in (prediction, "velocity")]
        assert output.shape == x0.shape
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-4)


def test_weights_are_capped():
    objective = Objective(prediction="x0", loss="velocity", max_weight=25.0)
    assert float(objective.weight(torch.tensor(1e-6), Flow())) == 25.0


@pytest.mark.parametrize("path", PATHS)
def test_log_normal_times_have_their_moments(path):
    t = Objective(times=LogNormal(mean=0.5, std=1.2)).draw_times(4096, path, torch.Generator().manual_seed(0))
    z = -path.logsnr(t.double()) / 2
    assert float(z.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(z.std()) == pytest.approx(1.2, abs=0.02)


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
