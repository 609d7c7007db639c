"""Per-frame clocks: scheduling matrices against the frames solved alone, and what they refuse."""

import math
from dataclasses import replace

import pytest
import torch

from fromnoise.analytic import GaussianMixture, ode_map
from fromnoise.process import EDM, VE, VP, Flow, SubVP, Trigonometric
from fromnoise.sample import SOLVERS, Ancestral, Multistep, Procedure, autoregressive, solve, time_grid
from fromnoise.sample.frames import abreast
from fromnoise.sample.plan import run
from fromnoise.sample.schedules import among, chunks, full_sequence, overlapping, pyramid, staggered
from fromnoise.sample.solve import plan
from fromnoise.types import UserError

TABLES = [name for name, solver in SOLVERS.items() if not isinstance(solver, Procedure)]
NINE = tuple(time_grid(9, Flow(), "karras").tolist())
SURE = [name for name in TABLES if not plan(SOLVERS[name], Flow(), NINE).stochastic]
FRAMES, SHAPE = 4, (3, 4, 2, 1, 1)  # two numbers a frame
TWO = GaussianMixture.isotropic(torch.tensor([[0.7, 0.1], [-0.9, 0.4]]), 0.4)
NOISE = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
PATHS = [Flow(), VP(), Trigonometric(), SubVP(), EDM(), VE()]


def per_frame(path, seen=None):
    """The exact denoiser of frames that know nothing of each other."""
    exact = TWO.denoiser(path)

    def denoise(x, t):
        if seen is not None:
            seen.append(t)
        clock = t.expand(x.shape[:2]) if t.ndim else t.expand(x.shape[0], x.shape[1])
        return exact(x.reshape(-1, 2), clock.reshape(-1)).reshape(x.shape)

    return denoise


def joint(path):
    """Frames that do see each other: each is pulled to the mean of all."""
    alone = per_frame(path)
    return lambda x, t: 0.7 * alone(x, t) + 0.3 * alone(x, t).mean(1, keepdim=True)


def ragged(path):
    """Four grids of one length in rows: late, early, held at both ends, and all the way."""
    def column(late, steps, rest):
        times = time_grid(steps, path, "karras")
        return torch.cat([times[:1].expand(late), times, times[-1:].expand(rest)])

    return torch.stack([column(3, 6, 0), column(0, 5, 4), column(2, 6, 1), column(0, 9, 0)], 1)


@pytest.mark.parametrize("path", [Flow(), VP()], ids=lambda p: p.kind)
@pytest.mark.parametrize("name", TABLES)
def test_equal_columns_are_the_scalar_clock(name, path):
    """To the last bit, for a denoiser that mixes frames, and with the same noise on the way."""
    times = time_grid(9, path, "karras")
    for matrix in (full_sequence(times, FRAMES), full_sequence(times, FRAMES)[:, None].expand(-1, 3, -1)):
        seen = []
        x, info = solve(joint(path), NOISE, path=path, solver=name, grid=matrix, seed=5, return_info=True)
        y, alone = solve(joint(path), NOISE, path=path, solver=name, grid=times, seed=5, return_info=True)
        torch.testing.assert_close(x, y, rtol=0, atol=0)
        assert info == alone
        solve(per_frame(path, seen), NOISE, path=path, solver=name, grid=matrix)
        assert all(t.shape == (matrix.shape[1] if matrix.ndim == 3 else 1, FRAMES) for t in seen)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.kind)
@pytest.mark.parametrize("name", SURE)
def test_frames_that_know_nothing_of_each_other(name, path):
    """Each comes out as if it had been solved alone on its own grid, whatever the others do."""
    matrix = ragged(path)
    x = solve(per_frame(path), NOISE, path=path, solver=name, grid=matrix)
    for f in range(FRAMES):
        own = torch.unique(matrix[:, f]).flip(0)
        alone = solve(per_frame(path), NOISE[:, f : f + 1], path=path, solver=name, grid=own)
        torch.testing.assert_close(x[:, f : f + 1], alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "unipc_3", "deis_3", "heun", "ancestral", "churn"])
