"""Given frames and clocks of frames, against Gaussian processes of which everything is known."""

import math

import pytest
import torch
from torch.testing import assert_close

from fromnoise.analytic import GaussianFrames
from fromnoise.denoise import Held, Measured, Reconstructed, blurred, by_history, measured, reconstructed, under
from fromnoise.process import EDM, VP, Flow
from fromnoise.sample import SOLVERS, Procedure, among, full_sequence, solve, time_grid
from fromnoise.sample.order import Autoregressive, Chunks, FullSequence, Overlapping, Pyramid
from fromnoise.types import Condition, UserError

T, D = 5, 2
TABLES = [name for name, solver in SOLVERS.items() if not isinstance(solver, Procedure)]


def world(seed=0):
    """A Gaussian of clips whose frames all know each other."""
    random = torch.Generator().manual_seed(seed)
    A = torch.randn(T * D, T * D, generator=random, dtype=torch.float64) / math.sqrt(T * D)
    return GaussianFrames(torch.randn(T, D, generator=random).double(), A @ A.mT + 0.1 * torch.eye(T * D).double())


def clip(count=1, seed=1):
    return torch.randn(count, T, D, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rest(frames):
    return [f for f in range(T) if f not in frames]


@pytest.mark.parametrize("path", [Flow(), VP(), EDM()], ids=lambda p: p.kind)
def test_the_exact_denoiser_of_frames(path):
    """One clock: that of one Gaussian.  Frames at 0: the conditional's, of the others at one clock."""
    process, x = world(), clip(3)
    t = torch.tensor(0.6).double()
    assert_close(process.x0(x, t, path), process.whole.denoiser(path)(x, t))
    known = [0, 3]
    clock = torch.full((1, T), 0.6).double()
    clock[:, known] = 0
    said = process.x0(x, clock, path)
    assert_close(said[:, known], x[:, known])
    for b in range(3):
        other = process.given(known, x[b, known].flatten(1))
        assert_close(said[b, rest(known)].reshape(1, -1), other.x0(x[b, rest(known)].reshape(1, -1), t, path))


@pytest.mark.parametrize("order", [FullSequence(), Autoregressive(), Pyramid(delay=3), Chunks(size=2),
                                   Overlapping(size=2, overlap=0.3)], ids=lambda o: o.kind)
@pytest.mark.parametrize("known", [[0], [0, T - 1], [0, 1], [3, 4], [0, 2, 4]], ids=str)
def test_sampling_with_given_frames_is_the_conditional(order, known):
    """The map from noise is affine where all is Gaussian, so that n + 1 noises say its mean and covariance exactly.

    To whatever order frames move in, the flow of each keeps the joint law of all at their times.
    """
    process, path, n = world(), Flow(), (T - len(known)) * D
    values = clip()[0]
    basis = torch.cat([torch.zeros(1, n), torch.eye(n)]).double()
    noise = torch.zeros(n + 1, T, D, 1, 1, dtype=torch.float64)
    noise[:, rest(known)] = basis.reshape(n + 1, -1, D, 1, 1)
    held = [f in known for f in range(T)]
    x = solve(process.denoiser(path), noise, path=path, solver="heun", steps=100, grid="karras",
              schedule=lambda times: among(order.matrix(times, T - len(known)), held),
              given=values.expand_as(noise) * torch.tensor(held)[:, None, None, None])
    assert torch.equal(x[:, known], values[known].expand(n + 1, -1, -1, -1, -1))
    made = x[:, rest(known)].reshape(n + 1, -1)
    mean, A = made[0], (made[1:] - made[0]).mT
    want = process.given(known, values[known].flatten(1))
    assert_close(mean, want.means[0], atol=5e-3, rtol=0)
    assert_close(A @ A.mT, want.covs[0], atol=1e-2, rtol=0)


@pytest.mark.parametrize("name", TABLES)
def test_given_frames_come_through_every_solver_that_is_a_table(name):
    process, path, x = world(), Flow(), clip(2)
    held = [True, False, False, True, False]
    given = x * torch.tensor(held)[:, None, None, None]
    for order in (FullSequence(), Pyramid(delay=2)):
        out = solve(process.denoiser(path), clip(2, seed=4), path=path, solver=name, steps=9,
                    schedule=lambda times, o=order: among(o.matrix(times, 3), held), given=given)
        assert torch.equal(out[:, [0, 3]], x[:, [0, 3]])
        assert bool(out.isfinite().all())


def test_a_schedule_is_the_matrix_of_the_grid():
    process, path, noise = world(), Flow(), clip(2)
    times = time_grid(7, path, "karras")
    a = solve(process.denoiser(path), noise, path=path, steps=7, grid="karras", schedule=lambda t: full_sequence(t, T))
    b = solve(process.denoiser(path), noise, path=path, grid=full_sequence(times, T))
    assert torch.equal(a, b)
    with pytest.raises(UserError, match="schedule already"):
        solve(process.denoiser(path), noise, path=path, grid=full_sequence(times, T), schedule=lambda t: t)
    with pytest.raises(UserError, match="solvers that are tables"):
        solve(process.denoiser(path), noise, path=path, solver="rk45", schedule=lambda t: full_sequence(t, T))


# ---- history ----------------------------------------------------------------------------------------


def noise_of(x):
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(9), dtype=x.dtype)


