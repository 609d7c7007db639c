"""Solvers: their order against the exact ODE, their identities, their peers, and what they refuse."""

import math
from dataclasses import replace

import pytest
import torch

from fromnoise.analytic import GaussianMixture, grid25, ode_map, ring
from fromnoise.process import (
    EDM,
    VE,
    VP,
    Cosine,
    Flow,
    ScaledLinear,
    Shifted,
    SubVP,
    Trigonometric,
    ZeroTerminal,
)
from fromnoise.sample import (
    GRIDS,
    SOLVERS,
    Ancestral,
    Churn,
    Exponential,
    Multistep,
    Procedure,
    Restart,
    RungeKutta,
    Tableau,
    solve,
    time_grid,
)
from fromnoise.sample.grids import shifted
from fromnoise.sample.plan import run
from fromnoise.sample.solve import plan
from fromnoise.types import UserError

PATHS = [Flow(), VP(), Cosine(), Trigonometric(), SubVP(), ScaledLinear(), EDM(), VE(), Shifted(), ZeroTerminal()]
ORDERS = {
    "euler": 1, "ddim": 1, "dpmpp_2m": 2, "dpmpp_3m": 3, "unipc_1": 2, "unipc_2": 3, "unipc_3": 4, "unipc_2_bh1": 3,
    "unipc_3_bh1": 4, "deis_2": 2, "deis_3": 3, "deis_4": 4, "ipndm_2": 2, "ipndm_3": 2, "ipndm_4": 2, "lms": 4,
    "abm_angle": 4, "abm_flow": 4, "heun": 2, "midpoint": 2, "rk4": 4, "dpm_2": 2, "dpm_3": 3, "dpmpp_2s": 2,
}
TABLES = [name for name, solver in SOLVERS.items() if not isinstance(solver, Procedure)]
STOCHASTIC = sorted(set(TABLES) - ORDERS.keys())
TWO = GaussianMixture.isotropic(torch.tensor([[0.7], [-0.9]]), 0.4)
NOISE = torch.randn(64, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def even(path, steps, high=4.0, low=0.25):
    """Times even in log(sigma / alpha), away from the ends."""
    return path.time(-2 * torch.linspace(math.log(high), math.log(low), steps + 1, dtype=torch.float64))


def twin(table, denoise, x, exact=None, warm=0):
    """A plan run as its equation reads; the first ``warm`` steps are replaced by ``exact`` states."""
    states, clocks = [x], [table.grid[0], *(s.t for s in table.stages)]
    for stage in table.stages:
        y = sum((w * states[j] for j, w in stage.states), torch.zeros_like(x))
        y = y + sum((w * denoise(states[j], torch.tensor(clocks[j], dtype=torch.float64))
                     for j, w in stage.predictions), torch.zeros_like(x))
        states.append(exact[stage.t] if exact is not None and len(states) <= warm else y)
    return states[-1]


@pytest.fixture(scope="module")
def circle():
    """Exact states x / sqrt(alpha^2 + sigma^2) at 129 even places of log(sigma / alpha), which no path changes."""
    times, y = even(Trigonometric(), 128), NOISE
    states = [y]
    for a, b in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        states.append(ode_map(TWO, states[-1], Trigonometric(), a, b))
    return states


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.kind)
def test_order_of_convergence(path, circle):
    """Halving the steps divides the error by 2^order, once there is a history to start from (an eighth of the way)."""
    denoise, errors = TWO.denoiser(path), {name: [] for name in ORDERS}
    for steps in (64, 128):
        times = even(path, steps)
        length = torch.hypot(path.alpha(times), path.sigma(times))
        exact = {float(t): s * y for t, s, y in zip(times, length, circle[:: 128 // steps], strict=True)}
        start, end = exact[float(times[0])], exact[float(times[-1])]
        for name, solver in SOLVERS.items():
            if name not in ORDERS:
                continue
            warm = 0
            if isinstance(solver, Multistep):
                solver = replace(solver, lower_final=False)
            table = plan(solver, path, tuple(times.tolist()))
            if isinstance(solver, Multistep):
                warm = next(i for i, s in enumerate(table.stages, 1) if s.step == steps // 8)
            y = twin(table, denoise, start, exact, warm)
            errors[name].append(float((y - end).square().mean().sqrt()))
    for name, order in ORDERS.items():
        slope = math.log2(errors[name][0] / errors[name][1])
        # A table of levels has kinks in t, which only rules that are polynomials in t see.
        kinks = name.startswith("deis") and "scaled_linear" in repr(path)
        assert slope > order - (0.3 if kinks else 0.15), (name, slope, errors[name])
        assert slope < order + 0.3 or order >= 3, (name, slope, errors[name])


@pytest.mark.parametrize("order", [2, 3, 4])
def test_even_weights_have_their_order_on_even_grids(order):
    """Adams-Bashforth weights are for even steps: iPNDM has order k where sigma/alpha falls evenly, else order 2."""
    path, errors = EDM(), []
    for steps in (128, 256):
        times = path.time(-2 * torch.linspace(3.0, 0.3, steps + 1, dtype=torch.float64).log())
        start = float(path.sigma(times[0])) * NOISE
        exact, x, warm = {}, start, steps // 8
        for a, b in zip(times[:warm].tolist(), times[1 : warm + 1].tolist(), strict=True):
            x = exact[b] = ode_map(TWO, x, path, a, b)
        end = ode_map(TWO, start, path, float(times[0]), float(times[-1]))
        table = plan(SOLVERS[f"ipndm_{order}"], path, tuple(times.tolist()))
        errors.append(float((twin(table, TWO.denoiser(path), start, exact, warm) - end).square().mean().sqrt()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("name", TABLES)
def test_the_loop_is_the_equation(name):
    """``run`` with its memory freed against the table read literally, and the count of evaluations."""
    path, calls = Flow(), []
    denoise = ring().denoiser(path)
    times = tuple(time_grid(9, path, "karras").tolist())
    table = plan(SOLVERS[name], path, times)

    def counted(x, t):
        calls.append(float(t))
        return denoise(x, t)

    x = torch.randn(8, 2, dtype=torch.float64)
    quiet = replace(table, stages=tuple(replace(s, noise=0.0) for s in table.stages))
    torch.testing.assert_close(run(quiet, counted, x), twin(quiet, denoise, x), rtol=1e-10, atol=1e-10)
    assert len(calls) == table.nfe
    assert all(0 < t <= 1 for t in calls)  # a network is never asked at t = 0


@pytest.mark.parametrize("name", TABLES)
def test_evaluations_are_spent_exactly(name):
    path, denoise, noise = Flow(), ring().denoiser(Flow()), torch.randn(4, 2)
    spent = 0
    for nfe in range(1, 40):
        if SOLVERS[name].steps(nfe) is None:
            with pytest.raises(UserError, match=f"{name} cannot spend exactly {nfe} evaluations"):
                solve(denoise, noise, path=path, solver=name, nfe=nfe)
        else:
            x, info = solve(denoise, noise, path=path, solver=name, nfe=nfe, grid="karras", return_info=True)
            assert info.nfe == nfe
            assert bool(torch.isfinite(x).all())
            spent += 1
    assert spent > 8


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.kind)
@pytest.mark.parametrize("name", ORDERS)
def test_whole_trajectories_end_near_the_exact_ones(path, name):
    """From pure noise to data, with the ends of every path."""
    noise = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mixture = ring(std=0.3)
    start = float(path.sigma(torch.ones((), dtype=torch.float64))) * noise
    want = ode_map(mixture, start, path)
    x = solve(mixture.denoiser(path), noise, path=path, solver=name, steps=60, grid="karras")
    assert float((x - want).square().mean().sqrt()) < (0.12 if ORDERS[name] == 1 else 0.02)


@pytest.mark.parametrize("name", TABLES)
def test_samples_have_the_law_of_the_data(name):
    """The ring's modes equally often, and their spread; the stochastic solvers as well."""
    mixture, path = ring(4, 0.25), Flow()
    noise = torch.randn(4000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x = solve(mixture.denoiser(path), noise, path=path, solver=name, steps=100, grid="karras")
    mode = mixture.mode(x)
    shares = torch.bincount(mode, minlength=4) / len(x)
    assert float((shares - 0.25).abs().max()) < 0.03
    spread = (x - mixture.means[mode]).square().mean().sqrt()
    assert float(spread) == pytest.approx(0.25, rel=0.06)


# ---- identities ---------------------------------------------------------------------------------------------


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.fixture
def problem():
    mixture = ring(std=0.3)

    def go(solver, path=Flow(), steps=9, **kw):  # noqa: B008
        noise = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        return solve(mixture.denoiser(path), noise, path=path, solver=solver, steps=steps, **{"grid": "karras"} | kw)

    return go


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.kind)
def test_first_order_is_ddim_in_every_coordinate(problem, path):
    for target in ("eps", "velocity"):
        close(problem(Multistep(order=1, target=target), path), problem("ddim", path))
    close(problem(Ancestral(eta=0.0), path), problem("ddim", path))


def test_ddim_on_the_flow_path_is_euler_and_rf_solver_is_midpoint():
    path, mixture = Flow(), ring()
    x = y = torch.randn(5, 2, dtype=torch.float64)
    times = time_grid(7, path)
    for t, u in zip(times[:-1], times[1:], strict=True):
        h = u - t
        y = y + h * mixture.velocity(y, t, path)
    torch.testing.assert_close(solve(mixture.denoiser(path), x, path=path, solver="euler", steps=7), y, atol=1e-10,
                               rtol=1e-10)
    z, grid = x, even(path, 6)
    for t, u in zip(grid[:-1], grid[1:], strict=True):
        half = z + (u - t) / 2 * mixture.velocity(z, t, path)
        z = z + (u - t) * mixture.velocity(half, (t + u) / 2, path)
    close(solve(mixture.denoiser(path), x / grid[0], path=path, solver="midpoint", grid=grid), z)


@pytest.mark.parametrize("path", [Flow(), VP(), EDM()], ids=lambda p: p.kind)
def test_heun_is_edms(path):
    """Karras et al. 2022, algorithm 1, in sigma and x / alpha."""
    mixture, grid, x = ring(), even(path, 6), torch.randn(5, 2, dtype=torch.float64)
    ratio = path.sigma(grid) / path.alpha(grid)

    def slope(y, i):
        return (y - mixture.x0(path.alpha(grid[i]) * y, grid[i], path)) / ratio[i]

    y = path.sigma(grid[0]) * x / path.alpha(grid[0])
    for i in range(6):
        d = slope(y, i)
        guess = y + (ratio[i + 1] - ratio[i]) * d
        y = y + (ratio[i + 1] - ratio[i]) * (d + slope(guess, i + 1)) / 2
    close(solve(mixture.denoiser(path), x, path=path, solver="heun", grid=grid), path.alpha(grid[-1]) * y)


def test_a_corrector_that_is_off_leaves_the_predictor(problem):
    close(problem(replace(SOLVERS["unipc_2"], corrector=False, lower_final=False)), problem("dpmpp_2m"))
    assert float((problem("unipc_2") - problem("dpmpp_2m")).abs().max()) > 1e-4


def test_noise_of_strength_zero_is_the_ode(problem):
    close(problem(Multistep(order=2, weights="bh2", tau=1e-9), path=VP()), problem("dpmpp_2m", path=VP()))
    close(problem(Churn(churn=0.0)), problem("heun"))
    close(problem(RungeKutta(Tableau((0.0,), ((),), (1.0,)), "velocity")), problem("ddim"))
    close(problem(Multistep(order=1, tau=1.0), path=VP()), problem(Ancestral(), path=VP()))


def test_exact_weights_through_one_node_of_a_step_are_the_singlestep_rule(problem):
    """DPM-Solver-2 by exact integrals and by the paper's shorter rule agree to their order, and DPM-3 is nearer."""
    exact = problem(Exponential("eps", (0.5,)), steps=60)
    fine = problem("rk4", steps=400)
    assert float((exact - problem("dpm_2", steps=60)).abs().max()) < 5e-3
    assert float((problem("dpm_3", steps=60) - fine).abs().max()) < float((exact - fine).abs().max())


def test_gaussian_data_of_the_basis_need_one_step():
    """With the linear part of N(0, s^2) a single step is exact for it: the target v is then zero."""
    one = GaussianMixture.isotropic(torch.zeros(1, 3), 0.3)
    noise = torch.randn(6, 3, dtype=torch.float64)
    for path in PATHS:
        solver = Multistep(order=1, target="v", variable="angle", final="extrapolate", data_std=0.3)
        start = float(path.sigma(torch.ones((), dtype=torch.float64))) * noise
        x = solve(one.denoiser(path), noise, path=path, solver=solver, steps=1)
        torch.testing.assert_close(x, ode_map(one, start, path), rtol=1e-6, atol=1e-7)


# ---- noise, callbacks, dtypes -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STOCHASTIC)
def test_fresh_noise_is_of_each_sample(problem, name):
    path, denoise = Flow(), ring().denoiser(Flow())
    noise = torch.randn(6, 2, dtype=torch.float64)
    settings = {"path": path, "solver": name, "steps": 12, "grid": "karras"}
    whole = solve(denoise, noise, seed=5, **settings)
    torch.testing.assert_close(solve(denoise, noise[4:], seed=5, first=4, **settings), whole[4:])
    assert float((solve(denoise, noise, seed=6, **settings) - whole).abs().max()) > 1e-3


def test_callbacks_see_every_step_in_order():
    for name in TABLES:
        seen = []
        x = solve(ring().denoiser(Flow()), torch.randn(3, 2), path=Flow(), solver=name, steps=9, grid="karras",
                  callback=seen.append)
        assert [p.step for p in seen] == list(range(1, 10)), name
        assert (seen[0].t, seen[-1].t_next, seen[-1].steps) == (1.0, 0.0, 9)
        assert torch.equal(seen[-1].x, x)
        assert all(p.x0.shape == x.shape for p in seen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_any_shape_and_dtype(dtype):
    denoise = grid25().denoiser(Flow())
    noise = torch.randn(3, 1, 2, 1, 1, dtype=dtype)
    for name in ("dpmpp_2m", "unipc_3", "heun", "ancestral"):
        x = solve(denoise, noise, path=Flow(), solver=name, steps=6)
        assert x.shape == noise.shape
        assert x.dtype == dtype
        assert bool(torch.isfinite(x).all())


def test_a_step_costs_few_operations():
    """At most four sample-sized operations a step for second-order multistep solvers."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        total = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            self.total += isinstance(result, torch.Tensor) and result.numel() >= 4096
            return result

    for name in ("dpmpp_2m", "deis_2", "ipndm_2", "dpmpp_2m_sde"):
        table = plan(SOLVERS[name], Flow(), tuple(time_grid(20, Flow(), "karras").tolist()))
        with Count() as count:
            run(table, lambda x, t: x, torch.randn(4, 1024), lambda i, like: like)
        assert count.total <= 4 * 20, (name, count.total)


# ---- grids and what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.kind)
@pytest.mark.parametrize("name", GRIDS)
def test_grids_fall_from_one_to_zero(name, path):
    for steps in (1, 2, 5, 20):
        times = time_grid(steps, path, name)
        assert len(times) == steps + 1
        assert (float(times[0]), float(times[-1])) == (1.0, 0.0)
        assert bool((times.diff() < 0).all()), times


def test_grids_are_what_their_names_say():
    ratio = (lambda t: t / (1 - t))(time_grid(8, Flow(), "karras")[1:-1])
    even = ratio ** (1 / 7)
    torch.testing.assert_close(even.diff(), even.diff()[:1].expand(6))
    assert float(ratio[-1]) == pytest.approx(0.002)
    ratio = (lambda t: t / (1 - t))(time_grid(8, Flow(), "logsnr")[1:-1]).log()
    torch.testing.assert_close(ratio.diff(), ratio.diff()[:1].expand(6))
    torch.testing.assert_close(time_grid(8, Flow(), "flow"), time_grid(8, Flow()), atol=1e-6, rtol=0)
    torch.testing.assert_close(time_grid(8, Trigonometric(), "angle"), time_grid(8, Trigonometric()), atol=1e-6, rtol=0)
    shifted = time_grid(8, Flow(), shift=3.0)
    torch.testing.assert_close(shifted, 3 * time_grid(8, Flow()) / (1 + 2 * time_grid(8, Flow())))


@pytest.mark.parametrize("path", [VP(), ScaledLinear(), EDM(), Flow(), Cosine()], ids=lambda path: path.kind)
@pytest.mark.parametrize("shift", [0.3, 2.0, 8.0])
@pytest.mark.parametrize("grid", ["uniform", "karras"])
def test_a_shifted_grid_falls_strictly_from_noise(path, shift, grid):
    """Also where the path ends at a finite log-SNR, beyond which nothing can be moved."""
    times, plain = time_grid(20, path, grid, shift), time_grid(20, path, grid)
    assert times[0] == 1
    assert times[-1] == 0
    assert bool((times.diff() < 0).all())
    assert bool(((times[1:-1] > plain[1:-1]) == (shift > 1)).all())


@pytest.mark.parametrize(("bad", "sentence"), [
    ({"solver": "eulr"}, 'Did you mean "euler"'), ({"steps": 0}, "At least 1 step"),
    ({"grid": "karas"}, 'Did you mean "karras"'), ({"shift": 0.0}, "greater than 0"),
    ({"grid": [1.0, 1.0, 0.0]}, "fall strictly"), ({"grid": [1.5, 0.0]}, "between 1"),
    ({"grid": [1.0]}, "at least two"),
    ({"solver": "heun", "nfe": 8}, "7 or 9"), ({"nfe": 8, "steps": 8}, "not both"), ({"nfe": 0}, "cannot spend"),
    ({"solver": "restart", "steps": 1}, "Restart"), ({"nfe": 2.5}, "nfe is a whole number"),
    ({"grid": [1.0, 0.5, 0.0], "nfe": 20}, "with 2 steps, and dpmpp_2m cannot take 20"),
    ({"grid": [1.0, 0.5, 0.0], "steps": 3, "solver": "auto"}, "with 2 steps"),
    ({"grid": [1.0, 0.5, 0.0], "steps": 3, "solver": "picard"}, "with 2 steps"),
    ({"grid": [1.0, 0.5, 0.0], "shift": 3.0}, "shift moves a grid that has a name"),
    ({"grid": [[1.0, 1.0], [0.0, 0.0]], "shift": 3.0}, "leave nfe, steps, shift"),
    ({"solver": "auto", "shift": -1.0}, "greater than 0"), ({"grid": ["a", "b"]}, "list of times"),
    ({"grid": [], "solver": "auto"}, "at least two"), ({"solver": None}, "solver is a name"),
    ({"path": "flow"}, "such as Flow"), ({"noise": torch.ones(2, 2, dtype=torch.int64)}, "floating-point"),
])
def test_what_cannot_be_is_one_sentence(bad, sentence):
    asked = {"noise": torch.randn(2, 2), "path": Flow()} | bad
    with pytest.raises(UserError, match=sentence):
        solve(ring().denoiser(Flow()), **asked)


@pytest.mark.parametrize("solver", ["euler", "heun", "rk45", "adaptive_sde", "picard"])
def test_an_answer_of_another_shape_is_said(solver):
    """A sum would stretch it to the shape of x and be wrong."""
    with pytest.raises(UserError, match="in the shape of x"):
        solve(lambda x, t: x[:, :1], torch.randn(4, 2), path=Flow(), solver=solver)


def test_a_shift_moves_the_grid_of_auto_too():
    for path in (Flow(), VP()):
        plain, moved = (solve(lambda x, t: 0 * x, torch.randn(2, 2), path=path, solver="auto", nfe=6, shift=s,
                              return_info=True)[1].grid for s in (1.0, 3.0))
        want = shifted(torch.tensor(plain, dtype=torch.float64), path, 3.0)
        torch.testing.assert_close(torch.tensor(moved, dtype=torch.float64), want)
        assert all(b > a for a, b in zip(plain[1:-1], moved[1:-1], strict=True))


def test_lists_of_lists_are_schedules_and_no_samples_are_solved():
    def denoise(x, t):
        return x / (1 + t[..., None])

    rows = [[1.0, 1.0], [0.5, 1.0], [0.0, 0.5], [0.0, 0.0]]
    noise = torch.randn(3, 2, 4)
    torch.testing.assert_close(solve(denoise, noise, path=Flow(), grid=rows),
                               solve(denoise, noise, path=Flow(), grid=torch.tensor(rows)), rtol=0, atol=0)
    for solver in ("auto", "heun", "ancestral"):
        assert solve(lambda x, t: 0 * x, noise[:0], path=Flow(), solver=solver, steps=3).shape == (0, 2, 4)


def test_restart_goes_back_up():
    path = Flow()
    times = tuple(time_grid(12, path, "karras").tolist())
    table = plan(Restart(), path, times)
    clocks = [s.t for s in table.stages]
    assert sum(b > a for a, b in zip(clocks[:-1], clocks[1:], strict=True)) == 2
    assert table.nfe == 12 * 2 - 1 + 2 * 3 * 2


# ---- auto ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "goals"), [
    ("grid25", {5: 0.07, 8: 0.032, 10: 0.02, 15: 0.006, 20: 0.004}),
    ("ring", {5: 0.07, 8: 0.032, 10: 0.02, 15: 0.006, 20: 0.004}),
    ("anisotropic", {5: 0.20, 8: 0.10, 10: 0.075, 15: 0.03, 20: 0.01}),
])
@pytest.mark.parametrize("path", [Flow(), VP()], ids=lambda p: p.kind)
def test_auto_is_near_the_exact_answer(name, goals, path):
    from fromnoise.evaluate.solvers import auto_trial, problem

    on = problem(name, path, 256)
    for nfe, goal in goals.items():
        trial = auto_trial(on, nfe)
        assert trial.error.rms < goal, trial
        assert trial.error.median < goal


def test_auto_says_what_it_picked_and_spends_the_budget():
    denoise, noise = ring().denoiser(Flow()), torch.randn(4, 2)
    for nfe in range(1, 31):
        for guidance in (1.0, 2.0, 5.0):
            for start in (noise, torch.randn(2, 1, 1, 4, 4)):
                _, info = solve(denoise if start is noise else lambda x, t: 0 * x, start, path=Flow(), solver="auto",
                                nfe=nfe, guidance=guidance, return_info=True)
                assert info.nfe == nfe
                assert info.solver.startswith("auto: v")
    few, many = (solve(lambda x, t: 0 * x, torch.randn(2, n), path=Flow(), solver="auto", nfe=8, return_info=True)[1]
                 for n in (2, 64))
    assert few.solver != many.solver
    assert len(solve(denoise, noise, path=Flow(), solver="auto", steps=7, return_info=True)[1].grid) == 8


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m"])
def test_a_denoiser_may_answer_in_another_dtype(name):
    """The samples keep the dtype of the noise, also where a step is one interpolation."""
    exact, noise = ring().denoiser(Flow()), torch.randn(4, 2)
    x = solve(lambda x, t: exact(x.double(), t), noise, path=Flow(), solver=name, nfe=8)
    assert x.dtype == noise.dtype
    torch.testing.assert_close(x.double(), solve(exact, noise.double(), path=Flow(), solver=name, nfe=8), rtol=1e-4,
                               atol=1e-4)
