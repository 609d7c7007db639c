"""Paths, predictions, time laws and solvers against closed forms."""

import math

import pytest
import torch

from fromnoise.process import (
    DDPM,
    EDM,
    VE,
    VP,
    Cosine,
    Flow,
    LogNormal,
    Objective,
    ScaledLinear,
    Shifted,
    SubVP,
    Trigonometric,
    ZeroTerminal,
    convert,
    error_scale,
    from_x0,
    shift_of_size,
    shift_of_tokens,
    target,
    to_x0,
)

PATHS = [Flow(), Trigonometric(), Cosine(), VP(), SubVP(), DDPM(), ScaledLinear(), VE(), EDM(),
         Shifted(base=Flow(), by=3.0), Shifted(base=VP(), by=0.5), ZeroTerminal(), ZeroTerminal(base=VP())]
NAMES = [p.kind if not hasattr(p, "base") else f"{p.kind}-{p.base.kind}" for p in PATHS]
PREDICTIONS = ["x0", "eps", "v", "velocity", "score"]
T = torch.linspace(0.0013, 0.9987, 37, dtype=torch.float64)


def inside(path):
    """37 times away from the ends; EDM's noise is below 1e-6 up to t = 0.08."""
    return 0.15 + 0.85 * T if path.kind == "edm" else T


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_path_derivatives_and_inverse(path):
    T = inside(path)
    t = T.clone().requires_grad_()
    for value, slope in ((path.alpha, path.alpha_dot), (path.sigma, path.sigma_dot), (path.logsnr, path.logsnr_dot)):
        (grad,) = torch.autograd.grad((value(t) + 0 * t).sum(), t)
        torch.testing.assert_close(grad, slope(T), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(path.time(path.logsnr(T)), T)
    torch.testing.assert_close(path.logsnr(T), 2 * (path.alpha(T).log() - path.sigma(T).log()))
    assert bool((path.logsnr(T).diff() < 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_paths_are_right_at_both_ends(path, dtype):
    ends = torch.tensor([0.0, 1.0], dtype=dtype)
    assert path.alpha(ends)[0] == 1
    assert path.sigma(ends)[0] == 0
    assert path.logsnr(ends)[0] == math.inf
    assert path.time(path.logsnr(ends)).tolist() == pytest.approx([0, 1], abs=1e-6)
    beyond = torch.tensor([math.inf, 1e4, -1e4, -math.inf], dtype=dtype)
    assert path.time(beyond).tolist() == pytest.approx([0, 0, 1, 1], abs=1e-9)
    for f in (path.alpha, path.sigma, path.alpha_dot, path.sigma_dot, path.logsnr_dot, path.diffusion_squared):
        assert bool(torch.isfinite(f(ends)).all()), f
    if path.kind in ("flow", "trigonometric", "cosine", "zero_terminal") or path == Shifted():
        assert path.alpha(ends)[1] == 0
        assert path.logsnr(ends)[1] == -math.inf
    # Near t = 0 float32 keeps the relative accuracy of float64.
    small = torch.logspace(-2 if path.kind == "edm" else -6, -1, 9, dtype=torch.float64)
    for f, absolute in ((path.sigma, 0), (path.logsnr, 1e-5)):
        torch.testing.assert_close(f(small.float()).double(), f(small.float().double()), rtol=2e-5, atol=absolute)


@pytest.mark.parametrize("path", [VP(), Cosine(), DDPM(), ScaledLinear(), Trigonometric(), ZeroTerminal()])
def test_variance_is_preserved(path):
    torch.testing.assert_close(path.alpha(T) ** 2 + path.sigma(T) ** 2, torch.ones_like(T))


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_the_sde_has_the_marginals_of_the_path(path):
    """d sigma^2/dt = 2 f sigma^2 + g^2 and d alpha/dt = f alpha, by the trapezoidal rule."""
    grid = torch.linspace(0.2, 0.8, 20001, dtype=torch.float64)
    f, g2 = path.drift(grid), path.diffusion_squared(grid)
    decay = torch.cat([torch.zeros(1).double(), torch.cumulative_trapezoid(f, grid)])
    close = 1e-3 if hasattr(path, "levels") or hasattr(getattr(path, "base", None), "levels") else 1e-5  # kinks
    torch.testing.assert_close(path.alpha(grid), path.alpha(grid[0]) * decay.exp(), rtol=close, atol=0)
    noise = torch.cat([torch.zeros(1).double(), torch.cumulative_trapezoid(g2 * (-2 * decay).exp(), grid)])
    sigma2 = (2 * decay).exp() * (path.sigma(grid[0]) ** 2 + noise)
    torch.testing.assert_close(path.sigma(grid) ** 2, sigma2, rtol=close, atol=0)


def test_tables_are_exact_at_their_levels():
    for path, betas in ((DDPM(), torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)),
                        (ScaledLinear(), torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2)):
        level = torch.arange(1000, dtype=torch.float64)
        t = path.time_of_level(level)
        torch.testing.assert_close(path.alpha(t) ** 2, (1 - betas).cumprod(0), rtol=1e-12, atol=0)
        torch.testing.assert_close(path.level_of_time(t), level)
    torch.testing.assert_close(DDPM().logsnr(T), VP().logsnr(T), atol=0.02, rtol=0.02)  # the continuous limit


def test_zero_terminal_is_the_rescaled_table():
    """Lin et al. 2023, algorithm 1, on the discrete levels."""
    root = (1 - ScaledLinear().betas()).cumprod(0).sqrt()
    t = ScaledLinear().time_of_level(torch.arange(1000, dtype=torch.float64))
    want = (root - root[-1]) * root[0] / (root[0] - root[-1])
    torch.testing.assert_close(ZeroTerminal().alpha(t), want)
    torch.testing.assert_close(ZeroTerminal().sigma(t), (1 - want.square()).sqrt())
    torch.testing.assert_close(ZeroTerminal().time(ZeroTerminal().logsnr(t)), t)


def test_shifts_of_the_named_systems():
    torch.testing.assert_close(Shifted(base=Flow(), by=3.0).alpha(T), 1 - 3 * T / (1 + 2 * T))
    assert shift_of_size(1024 * 1024) == pytest.approx(4.0)
    assert shift_of_tokens(256) == pytest.approx(math.exp(0.5))
    assert shift_of_tokens(4096) == pytest.approx(math.exp(1.15))


def test_shift_is_sd3s_on_the_flow_path_and_log_snr_elsewhere():
    torch.testing.assert_close(Flow().shift(T, 3.0), 3 * T / (1 + 2 * T))
    path = Cosine()
    torch.testing.assert_close(path.logsnr(path.shift(T, 3.0)), path.logsnr(T) - 2 * math.log(3))


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_prediction_gives_back_x0(path, prediction):
    x0, eps = torch.randn(2, 37, 1, 3, 2, 2, dtype=torch.float64)
    t = inside(path)[:, None]
    x = path.add_noise(x0, eps, t)
    output = target(prediction, path, x0, eps, t)
    torch.testing.assert_close(to_x0(prediction, path, output, x, t), x0, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(from_x0(prediction, path, x0, x, t), output, atol=1e-8, rtol=1e-8)
    for other in PREDICTIONS:
        there = convert(prediction, other, path, output, x, t)
        torch.testing.assert_close(there, target(other, path, x0, eps, t), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_predictions_are_finite_at_both_ends(path, prediction):
    x = torch.randn(2, 1, 3, 2, 2)
    t = torch.tensor([[0.0], [1.0]])
    assert torch.isfinite(to_x0(prediction, path, torch.randn_like(x), x, t)).all()
    assert torch.isfinite(from_x0(prediction, path, torch.randn_like(x), x, t)).all()


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
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


def test_v_on_edms_path_is_edms_network_for_data_of_unit_size():
    """D = c_skip x + c_out F(c_in x), loss |D - x0|^2 / c_out^2, sigma_data 1 (Karras et al. 2022, table 1): F = -v."""
    path, sigma = EDM(sigma_max=5.0, data_std=1.0), torch.logspace(-2, math.log10(5), 37, dtype=torch.float64)
    t = path.time(-2 * sigma.log())
    c_skip, c_out, c_in = 1 / (sigma**2 + 1), sigma / (sigma**2 + 1).sqrt(), 1 / (sigma**2 + 1).sqrt()
    x, output = torch.randn(2, 37, 1, 1, 1, 1, dtype=torch.float64)
    of_x, of_output = (c[:, None, None, None, None] for c in (c_skip, c_out))
    torch.testing.assert_close(to_x0("v", path, -output, x, t[:, None]), of_x * x + of_output * output)
    torch.testing.assert_close(path.input_scale(t), c_in)
    weight = Objective(prediction="x0", loss="v", max_weight=1e9).weight(t, path)
    torch.testing.assert_close(weight, 1 / c_out**2)


def test_weights_are_capped():
    objective = Objective(prediction="x0", loss="velocity", max_weight=25.0)
    assert float(objective.weight(torch.tensor(1e-6), Flow())) == 25.0


@pytest.mark.parametrize("path", [Flow(), Trigonometric(), VE(), EDM(), Shifted()])
def test_log_normal_times_have_their_moments(path):
    t = Objective(times=LogNormal(mean=0.5, std=1.2)).draw_times(4096, path, torch.Generator().manual_seed(0))
    z = -path.logsnr(t.double()) / 2
    assert float(z.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(z.std()) == pytest.approx(1.2, abs=0.02)
