"""Side by side with k-diffusion's samplers: the same exact denoiser, the same noise levels, the same draws.

Skipped where k-diffusion is not installed (``pip install --no-deps k-diffusion`` is enough: what its sampling.py
imports and does not need here is stood in for).
"""

import importlib
import importlib.util
import inspect
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch

from fromnoise.analytic import ring
from fromnoise.process import EDM
from fromnoise.sample import SOLVERS, Ancestral, AncestralMidpoint, Churn, Multistep
from fromnoise.sample.plan import run
from fromnoise.sample.solve import plan

FOUND = importlib.util.find_spec("k_diffusion")
pytestmark = pytest.mark.skipif(FOUND is None, reason="k-diffusion is not installed")
PATH, DRAWS = EDM(), torch.randn(120, 32, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
DENOISE, START = ring(std=0.3).denoiser(PATH), 80 * DRAWS[-1]


@pytest.fixture(scope="module")
def peer():
    """``k_diffusion.sampling``, without what else its package imports."""
    absent = ("torchdiffeq", "torchsde", "torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    stood_in = {name: ModuleType(name) for name in absent} | {"k_diffusion": ModuleType("k_diffusion")}
    stood_in["torchdiffeq"].odeint = stood_in["torchvision.transforms"].functional = None
    stood_in["k_diffusion"].__path__ = list(FOUND.submodule_search_locations)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stood_in.items():
            patch.setitem(sys.modules, name, module)
        yield importlib.import_module("k_diffusion.sampling")
    for name in [name for name in sys.modules if name.startswith("k_diffusion.")]:
        del sys.modules[name]


def levels(peer):
    """(our times, their sigmas) of Karras's grid."""
    times = PATH.time(-2 * peer.get_sigmas_karras(20, 0.02, 80.0).double().log())
    times[0] = 1.0
    return times, PATH.sigma(times)


def ours(peer, solver, draws=DRAWS):
    left = iter(draws)
    table = plan(solver, PATH, tuple(levels(peer)[0].tolist()))
    return run(table, DENOISE, START, lambda stage, like: next(left))


def theirs(peer, sample, draws=DRAWS, **kw):
    left = iter(draws)
    if "noise_sampler" in inspect.signature(sample).parameters:
        kw["noise_sampler"] = lambda *_: next(left)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn_like", lambda x: next(left))  # churn draws in every step, used or not
        return sample(lambda x, s: DENOISE(x, PATH.time(-2 * s[0].log())), START, levels(peer)[1], disable=True, **kw)


@pytest.mark.parametrize(("name", "solver", "options"), [
    ("euler", SOLVERS["euler"], {}),
    ("heun", SOLVERS["heun"], {}),
    ("dpm_2", SOLVERS["dpm_2"], {}),
    ("lms", replace(SOLVERS["lms"], final="extrapolate"), {}),  # ours ends with the last x0 unless told not to
    ("dpmpp_2m", SOLVERS["dpmpp_2m"], {}),
    ("dpmpp_2s_ancestral", SOLVERS["dpmpp_2s"], {"eta": 0.0}),
    ("euler_ancestral", Ancestral(), {}),
    ("euler_ancestral", Ancestral(0.5), {"eta": 0.5}),
    ("dpmpp_sde", AncestralMidpoint(), {}),
    ("dpmpp_sde", AncestralMidpoint(0.5), {"eta": 0.5}),
    ("dpmpp_2m_sde", SOLVERS["dpmpp_2m_sde"], {}),
    ("dpmpp_2m_sde", Multistep(order=2, weights="bh2", tau=0.5), {"eta": 0.25}),  # their eta is the square of our tau
    ("dpmpp_2m_sde", Multistep(order=2, tau=1.0), {"solver_type": "heun"}),
], ids=lambda value: value if isinstance(value, str) else None)
def test_the_same_samples(peer, name, solver, options):
    torch.testing.assert_close(ours(peer, solver), theirs(peer, getattr(peer, f"sample_{name}"), **options),
                               rtol=1e-10, atol=1e-10)


def test_churn(peer):
    solver = Churn(churn=40.0, low=0.05, high=50.0, inflate=1.003)
    inside = [0.05 <= sigma <= 50 for sigma in levels(peer)[1][:-1].tolist()]
    used = [draw for draw, on in zip(DRAWS, inside, strict=False) if on]
    other = theirs(peer, peer.sample_heun, s_churn=40.0, s_tmin=0.05, s_tmax=50.0, s_noise=1.003)
    torch.testing.assert_close(ours(peer, solver, used), other, rtol=1e-10, atol=1e-10)


def test_the_third_order_differs_by_a_factor_of_two(peer):
    """Their 3M weighs the second divided difference, half a derivative, as if it were a whole one."""
    source = inspect.getsource(peer.sample_dpmpp_3m_sde)
    assert "- phi_3 * d2" in source
    room = SimpleNamespace(**vars(peer))
    exec(source.replace("- phi_3 * d2", "- 2 * phi_3 * d2"), vars(room))
    for tau in (0.0, 1.0):
        x = ours(peer, Multistep(order=3, tau=tau))
        torch.testing.assert_close(x, theirs(peer, room.sample_dpmpp_3m_sde, eta=tau), rtol=1e-10, atol=1e-10)
        assert not torch.allclose(x, theirs(peer, peer.sample_dpmpp_3m_sde, eta=tau), rtol=1e-3, atol=1e-3)
