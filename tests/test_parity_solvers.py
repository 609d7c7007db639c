"""Side by side with diffusers' schedulers: the same exact denoiser, the same grid, the same samples.

Where the two differ, the exact map of the ODE says who is right, and a test below holds on to it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import diffusers
import pytest
import torch

from fromnoise.analytic import ode_map, ring
from fromnoise.process import EDM, Flow, GaussianPath, ScaledLinear, Trigonometric
from fromnoise.sample import SOLVERS, Ancestral, Multistep, RungeKutta
from fromnoise.sample.plan import run
from fromnoise.sample.runge_kutta import HEUN
from fromnoise.sample.solve import plan

pytestmark = pytest.mark.filterwarnings("ignore")  # what diffusers says of numpy, and of its own retirements
MIXTURE = ring(std=0.3)
NOISE = torch.randn(32, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
KARRAS = {**TABLE, "use_karras_sigmas": True}
FLOW = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}
SETTINGS = {"karras": (KARRAS, ScaledLinear()), "flow": (FLOW, Flow())}


@dataclass
class Peer:
    """A scheduler and what it is told: how it scales x, and what its network predicts.

    ``exploding``: its x is ours over alpha;  ``output``: of (x in our scale, x0, alpha, sigma).
    """

    scheduler: object
    path: GaussianPath
    output: Callable
    exploding: bool = False

    @property
    def times(self) -> torch.Tensor:
        """Our times of its noise levels, repeated ones (Heun, and a last step that goes nowhere) once."""
        return torch.unique(self.time(self.scheduler.sigmas)).flip(0)

    def time(self, sigma: torch.Tensor) -> torch.Tensor:
        sigma = sigma.double()
        ratio = sigma / (1 - sigma) if isinstance(self.path, Flow) else sigma
        return self.path.time(-2 * ratio.log())

    def run(self, x: torch.Tensor, denoise, before: Callable = lambda n, x: x, **kw) -> torch.Tensor:
        """Its last sample from our state ``x`` at its first noise level; ``before`` may change x at step n."""
        scheduler, path = self.scheduler, self.path
        for n, step in enumerate(scheduler.timesteps):
            index = n if getattr(scheduler, "step_index", None) is None else scheduler.step_index
            t = self.time(scheduler.sigmas[index])
            if n and self.time(scheduler.sigmas[-1]) == t:
                break
            alpha, sigma = path.alpha(t), path.sigma(t)
            x = before(n, x)
            output = self.output(x, denoise(x, t), alpha, sigma)
            state = x / alpha if self.exploding else x
            extra = {name: value[n] if isinstance(value, list) else value for name, value in kw.items()}
            state = scheduler.step(output, step, state, return_dict=False, **extra)[0]
            after = self.time(scheduler.sigmas[scheduler.step_index])
            x = path.alpha(after) * state if self.exploding else state
        return x


def eps(x, x0, alpha, sigma):
    return (x - alpha * x0) / sigma


def clean(x, x0, alpha, sigma):
    return x0


def velocity(x, x0, alpha, sigma):
    return (x - x0) / sigma


def levels(scheduler, steps: int, **kw):
    """The scheduler with its noise levels in float64, as its own arithmetic then is."""
    scheduler.set_timesteps(steps, **kw)
    scheduler.sigmas = scheduler.sigmas.double()
    return scheduler


def multistep(name: str, kind: str, steps: int = 20, **settings) -> Peer:
    """A scheduler of diffusers on Karras sigmas of Stable Diffusion's table, or on shifted flow sigmas."""
    base, path = SETTINGS[kind]
    scheduler = levels(getattr(diffusers, name)(**{"prediction_type": "sample"} | base | settings), steps)
    return Peer(scheduler, path, velocity if kind == "flow" else clean)


def ours(solver, peer: Peer, noise: torch.Tensor = NOISE, fresh: list | None = None) -> tuple:
    """(our last state, where both start)."""
    table = plan(solver, peer.path, tuple(peer.times.tolist()))
    x = table.start_std * noise
    draws = iter(fresh or [])
    return run(table, MIXTURE.denoiser(peer.path), x, lambda i, like: next(draws)), x


def error(a, b) -> float:
    return float((a - b).abs().max())


# ---- the same algorithm, the same samples -------------------------------------------------------------------

DPM, UNIPC = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
DEIS, SA = "DEISMultistepScheduler", "SASolverScheduler"
WHOLE = {"lower_order_final": False}  # no lower orders at the end


