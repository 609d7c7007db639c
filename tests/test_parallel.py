"""Picard iteration: the same samples as one step after the other, in fewer calls of the network."""

from dataclasses import replace

import pytest
import torch

from fromnoise.analytic import ring
from fromnoise.process import EDM, VP, Flow
from fromnoise.sample import SOLVERS, Picard, Procedure, on_grid, solve, time_grid
from fromnoise.sample.teleport import Gaussian

MIXTURE = ring(std=0.3)
NOISE = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TABLES = [name for name, solver in SOLVERS.items() if not isinstance(solver, Procedure)]


def both(name, path=Flow(), steps=20, **kw):  # noqa: B008
    settings = {"path": path, "steps": steps, "grid": "karras", "seed": 3, "return_info": True}
    one = solve(MIXTURE.denoiser(path), NOISE, solver=name, **settings)
    return one, solve(MIXTURE.denoiser(path), NOISE, solver=Picard(SOLVERS[name], **kw), **settings)


@pytest.mark.parametrize("name", TABLES)
def test_without_a_tolerance_it_is_the_sequential_solver(name):
    """Every table, its noise included; at least one more state is right after each call."""
    (x, info), (y, parallel) = both(name, tolerance=0.0, window=8)
    torch.testing.assert_close(y, x, rtol=1e-8, atol=1e-8)
    assert parallel.sweeps <= info.nfe <= parallel.nfe


@pytest.mark.parametrize("path", [Flow(), VP(), EDM()], ids=lambda p: p.kind)
@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "ancestral"])
def test_with_a_tolerance_it_is_near_in_far_fewer_calls(name, path):
    (x, info), (y, parallel) = both(name, path, steps=60, tolerance=1e-3, window=60)
    assert float((x - y).abs().max()) < 0.02
    assert parallel.sweeps < info.nfe / 2
    finer = both(name, path, steps=60, tolerance=1e-5, window=60)[1]
    assert float((x - finer[0]).abs().max()) < 1e-3
    assert finer[1].sweeps > parallel.sweeps


def test_a_tuned_solver_starts_after_its_jump_here_too():
    path, law = Flow(), Gaussian(mean=(1.0, -1.0), variances=(4.0, 0.5))
    tuned = replace(on_grid(SOLVERS["dpmpp_2m"], path, time_grid(9, path)[1:]), start=law)
    x = solve(MIXTURE.denoiser(path), NOISE, path=path, solver=tuned)
    y = solve(MIXTURE.denoiser(path), NOISE, path=path, solver=Picard(tuned, tolerance=0.0), grid=tuned.grid)
    torch.testing.assert_close(y, x, rtol=1e-8, atol=1e-8)


def test_it_takes_its_noise_from_a_brownian_path_too():
    settings = {"path": Flow(), "steps": 20, "grid": "karras", "brownian": True, "seed": 3}
    x = solve(MIXTURE.denoiser(Flow()), NOISE, solver="ancestral", **settings)
    y = solve(MIXTURE.denoiser(Flow()), NOISE, solver=Picard(SOLVERS["ancestral"], tolerance=0.0), **settings)
    torch.testing.assert_close(y, x, rtol=1e-8, atol=1e-8)


def test_calls_and_evaluations_are_counted():
    calls = []

    def denoise(x, t):
        calls.append(len(x))
        assert t.shape == (len(x),)
        return MIXTURE.denoiser(Flow())(x, t)

    _, info = solve(denoise, NOISE, path=Flow(), solver="picard", steps=30, return_info=True)
    assert info.sweeps == len(calls)
    assert info.nfe * len(NOISE) == sum(calls)
    assert max(calls) <= SOLVERS["picard"].window * len(NOISE)


def test_callbacks_see_every_step_in_order():
    seen = []
    x = solve(MIXTURE.denoiser(Flow()), NOISE.float(), path=Flow(), solver="picard", steps=9, callback=seen.append)
    assert [p.step for p in seen] == list(range(1, 10))
    assert (seen[0].t, seen[-1].t_next, seen[-1].steps) == (1.0, 0.0, 9)
    assert torch.equal(seen[-1].x, x)
    assert x.dtype == torch.float32


def test_what_it_cannot_be_told():
    for bad in ({"tolerance": -1.0}, {"window": 0}):
        with pytest.raises(ValueError, match="tolerance must be at least 0 and the window at least 1"):
            Picard(**bad)