@pytest.mark.parametrize("path", [Flow(), VP()], ids=lambda p: p.kind)
def test_history_guidance_goes_from_the_marginal_to_the_conditional_and_beyond(path):
    """Nothing is left of history at t = 1 on the flow path: there the weak answer is that of p(frames)."""
    process, x, known = world(), clip(2), [0, 1]
    t = torch.tensor([[0.0, 0.0, 0.7, 0.5, 0.7]]).double()
    denoise = process.denoiser(path)

    def said(scale, less=1.0, level=0.0):
        return by_history(denoise, path, scale, level, less, noise_of)(x, t, Condition())

    strong, weak = said(1.0), said(0.0)
    assert_close(strong, denoise(x, t))
    assert_close(said(2.5), weak + 2.5 * (strong - weak))
    assert torch.equal(said(2.5)[:, known], x[:, known])
    if path.kind == "flow":
        others = [f * D + d for f in rest(known) for d in range(D)]
        alone = GaussianFrames(process.mean[rest(known)], process.cov[others][:, others])
        assert_close(weak[:, rest(known)], alone.x0(x[:, rest(known)], t[:, rest(known)], path))
    assert_close(said(1.0, level=0.3), said(0.0, less=0.3))
    assert float((said(1.0, level=0.3) - strong).abs().max()) > 1e-2


def test_blurred_history_is_noised_as_the_path_says_and_told_so():
    path, x, t, seen = Flow(), clip(2), torch.tensor([[0.0, 0.4, 0.4, 0.0, 1.0]], dtype=torch.float64), []

    def watched(x, t, condition):
        seen.append((x, t))
        return torch.zeros_like(x)

    out = blurred(watched, path, 0.1, noise_of)(x, t, Condition())
    (shown, told), = seen
    assert told.tolist() == [[0.1, 0.4, 0.4, 0.1, 1.0]]
    assert_close(shown[:, [0, 3]], (0.9 * x + 0.1 * noise_of(x))[:, [0, 3]])
    assert torch.equal(shown[:, [1, 2, 4]], x[:, [1, 2, 4]])
    assert torch.equal(out[:, [0, 3]], x[:, [0, 3]])
    seen.clear()
    blurred(watched, path, 0.1, noise_of)(x, torch.tensor(0.4), Condition())
    assert seen[0][0] is x
    seen.clear()
    out = Held().around(watched, path, noise_of)(x, t, Condition())  # as it is, and so it comes out
    assert torch.equal(seen[0][0], x)
    assert torch.equal(seen[0][1], t)
    assert torch.equal(out[:, [0, 3]], x[:, [0, 3]])
    assert not bool(out[:, [1, 2, 4]].any())