SAME = {
    "dpmpp_2m": (DPM, {"solver_order": 2}, SOLVERS["dpmpp_2m"]),
    "dpmpp_2m_exact": (DPM, {"solver_order": 2, "solver_type": "heun"}, Multistep(order=2)),
    "unipc_1": (UNIPC, {"solver_order": 1}, SOLVERS["unipc_1"]),
    "unipc_2": (UNIPC, {"solver_order": 2}, SOLVERS["unipc_2"]),
    "unipc_3": (UNIPC, {"solver_order": 3}, SOLVERS["unipc_3"]),
    "unipc_2_bh1": (UNIPC, {"solver_order": 2, "solver_type": "bh1", "final_sigmas_type": "sigma_min"} | WHOLE,
                    replace(SOLVERS["unipc_2_bh1"], lower_final=False)),
    "unipc_3_bh1": (UNIPC, {"solver_order": 3, "solver_type": "bh1", "final_sigmas_type": "sigma_min"} | WHOLE,
                    replace(SOLVERS["unipc_3_bh1"], lower_final=False)),
    # diffusers' DEIS is a polynomial in log sigma/alpha, ours by default one in t, as the paper's tAB.
    "deis_2": (DEIS, {"solver_order": 2} | WHOLE, replace(SOLVERS["deis_2"], variable="logsnr")),
    "deis_3": (DEIS, {"solver_order": 3} | WHOLE, replace(SOLVERS["deis_3"], variable="logsnr")),
}


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("name", SAME)
def test_multistep_solvers_agree(name, kind):
    scheduler, settings, solver = SAME[name]
    peer = multistep(scheduler, kind, **settings)
    x, start = ours(solver, peer)
    assert error(peer.run(start, MIXTURE.denoiser(peer.path)), x) < 1e-5


