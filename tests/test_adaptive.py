"""Adaptive solvers: their tolerances are kept, their evaluations counted, their samples their own."""

import math

import pytest
import torch

from fromnoise.analytic import ode_map, ring
from fromnoise.process import EDM, VE, VP, Cosine, Flow, ScaledLinear, Shifted, SubVP, Trigonometric, ZeroTerminal
from fromnoise.sample import RK45, SOLVERS, AdaptiveSDE, Procedure, solve
from fromnoise.sample.adaptive import DIFFERENCE, NODES, ROWS
from fromnoise.types import UserError

PATHS = [Flow(), VP(), Cosine(), Trigonometric(), SubVP(), ScaledLinear(), EDM(), VE(), Shifted(), ZeroTerminal()]
MIXTURE = ring(std=0.3)
NOISE = torch.randn(32, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_pair_has_its_orders():
    """The quadrature conditions sum b c^k = 1/(k+1): to fifth order, and the embedded rule to fourth but not fifth."""
    fifth = (*ROWS[-1], 0.0)
    fourth = [b - d for b, d in zip(fifth, DIFFERENCE, strict=True)]
    assert [sum(row) for row in ROWS] == pytest.approx(list(NODES))
    for k in range(5):
        assert sum(b * c**k for b, c in zip(fifth, NODES, strict=True)) == pytest.approx(1 / (k + 1), abs=1e-14)
        embedded = sum(b * c**k for b, c in zip(fourth, NODES, strict=True)) - 1 / (k + 1)
        assert abs(embedded) < 1e-14 if k < 4 else abs(embedded) > 1e-5


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.kind)
def test_rk45_keeps_its_tolerance(path):
    """The error against the exact ODE falls with the tolerance and is of its size, from pure noise on any path."""
    start = float(path.sigma(torch.ones((), dtype=torch.float64))) * NOISE
    want, spent = ode_map(MIXTURE, start, path), []
    for tolerance in (1e-3, 1e-5, 1e-7):
        solver = RK45(rtol=tolerance, atol=tolerance, low=1e-4)
        x, info = solve(MIXTURE.denoiser(path), NOISE, path=path, solver=solver, return_info=True)
        assert float((x - want).square().mean().sqrt()) < 3 * tolerance
        spent.append(info.nfe)
    assert spent[0] < spent[1] < spent[2] < 200


def test_rk45_counts_what_it_spends():
    calls = []

    def denoise(x, t):
        calls.append(float(t))
        return MIXTURE.denoiser(VP())(x, t)

    _, info = solve(denoise, NOISE, path=VP(), solver="rk45", return_info=True)
    assert info.nfe == len(calls) == 1 + 6 * (len(info.grid) - 1 + info.rejected)
    assert (info.grid[0], info.grid[-1]) == (1.0, 0.0)
    assert all(0 < t <= 1 for t in calls)
    assert all(a > b for a, b in zip(info.grid[:-1], info.grid[1:], strict=True))