def test_guided_history_tilts_a_gaussian_as_it_should():
    """At scale s the guided score is s cond + (1 - s) marginal, that of a Gaussian whose precision and mean follow."""
    process, path, x = GaussianFrames.walk(2, keep=0.8), Flow(), clip()[:, :2, :1]
    s, t = 1.5, 0.5
    clock = torch.tensor([[0.0, t]]).double()
    guided = by_history(process.denoiser(path), path, s, 0.0, 1.0, noise_of)(x, clock, Condition())[0, 1].item()
    score = ((1 - t) * guided - x[0, 1].item()) / t**2
    a, variance = x[0, 0].item(), t**2 + (1 - t) ** 2 * (1 - 0.64)
    cond = -(x[0, 1].item() - (1 - t) * 0.8 * a) / variance
    marginal = -x[0, 1].item() / (t**2 + (1 - t) ** 2)
    assert abs(score - (s * cond + (1 - s) * marginal)) < 1e-9


# ---- models that met no given frames ----------------------------------------------------------------


@pytest.mark.parametrize("path", [Flow(), VP()], ids=lambda p: p.kind)
def test_reconstruction_guidance_is_its_equation(path):
    """Ho et al. 2022, eq. 7, with the gradient of a Gaussian written out: D = mu + G (x - alpha mu)."""
    process, x, t, w = world(), clip(3), torch.tensor(0.6).double(), 1.7
    mask = torch.zeros(1, T, 1, 1, 1, dtype=torch.bool)
    mask[:, [0, 2]] = True
    known = clip(3, seed=5)
    said = reconstructed(process.denoiser(path), known, mask, path, w)(x, t, Condition())
    alpha, sigma = path.alpha(t), path.sigma(t)
    G = alpha * process.cov @ torch.linalg.inv(alpha**2 * process.cov + sigma**2 * torch.eye(T * D))
    predicted = process.x0(x, t, path)
    gap = (mask * (known - predicted)).reshape(3, -1)
    want = predicted + (w * alpha * gap @ G).reshape(x.shape)
    assert_close(said, torch.where(mask, known, want))


def test_reconstruction_is_measurement_where_its_variance_is_right():
    """Two frames that are one, of huge variance: the known one's posterior variance is sigma^2 / alpha^2."""
    path, t = Flow(), torch.tensor(0.5).double()
    process = GaussianFrames(torch.zeros(2, 1), 1e6 * torch.tensor([[1.0, 0.5], [0.5, 1.0]]).double())
    x, known = clip(4)[:, :2, :1], clip(4, seed=2)[:, :2, :1]
    mask = torch.tensor([True, False])[None, :, None, None, None]
    a = reconstructed(process.denoiser(path), known, mask, path)(x, t, Condition())
    b = measured(process.denoiser(path), known, mask, path)(x, t, Condition())
    assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("keep", [Measured(iterations=T * D), Reconstructed(weight=2.0), Reconstructed(weight=0.0)],
                         ids=lambda k: f"{k.kind}-{getattr(k, 'weight', '')}")
def test_how_near_they_come_to_the_conditional(keep):
    """Measurement is exact here; reconstruction comes nearer than replacement, which ignores what it should heed."""
    process, path, values = GaussianFrames.walk(T, keep=0.9), Flow(), clip(seed=8)[:, :, :1] + 1
    mask = torch.zeros(1, T, 1, 1, 1, dtype=torch.bool)
    mask[:, 0] = True
    noise = torch.randn(3000, T, 1, 1, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    denoise = keep.of(process.denoiser(path), values.expand_as(noise), mask, path)
    x = solve(under(denoise, Condition()), noise, path=path, solver="euler", steps=40)
    want = process.given([0], values[0, :1].flatten(1))
    error = float((x[:, 1:].flatten(1).mean(0) - want.means[0]).abs().mean())
    assert torch.equal(x[:, :1], values[:, :1].expand(3000, -1, -1, -1, -1)) or keep.kind == "measured"
    low, high = {"measured": (0.0, 0.05), "reconstructed": (0.05, 0.6)}[keep.kind]
    print(keep, error)
    assert low <= error < (high if getattr(keep, "weight", 1) else 9)