def test_dpm_solver_agrees():
    """The multistep form of DPM-Solver-2, which diffusers has for Karras sigmas alone."""
    settings = {"solver_order": 2, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"} | WHOLE
    peer = multistep(DPM, "karras", **settings)
    x, start = ours(Multistep(order=2, target="eps", weights="bh2"), peer)
    assert error(peer.run(start, MIXTURE.denoiser(peer.path)), x) < 1e-5


@pytest.mark.parametrize("kind", SETTINGS)
def test_stochastic_solvers_agree_on_shared_noise(kind):
    fresh = [torch.randn(NOISE.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
             for i in range(20)]
    peer = multistep(DPM, kind, solver_order=2, algorithm_type="sde-dpmsolver++")
    x, start = ours(SOLVERS["dpmpp_2m_sde"], peer, fresh=fresh)
    assert error(peer.run(start, MIXTURE.denoiser(peer.path), variance_noise=fresh), x) < 1e-5


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("tau", [0.0, 1.0])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_sa_solver_agrees(order, tau, kind):
    """Its two-target steps are UniPC's bh1; a corrector of our order k has k + 1 targets, theirs k."""
    settings = {"predictor_order": order, "corrector_order": order + 1, "tau_func": lambda t: torch.tensor(tau)}
    peer = multistep(SA, kind, **settings, **WHOLE)
    source = torch.Generator().manual_seed(0)
    fresh = [torch.randn(NOISE.shape, dtype=torch.float64, generator=source) for _ in range(20)]
    x, start = ours(Multistep(order=order, weights="bh1", corrector=True, tau=tau), peer, fresh=fresh)
    y = peer.run(start, MIXTURE.denoiser(peer.path), generator=torch.Generator().manual_seed(0))
    assert error(y, x) < 1e-5


def edm_output(x, x0, alpha, sigma):
    """What EDM's preconditioning, with a data_std of 0.5, makes x0 of."""
    total = sigma**2 + 0.25
    return (x0 - 0.25 * x / total) * total.sqrt() / (0.5 * sigma)


SCALED = {"exploding": True, "output": eps, "path": ScaledLinear()}
STRAIGHT = {"output": velocity, "path": Flow()}
OTHERS = {
    "euler": (lambda: diffusers.EulerDiscreteScheduler(**KARRAS), SCALED, SOLVERS["euler"]),
    "heun": (lambda: diffusers.HeunDiscreteScheduler(**KARRAS), SCALED, SOLVERS["heun"]),
    "lms": (lambda: diffusers.LMSDiscreteScheduler(**KARRAS), SCALED, replace(SOLVERS["lms"], final="extrapolate")),
    "flow_euler": (lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), STRAIGHT, SOLVERS["euler"]),
    "flow_heun": (lambda: diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0), STRAIGHT,
                  RungeKutta(HEUN, target="velocity")),
    "edm_2": (lambda: diffusers.EDMDPMSolverMultistepScheduler(solver_order=2),
              {"output": edm_output, "path": EDM()}, SOLVERS["dpmpp_2m"]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_schedulers_agree(name):
    make, how, solver = OTHERS[name]
    peer = Peer(levels(make(), 20), **how)
    x, start = ours(solver, peer)
    assert error(peer.run(start, MIXTURE.denoiser(peer.path)), x) < 1e-5


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_agrees(eta):
    """On the discrete levels it was written for: level i of 1000 stands at t = (i + 1) / 1000."""
    scheduler = diffusers.DDIMScheduler(**TABLE, prediction_type="sample", clip_sample=False,
                                        timestep_spacing="trailing")
    scheduler.alphas_cumprod = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
    scheduler.set_timesteps(20)
    path, denoise = ScaledLinear(), MIXTURE.denoiser(ScaledLinear())
    times = path.time_of_level(torch.cat([scheduler.timesteps, torch.tensor([-1])]).double())
    table = plan(Ancestral(eta=eta), path, tuple(times.tolist()))
    fresh = [torch.randn(NOISE.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
             for i in range(20)]
    x = y = table.start_std * NOISE
    for n, level in enumerate(scheduler.timesteps):
        y = scheduler.step(denoise(y, times[n]), int(level), y, eta=eta, variance_noise=fresh[n] if eta else None,
                           return_dict=False)[0]
    assert error(run(table, denoise, x, lambda i, like: fresh[i - 1]), y) < 1e-5


def adams(path: GaussianPath, times: list[float], exact: dict[float, torch.Tensor], warm: int) -> torch.Tensor:
    """Our iPNDM of order 4 to the end of the grid, after ``warm`` exact states."""
    solver = Multistep(order=4, target="eps", weights="even", variable="sigma", final="extrapolate")
    table, denoise = plan(solver, path, tuple(times)), MIXTURE.denoiser(path)
    states, clocks = [exact[times[0]]], [times[0], *(stage.t for stage in table.stages)]
    for stage in table.stages:
        y = sum(w * states[j] for j, w in stage.states)
        y = y + sum(w * denoise(states[j], torch.tensor(clocks[j], dtype=torch.float64)) for j, w in stage.predictions)
        states.append(exact[stage.t] if len(states) <= warm else y)
    return states[-1]


def trajectory(path: GaussianPath, times: list[float]) -> dict[float, torch.Tensor]:
    """Exact states at the times."""
    x = float(path.sigma(torch.tensor(times[0], dtype=torch.float64))) * NOISE
    exact = {times[0]: x}
    for a, b in zip(times[:-1], times[1:], strict=True):
        x = exact[b] = ode_map(MIXTURE, x, path, a, b)
    return exact


def test_pndm_agrees_once_it_has_a_history():
    """PNDM begins with a step of Heun at the cost of one more evaluation, ours with lower orders; then both are one."""
    scheduler = diffusers.PNDMScheduler(**TABLE, skip_prk_steps=True, set_alpha_to_one=True,
                                        timestep_spacing="trailing")
    scheduler.alphas_cumprod = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
    scheduler.set_timesteps(20)
    path, denoise = ScaledLinear(), MIXTURE.denoiser(ScaledLinear())
    visited = path.time_of_level(scheduler.timesteps.double()).tolist()  # the second level twice
    times = [visited[0], *visited[2:], 0.0]
    exact = trajectory(path, times)
    y = exact[times[0]]
    for n, (level, t) in enumerate(zip(scheduler.timesteps, visited, strict=True)):
        y = exact[t] if n <= 4 else y
        now = torch.tensor(t, dtype=torch.float64)
        y = scheduler.step(eps(y, denoise(y, now), path.alpha(now), path.sigma(now)), int(level), y,
                           return_dict=False)[0]
    assert error(adams(path, times, exact, warm=3), y) < 1e-5


def test_ipndm_agrees_on_its_own_path():
    """It knows one path alone, sigma = sin^2, and predicts v = alpha eps - sigma x0 on it."""
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(20)
    path, sigma = Trigonometric(), scheduler.betas.double()
    alpha = (1 - sigma.square()).sqrt()
    scheduler.betas, scheduler.alphas = sigma, alpha
    times = path.time(2 * (alpha / sigma).log()).tolist()
    exact, denoise = trajectory(path, times), MIXTURE.denoiser(path)
    y = exact[times[0]]
    for n, step in enumerate(scheduler.timesteps):
        y = exact[times[n]] if n <= 4 else y
        x0 = denoise(y, torch.tensor(times[n], dtype=torch.float64))
        noise = eps(y, x0, alpha[n], sigma[n])
        y = scheduler.step(alpha[n] * noise - sigma[n] * x0, step, y, return_dict=False)[0]
    assert error(adams(path, times, exact, warm=4), y) < 1e-5


# ---- where they differ, and who is right --------------------------------------------------------------------


def peer_error(make: Callable[[], Peer], steps: int, dtype: torch.dtype = torch.float64) -> float:
    """RMS error of a scheduler against the exact ODE on an even grid in log-SNR, after an eighth of exact history."""
    peer = make()
    path, scheduler = peer.path, peer.scheduler
    ratio = torch.linspace(math.log(4.0), math.log(0.25), steps + 1, dtype=torch.float64).exp()
    times = path.time(-2 * ratio.log()).tolist()
    exact = [*trajectory(path, times).values()]
    scheduler.set_timesteps(steps)
    scheduler.sigmas = (ratio / (1 + ratio) if isinstance(path, Flow) else ratio).to(dtype)
    scheduler.timesteps = torch.arange(steps, 0, -1)

    def before(n, x):
        if n <= steps // 8:
            scheduler.last_sample = exact[n - 1] if n else None  # from which a corrector starts again
            return exact[n]
        return x

    y = peer.run(exact[0], MIXTURE.denoiser(path), before)
    return float((y - exact[-1]).square().mean().sqrt())


def order(make: Callable[[], Peer]) -> float:
    return math.log2(peer_error(make, 32) / peer_error(make, 64))


@pytest.mark.parametrize("settings", [{}, {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}])
def test_third_order_dpm_is_of_second_order_in_diffusers(settings):
    """Its last term weighs the divided difference D2 = h^2 D'' / 2 as if it were h^2 D'': ours is of order 3."""
    assert order(lambda: multistep(DPM, "karras", solver_order=3, **settings, **WHOLE)) == pytest.approx(2, abs=0.15)
    peer = multistep(DPM, "karras", solver_order=3, **settings, **WHOLE)
    x, start = ours(Multistep(order=3, target="eps" if settings else "x0"), peer)
    assert error(peer.run(start, MIXTURE.denoiser(peer.path)), x) > 1e-4


@pytest.mark.parametrize("kind", SETTINGS)
def test_deis_and_sa_solver_have_their_order_in_float64(kind):
    """Their weights are right; what costs them their order is the two faults below."""
    assert order(lambda: multistep(DEIS, kind, solver_order=3, **WHOLE)) == pytest.approx(3, abs=0.15)
    sa = {"predictor_order": 3, "corrector_order": 4, "tau_func": lambda t: torch.tensor(0.0)}
    assert order(lambda: multistep(SA, kind, **sa, **WHOLE)) > 3.5


@pytest.mark.parametrize(("name", "kind"), [("deis", "flow"), ("sa", "karras")])
def test_weights_in_float32_cancel(name, kind):
    """diffusers computes the integrals of DEIS and SA-Solver in float32, by sums that cancel: more steps are worse."""
    sa = {"predictor_order": 3, "corrector_order": 4, "tau_func": lambda t: torch.tensor(0.0)}

    def make():
        return multistep(*((DEIS, kind) if name == "deis" else (SA, kind)),
                         **({"solver_order": 3} if name == "deis" else sa), **WHOLE)

    few, many = (peer_error(make, steps, torch.float32) for steps in (64, 128))
    assert many > 2 * few
    assert many > 100 * peer_error(make, 128)


@pytest.mark.parametrize("name", [DEIS, SA])
def test_deis_and_sa_solver_stop_before_the_end(name):
    """Their last step goes nowhere: on flow grids the sample keeps the noise of the last level, 3/(n + 2)."""
    left = []
    for steps in (20, 40):
        settings = {"solver_order": 3} if name == DEIS else {"tau_func": lambda t: torch.tensor(0.0)}
        peer = multistep(name, "flow", steps, **settings)
        assert peer.scheduler.sigmas[-1] == peer.scheduler.sigmas[-2]
        y = peer.run(peer.path.sigma(peer.times[0]) * NOISE, MIXTURE.denoiser(peer.path))
        want = ode_map(MIXTURE, peer.path.sigma(peer.times[0]) * NOISE, peer.path, float(peer.times[0]))
        left.append(float((y - want).square().mean().sqrt()))
    assert float(peer.times[-1]) == pytest.approx(3 / 42, rel=0.02)
    assert math.log2(left[0] / left[1]) == pytest.approx(1, abs=0.3)
    assert left[1] > 0.03


def test_unipc_bh1_to_zero_noise_is_no_number_in_diffusers():
    """B(h) = h is infinite there; ours takes the last x0, which is its limit."""
    peer = multistep(UNIPC, "karras", solver_order=2, solver_type="bh1")
    x, start = ours(SOLVERS["unipc_2_bh1"], peer)
    assert bool(peer.run(start, MIXTURE.denoiser(peer.path)).isnan().all())
    assert error(x, ode_map(MIXTURE, start, peer.path, float(peer.times[0]))) < 0.05