def test_held_frames_are_left_bit_identical(name):
    """In every row, also where the denoiser has no number for them, and with fresh noise for the others."""
    path, rows = Flow(), []
    given = torch.rand(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    matrix = among(pyramid(time_grid(5, path, "karras"), 3, delay=2), [False, True, False, False])

    def denoise(x, t):
        return torch.where(t.reshape(1, -1, 1, 1, 1) == 0, math.nan, torch.tanh(x))

    x = solve(denoise, NOISE, path=path, solver=name, grid=matrix, given=given, callback=lambda p: rows.append(p.x))
    assert len(rows) == len(matrix) - 1
    assert bool(x.isfinite().all())
    for n, (before, after) in enumerate(zip([NOISE, *rows[:-1]], rows, strict=True)):
        for f in range(FRAMES):
            if matrix[n, f] == matrix[n + 1, f]:
                assert torch.equal(after[:, f], given[:, f] if f == 1 else before[:, f])
            else:
                assert not torch.equal(after[:, f], before[:, f])
    assert torch.equal(x[:, 1], given[:, 1])


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.kind)
def test_given_samples_are_noised_to_where_the_grid_begins(path):
    """alpha given + sigma noise, with one clock or many; a frame held at 0 is what was given, to the last bit."""
    given = torch.rand(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    times = 0.6 * time_grid(4, path)
    starts = []

    def spy(x, t):
        starts.append(x)
        return 0.5 * x

    solve(spy, NOISE, path=path, grid=times, given=given)
    torch.testing.assert_close(starts[0], path.add_noise(given, NOISE, times[0]), rtol=1e-12, atol=1e-12)
    starts.clear()
    x = solve(spy, NOISE, path=path, grid=among(full_sequence(times, 3), [True, False, False, False]), given=given)
    clock = torch.tensor([[0, 0.6, 0.6, 0.6]], dtype=torch.float64)
    torch.testing.assert_close(starts[0], path.add_noise(given, NOISE, clock), rtol=1e-12, atol=1e-12)
    assert torch.equal(x[:, 0], given[:, 0])


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "unipc_2", "heun"])
def test_after_a_rest_a_frame_begins_anew(name):
    """Falling, held, falling again is one solve after another, while a neighbour moves all the time."""
    path, times = Flow(), time_grid(8, Flow(), "karras")
    rested = torch.cat([times[:4], times[3:4], times[3:4], times[4:]])
    matrix = torch.stack([rested, time_grid(10, path)], 1)
    x = solve(per_frame(path), NOISE[:, :2], path=path, solver=name, grid=matrix)
    first = run(plan(SOLVERS[name], path, tuple(times[:4].tolist())), per_frame(path), NOISE[:, :1])
    second = run(plan(SOLVERS[name], path, tuple(times[3:].tolist())), per_frame(path), first)
    torch.testing.assert_close(x[:, :1], second, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "deis_3", "unipc_2", "abm_flow", "heun", "rk4"])
def test_order_of_convergence_of_every_frame(name):
    """Frames on clocks of their own converge to the exact ODE as one clock does."""
    path, order = VP(), {"euler": 1, "dpmpp_2m": 2, "deis_3": 3, "unipc_2": 3, "abm_flow": 4, "heun": 2, "rk4": 4}[name]
    solver = SOLVERS[name]
    if isinstance(solver, Multistep):
        solver = replace(solver, lower_final=False)
    spans, errors = [(3.0, 0.3), (2.0, 0.4), (1.5, 0.2), (2.5, 0.5)], []
    for steps in (64, 128):
        late = torch.stack([path.time(-2 * torch.linspace(math.log(a), math.log(b), steps + 1, dtype=torch.float64))
                            for a, b in spans], 1)
        late[:, 1] = torch.cat([late[0, 1].expand(3), late[:-2, 1]])[: steps + 1]  # a late start, held for two rows
        start = path.sigma(late[0])[:, None, None, None] * NOISE
        x = run(abreast(lambda times: plan(solver, path, times), path, late, NOISE), per_frame(path), start)
        errors.append([float((x[:, f] - ode_map(TWO, start[:, f].reshape(-1, 2), path, float(late[0, f]),
                                                float(late[-1, f])).reshape(3, 2, 1, 1)).square().mean().sqrt())
                       for f in range(FRAMES)])
    for f in range(FRAMES):
        slope = math.log2(errors[0][f] / errors[1][f])
        # A multistep rule starts with a step of first order, and another of second: h^2 and h^3 at the end.
        assert slope > min(order, 2 if isinstance(solver, Multistep) else order) - 0.2, (f, slope, errors)


def test_one_frame_after_the_other():
    """A frame is evaluated beside the finished ones before it, and in as many calls as there are rows to leave."""
    path, seen = Flow(), []
    matrix = autoregressive(time_grid(5, path), FRAMES)

    def denoise(x, t):
        seen.append((t[0].tolist(), x.clone()))
        return joint(path)(x, t)

    x, info = solve(denoise, NOISE, path=path, solver="dpmpp_2m", grid=matrix, return_info=True)
    assert info.nfe == len(seen) == len(matrix) - 1 == 5 * FRAMES
    assert [t for t, _ in seen] == matrix[:-1].tolist()
    for f in range(1, FRAMES):
        torch.testing.assert_close(seen[5 * f][1][:, :f], x[:, :f], rtol=0, atol=0)