@pytest.mark.parametrize("path", [Flow(), EDM()], ids=lambda p: p.kind)
def test_the_adaptive_sde_has_the_law_of_the_data(path):
    """Modes equally often and, but for 4 % at this tolerance, their spread; a smaller tolerance costs more."""
    mixture = ring(4, 0.25)
    noise = torch.randn(300, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x, info = solve(mixture.denoiser(path), noise, path=path, solver=AdaptiveSDE(rtol=0.05), return_info=True)
    mode = mixture.mode(x)
    assert float((torch.bincount(mode, minlength=4) / len(x) - 0.25).abs().max()) < 0.075  # three standard errors
    assert float((x - mixture.means[mode]).square().mean().sqrt()) == pytest.approx(0.24, rel=0.09)
    assert info.rejected > 0
    fine = solve(mixture.denoiser(path), noise[:8], path=path, solver=AdaptiveSDE(rtol=0.01), return_info=True)[1]
    coarse = solve(mixture.denoiser(path), noise[:8], path=path, solver=AdaptiveSDE(rtol=0.2), return_info=True)[1]
    assert coarse.nfe < fine.nfe


def test_tighter_tolerances_come_nearer_to_one_sample():
    """Rejected or not, steps stay on one Brownian path: it is the SDE's own solution that they approach."""
    noise, denoise = NOISE[:12], MIXTURE.denoiser(VP())
    x = [solve(denoise, noise, path=VP(), solver=AdaptiveSDE(rtol=tol, atol=tol, low=0.05), seed=3)
         for tol in (0.1, 0.02, 0.005)]
    far, near = ((a - x[-1]).norm(dim=1).median() for a in x[:-1])
    assert float(near) < 0.5 * float(far)
    table = solve(denoise, noise, path=VP(), solver="ancestral", steps=400, grid="logsnr", brownian=True, seed=3)
    assert float((table - x[-1]).norm(dim=1).median()) < 0.2  # another seed: 2; the jump from 0.05: 0.07


def test_an_adaptive_sample_does_not_depend_on_its_neighbours():
    settings = {"path": Flow(), "solver": AdaptiveSDE(rtol=0.1), "seed": 5}
    whole = solve(MIXTURE.denoiser(Flow()), NOISE[:6], **settings)
    torch.testing.assert_close(solve(MIXTURE.denoiser(Flow()), NOISE[4:6], first=4, **settings), whole[4:])


@pytest.mark.parametrize("name", ["rk45", "adaptive_sde"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_shape_and_dtype_and_callbacks(name, dtype):
    seen, noise = [], NOISE[:3].reshape(3, 1, 2, 1, 1).to(dtype)

    def denoise(x, t):
        assert x.dtype == dtype
        return MIXTURE.denoiser(Flow())(x, t)

    x, info = solve(denoise, noise, path=Flow(), solver=name, callback=seen.append, return_info=True)
    assert (x.shape, x.dtype) == (noise.shape, dtype)
    assert bool(torch.isfinite(x).all())
    assert [p.step for p in seen] == list(range(1, len(info.grid)))
    assert [p.t_next for p in seen] == list(info.grid[1:])
    assert (seen[-1].t_next, seen[-1].steps) == (0.0, None)
    assert torch.equal(seen[-1].x, x)


@pytest.mark.parametrize("name", [n for n, s in SOLVERS.items() if isinstance(s, Procedure)])
def test_what_cannot_be_set_is_refused_with_what_can(name):
    solver = SOLVERS[name]
    with pytest.raises(UserError, match=f"set its {solver.controls} instead of nfe"):
        solve(MIXTURE.denoiser(Flow()), NOISE, path=Flow(), solver=name, nfe=10)
    if not solver.on_grid:
        for asked in ({"steps": 10}, {"grid": "karras"}, {"grid": torch.tensor([1.0, 0.0])}, {"shift": 3.0}):
            with pytest.raises(UserError, match="chooses its own steps: set its rtol and atol"):
                solve(MIXTURE.denoiser(Flow()), NOISE, path=Flow(), solver=name, **asked)
    with pytest.raises(UserError, match="no table"):
        solver.plan(Flow(), torch.tensor([1.0, 0.0]))


def test_tolerances_that_cannot_be_met_are_one_sentence():
    with pytest.raises(UserError, match="rtol must be greater than 0"):
        RK45(rtol=0.0)
    with pytest.raises(UserError, match="atol must be greater than 0"):
        AdaptiveSDE(atol=-1.0)
    random = torch.Generator().manual_seed(0)

    def rough(x, t):
        return torch.randn(x.shape, generator=random, dtype=x.dtype)

    with pytest.raises(UserError, match="raise them"):
        solve(rough, NOISE, path=Flow(), solver=RK45(rtol=1e-9, atol=1e-9))
    for name in ("rk45", "adaptive_sde"):
        with pytest.raises(UserError, match="raise them"):
            solve(lambda x, t: x * math.nan, NOISE, path=Flow(), solver=name)
