"""Tuning: it helps on noise it has not seen, never harms, and what it makes is data."""

import json
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from test_generate import tiny
from test_sample import twin

import fromnoise as fn
from fromnoise.analytic import GaussianMixture, ode_map, ring
from fromnoise.cli import main
from fromnoise.config import from_dict, to_dict
from fromnoise.output import read_picture
from fromnoise.process import EDM, VP, Cosine, Flow
from fromnoise.random import sample_noise
from fromnoise.sample import GRIDS, SOLVERS, Tuned, solve, time_grid, tune
from fromnoise.sample.gauss_newton import damped_step, loss, normal_equations
from fromnoise.sample.solve import plan
from fromnoise.sample.student import Student, fixed
from fromnoise.sample.teacher import Paths
from fromnoise.sample.teleport import Gaussian
from fromnoise.sample.tune import BEGIN, Clock, all_fixed, best_starts
from fromnoise.sample.tuned import folded, follow
from fromnoise.train import train
from fromnoise.types import Condition, UserError

RING = ring()


def noise(count, seed, dim=2):
    return sample_noise((count, dim), seed, dtype=torch.float64)


def rms(x, ends):
    return float((x - ends).square().mean().sqrt() / ends.std())


@pytest.fixture(scope="module")
def tuned():
    return tune(RING.denoiser(Flow()), Flow(), nfe=5, noise=noise(512, 1), steps=72, seconds=1e6)


# ---- what a tuned solver is -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", [Flow(), VP(), EDM()], ids=lambda p: p.kind)
@pytest.mark.parametrize("solver", BEGIN)
def test_every_rule_to_begin_with_can_be_written_as_a_table(solver, path):
    """Folding a plan and following the table leads where the plan itself leads."""
    start = noise(8, 0)
    times = time_grid(7 // SOLVERS[solver].multiple + SOLVERS[solver].multiple - 1, path, "karras")
    grid, table = folded(SOLVERS[solver].plan(path, times), path)
    assert len(grid) == 8
    assert set(times.tolist()) <= set(grid.tolist())
    ours = follow(path, grid, table, RING.denoiser(path), float(path.sigma(times[0])) * start)
    theirs = solve(RING.denoiser(path), start, path=path, solver=solver, grid=times)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_plan_is_the_table(tuned):
    """The loop of all solvers, its slow twin and the equation as it is learned agree."""
    start, denoise = noise(16, 3), RING.denoiser(Flow())
    x = solve(denoise, start, path=Flow(), solver=tuned)
    written = plan(tuned, Flow(), tuned.grid)
    torch.testing.assert_close(twin(written, denoise, written.begin(start)), x, rtol=1e-10, atol=1e-10)
    table = torch.tensor([[*row, *[0.0] * (tuned.nfe + 1 - len(row))] for row in tuned.table], dtype=torch.float64)
    equation = follow(Flow(), torch.tensor(tuned.grid, dtype=torch.float64), table, denoise, written.begin(start))
    torch.testing.assert_close(equation, x, rtol=1e-10, atol=1e-10)


def test_evaluations_are_exact_and_the_grid_is_its_own(tuned):
    asked = []

    def counting(x, t):
        asked.append(float(t))
        return RING.denoiser(Flow())(x, t)

    _, info = solve(counting, noise(4, 0), path=Flow(), solver=tuned, nfe=5, return_info=True)
    assert info.nfe == len(asked) == 5
    assert tuple(asked) == tuned.grid[:-1]
    assert info.grid == tuned.grid


def test_json_keeps_every_bit(tuned, tmp_path):
    tuned.save(tmp_path / "a.json")
    again = Tuned.load(tmp_path / "a.json")
    assert again == tuned
    a, b = (solve(RING.denoiser(Flow()), noise(32, 4), path=Flow(), solver=s) for s in (tuned, again))
    assert torch.equal(a, b)


@pytest.mark.parametrize("path", [Flow(), VP(), Cosine(), EDM()], ids=lambda p: p.kind)
def test_the_jump_is_exact_for_gaussian_data(path):
    axes = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    variances = torch.tensor([0.04, 0.5, 2.0], dtype=torch.float64)
    mean = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)
    data = GaussianMixture(torch.ones(1), mean[None], (axes.mT @ variances.diag() @ axes)[None])
    law = Gaussian(mean=mean.tolist(), variances=variances.tolist(), axes=axes.tolist())  # type: ignore[arg-type]
    time, start = torch.tensor([1.0, 0.4], dtype=torch.float64), noise(16, 5, dim=3)
    ends = list(zip(path.alpha(time), path.sigma(time), strict=True))
    exact = ode_map(data, float(path.sigma(time[0])) * start, path, 1.0, 0.4)
    torch.testing.assert_close(law.jump(start, ends[0], ends[1]), exact, rtol=1e-8, atol=1e-8)
    plain = Gaussian(mean=(0.0,) * 3, variances=(1.0,) * 3)
    turned = replace(plain, axes=tuple(map(tuple, axes.tolist())))
    torch.testing.assert_close(plain.jump(start, *ends), turned.jump(start, *ends))