def test_every_sample_may_have_a_matrix_of_its_own():
    path, a, b = Flow(), ragged(Flow()), ragged(Flow()).flip(1)
    mixed = torch.stack([a, b, a], 1)
    x = solve(joint(path), NOISE, path=path, solver="deis_3", grid=mixed)
    for i, matrix in enumerate((a, b, a)):
        alone = solve(joint(path), NOISE[i : i + 1], path=path, solver="deis_3", grid=matrix)
        torch.testing.assert_close(x[i : i + 1], alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_matrices_keep_the_dtype_of_the_noise(dtype, close):
    exact, path, matrix = per_frame(Flow()), Flow(), ragged(Flow())
    x = solve(lambda x, t: exact(x.double(), t).to(dtype), NOISE.to(dtype), path=path, grid=matrix)
    assert x.dtype == dtype
    torch.testing.assert_close(x.double(), solve(exact, NOISE, path=path, grid=matrix), rtol=close, atol=close)


def test_fresh_noise_goes_to_frames_that_move():
    """Data N(0, 1) and ancestral steps: the variance of every frame is that of the recursion on one clock."""
    path, noise = VP(), torch.randn(4000, 3, generator=torch.Generator().manual_seed(2))
    times = time_grid(12, path, "logsnr")
    matrix = pyramid(times, 3, delay=7)
    x = solve(lambda x, t: path.alpha(t).to(x) * x, noise, path=path, solver="ancestral", grid=matrix)
    variance = 1.0
    for t, stage in zip(times[:-1], plan(Ancestral(), path, tuple(times.tolist())).stages, strict=True):
        share = sum(w for _, w in stage.states) + float(path.alpha(t)) * sum(w for _, w in stage.predictions)
        variance = share**2 * variance + stage.noise**2
    assert variance < 0.8  # so few steps lose some, which tells the recursion from any other
    assert x.var(0).tolist() == pytest.approx([variance] * 3, abs=0.05)


def test_schedules_as_tables():
    times = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    assert full_sequence(times, 2).tolist() == [[1, 1], [0.5, 0.5], [0, 0]]
    assert autoregressive(times, 2).tolist() == [[1, 1], [0.5, 1], [0, 1], [0, 0.5], [0, 0]]
    assert pyramid(times, 3).tolist() == [[1, 1, 1], [0.5, 1, 1], [0, 0.5, 1], [0, 0, 0.5], [0, 0, 0]]
    assert chunks(times, 3, 2).tolist() == [[1, 1, 1], [0.5, 0.5, 1], [0, 0, 1], [0, 0, 0.5], [0, 0, 0]]
    assert overlapping(times, 4, 2).tolist() == [[1, 1, 1, 1], [0.5, 0.5, 1, 1], [0, 0, 0.5, 0.5], [0, 0, 0, 0]]
    assert torch.equal(overlapping(times, 4, 2, 0.0), chunks(times, 4, 2))
    assert torch.equal(overlapping(times, 4, 2, 1.0), full_sequence(times, 4))
    assert torch.equal(staggered(times, 3, 2), autoregressive(times, 3))
    assert among(pyramid(times, 2), [True, False, False], 0.1).tolist() == [
        [0.1, 1, 1], [0.1, 0.5, 1], [0.1, 0, 0.5], [0.1, 0, 0]]


@pytest.mark.parametrize(("change", "sentence"), [
    ({"grid": torch.rand(5, 3)}, r"has the shape \[rows, 4\] or \[rows, 3, 4\].*got \[5, 3\]"),
    ({"grid": torch.rand(5, 2, 4)}, r"has the shape"),
    ({"grid": torch.tensor([[0.5] * 4, [0.6] * 4])}, "falls or is held"),
    ({"grid": torch.tensor([[1.5] * 4, [0.0] * 4])}, "between 1"),
    ({"grid": torch.tensor([[math.nan] * 4, [0.0] * 4])}, "falls or is held"),
    ({"nfe": 9}, "leave nfe"), ({"steps": 9}, "leave nfe"), ({"brownian": True}, "no Brownian path"),
    ({"solver": "rk45"}, "rk45 starts from noise and has one clock"), ({"solver": "picard"}, "such as euler"),
    ({"given": torch.zeros(3, 4)}, "must have the shape of the noise"),
])
def test_what_is_refused(change, sentence):
    with pytest.raises(UserError, match=sentence):
        solve(per_frame(Flow()), NOISE, path=Flow(), **({"grid": ragged(Flow())} | change))


@pytest.mark.parametrize("make", [lambda t: pyramid(t, 0), lambda t: pyramid(t, 2, -1), lambda t: chunks(t, 2, 0),
                                  lambda t: overlapping(t, 4, 2, 1.5), lambda t: among(pyramid(t, 2), [True, False])])
def test_schedules_that_cannot_be(make):
    with pytest.raises(UserError):
        make(time_grid(4, Flow()))