def test_a_law_is_that_of_its_samples():
    cov = torch.tensor([[2.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    law = Gaussian.fit(torch.tensor([3.0, -1.0]) + noise(20_000, 0) @ torch.linalg.cholesky(cov).mT)
    axes, variances = (torch.tensor(v, dtype=torch.float64) for v in (law.axes, law.variances))
    torch.testing.assert_close(axes.mT @ variances.diag() @ axes, cov, atol=0.06, rtol=0)
    torch.testing.assert_close(torch.tensor(law.mean), torch.tensor([3.0, -1.0]), atol=0.05, rtol=0)
    assert Gaussian.fit(torch.randn(16, 300)).axes is None


@pytest.mark.parametrize("law", [None, Gaussian(mean=(0.2, 0.1), variances=(1.0, 0.8))], ids=["start", "jump"])
@pytest.mark.parametrize("weights", [True, False])
def test_samples_with_a_solver_each_end_where_each_alone_does(law, weights):
    """The slow twin of handing every row its own copy of the parameters."""
    path, start, denoise = VP(), noise(3, 0), RING.denoiser(VP())
    begin = fixed(SOLVERS["deis_3"], time_grid(5, path, "karras"), path, law, "")
    torch.testing.assert_close(begin.moved(begin.values()).table, begin.table)
    own = begin.values(weights)[:, None] + 0.05 * noise(3, 1, dim=len(begin.values(weights))).mT
    together = begin.moved(own).end(path, denoise, start)
    alone = [begin.moved(own[:, b]).end(path, denoise, start[b : b + 1]) for b in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("path", [Flow(), VP(), Cosine(), EDM()], ids=lambda p: p.kind)
def test_times_have_the_gradient_of_the_inverse(path):
    falls = torch.tensor([1.5, 0.7, 1.2], dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: Student(f, torch.zeros(4, 5), None).times(path), falls)


# ---- Gauss and Newton -----------------------------------------------------------------------------------


def rows_of(count):
    """Linear residuals r_b = A_b p - y_b, of which every tenth y_b is nonsense."""
    random = torch.Generator().manual_seed(0)
    A = torch.randn(count, 3, 4, generator=random, dtype=torch.float64)
    true = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    y = A @ true + 0.01 * torch.randn(count, 3, generator=random, dtype=torch.float64)
    y[::10] += 50

    def residuals(p, rows):
        return torch.einsum("bdp,p...->bd" if p.ndim == 1 else "bdp,pb->bd", A[rows], p) - y[rows]

    return A, true, residuals


def test_the_normal_equations_are_those_of_the_loss():
    """The gradient exactly, the curvature as the mean over many rows of random signs."""
    A, true, residuals = rows_of(4000)
    rows, bend, draw = torch.arange(4000), 1.0, torch.Generator().manual_seed(0)
    at = (true + 0.1).requires_grad_()
    value = loss(residuals(at, rows).norm(dim=1), bend).mean() / 2
    gradient, curvature = normal_equations(residuals, at.detach(), rows, 300, bend, draw)
    torch.testing.assert_close(gradient, torch.autograd.grad(value, at)[0])
    w = (1 + residuals(at.detach(), rows).square().sum(1)) ** -2
    exact = torch.einsum("b,bdp,bdq->pq", w, A, A) / 4000
    torch.testing.assert_close(curvature, exact, atol=0.1 * float(exact.diagonal().mean()), rtol=0)


def test_damped_steps_find_the_parameters_among_outliers():
    _, true, residuals = rows_of(400)
    rows, draw = torch.arange(400), torch.Generator().manual_seed(0)

    def objective(p):
        return float(loss(residuals(p, rows).norm(dim=1), 2.0).mean())

    p, damping = torch.zeros(4, dtype=torch.float64), 1e-2
    for _ in range(30):
        p, damping = damped_step(objective, objective(p), p, normal_equations(residuals, p, rows, 400, 2.0, draw),
                                 damping)
    torch.testing.assert_close(p, true, atol=0.01, rtol=0)
    assert damped_step(lambda _: 1.0, 1.0, p, (p, torch.eye(4).double()), 1e-2)[0] is p  # where nothing helps it stays


# ---- what tuning does -----------------------------------------------------------------------------------


@pytest.mark.parametrize("nfe", [4, 5])
def test_it_begins_with_the_best_of_all_kinds(nfe):
    """With and without a jump, no two that are the same, and the best on the noise held out first."""
    paths = Paths.follow_teacher(RING.denoiser(Flow()), Flow(), noise(64, 1), None, 60, 64, lambda *_: None)
    starts = best_starts(paths, all_fixed(paths, nfe, True, None), Clock.of(1e6), lambda *_: None)
    assert len(starts) == len({paths.errors(s, paths.seen[:48]) for s in starts}) == 8
    assert sum(s.law is None for s in starts) == 4
    held_out = [paths.errors(s, paths.held_out).rms for s in starts]
    assert held_out == sorted(held_out)
    assert all(len(s.table) == nfe for s in starts)


def test_without_time_ddim_is_looked_at_on_every_grid():
    paths = Paths.follow_teacher(RING.denoiser(Flow()), Flow(), noise(64, 1), None, 60, 64, lambda *_: None)
    starts = best_starts(paths, all_fixed(paths, 2, False, None), Clock.of(0.0), lambda *_: None)
    plain = [fixed(SOLVERS["ddim"], time_grid(2, Flow(), grid), Flow(), None, "") for grid in GRIDS]
    best = min(plain, key=lambda one: paths.errors(one, paths.seen[:48]).robust)
    assert paths.errors(best, paths.held_out) in [paths.errors(one, paths.held_out) for one in starts]
    assert all(one.name.startswith(("auto", "ddim")) for one in starts)


def test_it_cuts_the_error_to_a_third_on_noise_it_has_not_seen(tuned):
    fresh, denoise = noise(1024, 99), RING.denoiser(Flow())
    ends = ode_map(RING, fresh, Flow(), tolerance=1e-9)
    fixed = [rms(solve(denoise, fresh, path=Flow(), solver=s, nfe=5, grid=g), ends)
             for s in ("dpmpp_2m", "unipc_2", "deis_3", "ipndm_3", "abm_angle") for g in GRIDS]
    ours = rms(solve(denoise, fresh, path=Flow(), solver=tuned, nfe=5), ends)
    assert ours < min(fixed) / 3
    assert tuned.before.rms > 3 * tuned.after.rms  # type: ignore[union-attr]


@pytest.mark.parametrize("steps", [4, 24])
def test_it_is_never_worse_than_where_it_began(steps):
    def made(steps):
        return tune(RING.denoiser(VP()), VP(), nfe=4, noise=noise(64, 1), steps=steps, seconds=1e6)

    begun, found = made(0), made(steps)
    assert begun.before == begun.after == found.before
    assert found.after.rms <= found.before.rms  # type: ignore[union-attr]
    assert found.begun == begun.begun


def test_what_does_not_help_is_not_kept(monkeypatch):
    """With steps that go astray it is what it began with."""
    monkeypatch.setattr(import_module("fromnoise.sample.tune"), "damped_step",
                        lambda objective, now, values, *_: (values + 1, 1.0))
    found = tune(RING.denoiser(VP()), VP(), nfe=4, noise=noise(64, 1), steps=24, seconds=1e6)
    assert found.after == found.before
    assert found.steps_done == 24


def test_the_same_seed_gives_the_same_solver():
    def made(seed):
        return tune(RING.denoiser(Flow()), Flow(), nfe=3, noise=noise(64, 1), steps=16, seconds=1e6, seed=seed,
                    batch=16)

    assert made(0) == made(0)
    assert made(0).table != made(1).table


def test_no_time_is_no_steps_and_the_choices_are_kept():
    def made(**choices):
        return tune(RING.denoiser(Flow()), Flow(), nfe=4, noise=noise(64, 1), **choices)

    assert made(seconds=0.0).steps_done == 0
    grid_alone = made(seconds=1e6, steps=40, teleport=False, weights=False)
    assert grid_alone.start is None
    assert grid_alone.grid[0] == 1
    begun = made(seconds=1e6, steps=0, teleport=False)
    assert grid_alone.grid != begun.grid
    assert grid_alone.steps_done == 40


def test_each_sample_keeps_its_condition():
    """A conditional model tuned with rows of its condition is the model that was asked for row by row."""
    shift = torch.linspace(-1, 1, 64, dtype=torch.float64)[:, None, None]
    exact = GaussianMixture.isotropic(torch.zeros(1, 2), 0.5).denoiser(Flow())

    def denoise(x, t, condition):
        where = condition.text[:, 0]
        alpha = Flow().alpha(t)
        return exact(x - alpha * where, t) + where

    found = tune(denoise, Flow(), nfe=3, noise=noise(64, 1), condition=Condition(text=shift), steps=40, batch=16,
                 seconds=1e6)
    assert found.after.rms < 0.1  # type: ignore[union-attr]


# ---- what cannot be -------------------------------------------------------------------------------------


def test_bad_input_is_one_sentence(tuned, tmp_path):
    denoise = RING.denoiser(Flow())
    with pytest.raises(UserError, match="at least 1 evaluation"):
        tune(denoise, Flow(), nfe=0, noise=noise(64, 0))
    with pytest.raises(UserError, match="at least 8 starting points"):
        tune(denoise, Flow(), nfe=4, noise=noise(4, 0))
    with pytest.raises(UserError, match="do not end in finite numbers"):
        tune(lambda x, t: x / 0, Flow(), nfe=4, noise=noise(16, 0))
    with pytest.raises(UserError, match="shift moves a grid that has a name"):
        solve(denoise, noise(4, 0), path=Flow(), solver=tuned, shift=3.0)
    with pytest.raises(UserError, match="tuned for the path flow and not for vp"):
        solve(denoise, noise(4, 0), path=VP(), solver=tuned)
    with pytest.raises(UserError, match=r"beta_max 10\.0"):
        solve(denoise, noise(4, 0), path=VP(beta_max=10.0), solver=tuned)
    with pytest.raises(UserError, match="cannot spend exactly 6 evaluations: it can spend 5"):
        solve(denoise, noise(4, 0), path=Flow(), solver=tuned, nfe=6)
    with pytest.raises(UserError, match="cannot take 6"):
        solve(denoise, noise(4, 0), path=Flow(), solver=tuned, steps=6)
    with pytest.raises(UserError, match="a grid of its own"):
        solve(denoise, noise(4, 0), path=Flow(), solver=tuned, grid="karras", nfe=5)
    law = Gaussian(mean=(0.0, 0.0), variances=(1.0, 1.0))
    with pytest.raises(UserError, match="samples of 2 values, not of 3"):
        solve(denoise, noise(4, 0, dim=3), path=Flow(), solver=replace(tuned, start=law))
    for change, sentence in (({"grid": [1, 0.5, 0.7, 0.6, 0.3, 0]}, "^the grid must fall"),
                             ({"table": [[1, 1]]}, "rows of 2"),
                             ({"grid": "x"}, "grid")):
        with pytest.raises(UserError, match=sentence):
            from_dict(Tuned, to_dict(tuned) | change)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        Tuned.load(tmp_path / "a.json")


# ---- on a run -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    train(tiny(), folder)
    assert main(["tune", str(folder), "--nfe", "3", "--samples", "16", "--steps", "10", "--seconds", "1000"]) == 0
    return folder


def test_a_run_keeps_its_solvers_and_uses_them_by_name(run, capsys, tmp_path):
    saved = Tuned.load(run / "solvers" / "tuned-3.json")
    assert (saved.nfe, saved.noises, saved.steps_done, saved.guidance) == (3, 16, 10, tiny().sample.guidance.scale)
    model = fn.load(run)
    out = model.sample(["seven"] * 2, solver="tuned-3", seed=4)
    assert (out.info.nfe, out.info.solver, out.settings.steps, out.info.grid) == (3, "tuned-3", 3, saved.grid)
    first = out.save(tmp_path / "a.png")
    assert read_picture(first)["settings"].solver == "tuned-3"
    assert main(["sample", "--like", str(first), "--out", str(tmp_path / "b.png")]) == 0
    assert (tmp_path / "b.png").read_bytes() == first.read_bytes()
    assert main(["sample", str(run), "seven", "--solver", "tuned-3", "--guidance", "9", "--out",
                 str(tmp_path / "c.png")]) == 0
    assert "was tuned at guidance" in capsys.readouterr().err


def test_a_run_says_which_solvers_it_has(run, capsys, tmp_path):
    def refused(*argv):
        capsys.readouterr()
        assert main(["sample", str(run), "seven", *argv, "--out", str(tmp_path / "a.png")]) == 2
        return capsys.readouterr().err

    assert 'no solver "tuned-8"' in (said := refused("--solver", "tuned-8"))
    assert "Tuned for this run: tuned-3" in said
    assert "takes 3 steps and no other number (got 7)" in refused("--solver", "tuned-3", "--steps", "7")
    other = json.loads((run / "solvers" / "tuned-3.json").read_text())
    (run / "solvers" / "other.json").write_text(json.dumps(other | {"path": {"kind": "cosine"}}))
    assert "tuned for the path cosine and not for flow" in refused("--solver", "other")
    assert main(["tune"]) == 2
    assert "Name a run folder" in capsys.readouterr().err
