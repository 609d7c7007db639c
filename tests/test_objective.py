"""Weightings, time laws and the learned variance, against closed forms and the exact denoiser of a mixture."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fromnoise
from fromnoise.analytic import ring
from fromnoise.nets import UNet
from fromnoise.process import (
    EDM,
    P2,
    VE,
    VP,
    Cosine,
    CosMap,
    EDMWeighting,
    Elbo,
    Flow,
    Kept,
    LogNormal,
    LogUniform,
    LossVariance,
    MinSNR,
    Mode,
    Objective,
    ScaledLinear,
    Shifted,
    Sigmoid,
    Simple,
    SubVP,
    Trigonometric,
    Uniform,
    ZeroTerminal,
    describe_weighting,
    effective_weighting,
    plot_weightings,
    target,
)
from fromnoise.process.effective import LAMBDAS, named_weightings, nearest_named
from fromnoise.process.times import stratified
from fromnoise.recipe import Training
from fromnoise.recipes import digits
from fromnoise.text import Trained
from fromnoise.train import train
from fromnoise.train.checkpoint import load_checkpoint
from fromnoise.train.loop import Trainer
from fromnoise.types import UserError
from fromnoise.weights import load_weights

PATHS = [Flow(), Trigonometric(), Cosine(), VP(), SubVP(), VE(), EDM(), ScaledLinear(), Shifted(), ZeroTerminal()]
LAWS = [Uniform(), LogNormal(mean=0.3, std=1.3), Mode(scale=1.29), Mode(scale=-0.7), CosMap(),
        LogUniform(low=-7, high=6)]
WEIGHTINGS = [Simple(), Elbo(), MinSNR(gamma=3.0), P2(k=0.5, gamma=1.3), EDMWeighting(), Sigmoid(bias=-1.0),
              Kept(loss="velocity", times=LogNormal())]
PREDICTIONS = ["x0", "eps", "v", "velocity", "score"]
INSIDE = torch.linspace(-6, 6, 61, dtype=torch.float64)
KIND = {"ids": lambda s: s.kind}


def normal(x, mean, std):
    return torch.exp(-((x - mean) / std) ** 2 / 2) / (std * math.sqrt(2 * math.pi))


def same_shape(a, b, **close):
    """Equal up to a constant."""
    torch.testing.assert_close(a / a.mean(), b / b.mean(), **close)


# ---- time laws --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS, **KIND)
@pytest.mark.parametrize("law", LAWS, ids=str)
def test_density_over_log_snr_is_that_of_the_draws(law, path):
    """p(lambda) integrates to what the quantile function says, between any two quantiles."""
    u = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    t = law.times(u, path)
    assert bool((t.diff() > 0).all())
    lambdas = path.logsnr(t)
    for i in range(len(u) - 1):
        grid = torch.linspace(float(lambdas[i + 1]), float(lambdas[i]), 400, dtype=torch.float64)
        mass = torch.trapezoid(law.density(path.time(grid), path), grid)
        rough = 2e-2 if isinstance(path, ScaledLinear | ZeroTerminal) else 2e-4  # a table has kinks
        assert float(mass) == pytest.approx(float(u[i + 1] - u[i]), rel=rough)


def test_named_laws_on_the_flow_path_are_sd3s():
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    s = 1.29
    torch.testing.assert_close(Mode(scale=s).times(1 - u, Flow()),
                               1 - u - s * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u))  # eq. 20
    inner = u[1:-1]
    torch.testing.assert_close(CosMap().times(inner, Flow()), 1 - 1 / (torch.tan(math.pi / 2 * inner) + 1))  # eq. 21
    t = inner
    p = CosMap().density(t, Flow()) * Flow().logsnr_dot(t).abs()
    torch.testing.assert_close(p, 2 / (math.pi - 2 * math.pi * t + 2 * math.pi * t**2))
    p = LogNormal().density(t, Flow()) * Flow().logsnr_dot(t).abs()
    torch.testing.assert_close(p, normal(torch.logit(t), 0, 1) / (t * (1 - t)))  # logit-normal


def test_a_law_is_cut_where_the_path_ends():
    path = VE()
    t = LogNormal(mean=3.0, std=2.0).times(torch.linspace(0, 1, 10001, dtype=torch.float64), path)
    assert int((t == 1).sum()) <= 1  # no heap at the end
    with pytest.raises(UserError, match="nothing in common"):
        LogUniform(low=-30, high=-20).times(torch.rand(3), path)
    with pytest.raises(ValueError, match="high above low"):
        LogUniform(low=2, high=1)


@pytest.mark.parametrize("shared", [False, True])
def test_stratified_draws(shared):
    u = stratified(64, torch.Generator().manual_seed(0), shared)
    assert sorted((u * 64).long().tolist()) == list(range(64))
    assert (u.sort().values.diff() - 1 / 64).abs().max().item() < (1e-6 if shared else 1 / 32)
    assert ((u * 64).frac().std() < 1e-4) == shared
    drawn = Objective(shared_offset=shared, times=Uniform()).draw_times(64, Flow(), torch.Generator().manual_seed(0))
    assert torch.equal(drawn, u)


# ---- weightings -------------------------------------------------------------------------------------------


def test_effective_weightings_of_the_literature():
    """Kingma and Gao 2023, table 1, and what follows from it."""
    l, cosine, sech = INSIDE, Trigonometric(), 1 / torch.cosh(INSIDE / 2)
    cases = [
        (Objective(prediction="eps", loss="eps", times=Uniform()), cosine, sech),
        (Objective(prediction="v", loss="v", times=Uniform()), cosine, torch.exp(-l / 2)),
        (Objective(times=Uniform()), Flow(), torch.exp(-l / 2)),
        (Objective(), Flow(), normal(l, 0, 2) * (1 + torch.exp(-l / 2)) ** 2),
        (Objective(weighting=Simple()), cosine, sech),
        (Objective(weighting=MinSNR(gamma=5)), cosine, sech * (5 * torch.exp(-l)).clamp(max=1)),
        (Objective(weighting=P2(k=1, gamma=1)), cosine, sech / (1 + l.exp())),
        (Objective(weighting=Elbo()), cosine, torch.ones_like(l)),
        (Objective(weighting=EDMWeighting()), EDM(), normal(l, 2.4, 2.4) * (torch.exp(-l) + 0.25)),
        (Objective(weighting=Sigmoid(bias=2)), VP(), torch.sigmoid(2 - l)),
    ]
    for objective, path, want in cases:
        objective = replace(objective, max_weight=1e30)
        same_shape(effective_weighting(objective, path, l), want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("path", PATHS, **KIND)
@pytest.mark.parametrize("weighting", WEIGHTINGS, **KIND)
def test_a_named_weighting_does_not_depend_on_law_or_prediction(weighting, path):
    lambdas = LAMBDAS[(LAMBDAS > -5) & (LAMBDAS < 5.5)]  # where every law draws and every path goes
    want = effective_weighting(Objective(weighting=weighting, max_weight=1e30), path, lambdas)
    assert bool((want > 0).all())
    for prediction, law in zip(PREDICTIONS, LAWS, strict=False):
        objective = Objective(prediction=prediction, times=law, weighting=weighting, max_weight=1e30)
        same_shape(effective_weighting(objective, path, lambdas), want, rtol=1e-6, atol=1e-12)


def test_kept_is_the_weighting_it_names():
    for loss in PREDICTIONS:
        implied = Objective(prediction=loss, loss=loss, times=LogNormal(mean=0.4))
        kept = Objective(prediction="x0", times=Uniform(), max_weight=1e30,
                         weighting=Kept(loss=loss, times=LogNormal(mean=0.4)))
        torch.testing.assert_close(effective_weighting(kept, Flow(), INSIDE),
                                   effective_weighting(implied, Flow(), INSIDE))


def test_effective_weighting_is_normalised_and_zero_beyond_the_path():
    for path in PATHS:
        w = effective_weighting(Objective(prediction="x0"), path, LAMBDAS)
        assert float(torch.trapezoid(w, LAMBDAS)) == pytest.approx(1)
    assert bool((effective_weighting(Objective(weighting=Elbo()), VE(), LAMBDAS)[LAMBDAS < -8] == 0).all())
    halved = effective_weighting(Objective(weighting=Elbo()), Flow(), INSIDE, variance=lambda l: l / 2)
    same_shape(halved, torch.exp(-INSIDE / 2))


def test_the_ceiling_is_part_of_the_effective_weighting():
    objective = Objective(prediction="x0", loss="velocity", times=Uniform(), max_weight=4.0)
    t = Flow().time(INSIDE)
    want = t * (1 - t) / 2 * (t**-2).clamp(max=4) * torch.exp(-INSIDE)
    same_shape(effective_weighting(objective, Flow(), INSIDE), want)


@pytest.mark.parametrize("weighting", WEIGHTINGS, **KIND)
def test_weights_are_finite_at_the_ends_and_the_same_in_float32(weighting):
    ends = torch.tensor([0.0, 1e-7, 1e-3, 0.999, 1.0])
    inner = torch.linspace(0.30035, 0.90035, 13)  # between the levels of the tables
    for path in PATHS:
        for law in LAWS:
            objective = Objective(prediction="x0", times=law, weighting=weighting)
            w = objective.weight(ends, path)
            assert bool((torch.isfinite(w) & (w >= 0) & (w <= 400)).all())
            if law is not LAWS[-1]:  # with hard ends
                torch.testing.assert_close(objective.weight(inner, path).double(),
                                           objective.weight(inner.double(), path), rtol=2e-3, atol=1e-6)


def expected_loss(objective, path, mixture, seed, count=40_000):
    """(the loss of the exact denoiser, its standard error)."""
    random = torch.Generator().manual_seed(seed)
    x0, _ = mixture.sample(count, random)
    t = objective.draw_times(count, path, random).double()
    eps = torch.randn(x0.shape, generator=random, dtype=torch.float64)
    x = path.add_noise(x0, eps, t)
    exact = mixture.x0(x, t, path)
    implied_eps = (x - path.alpha(t)[:, None] * exact) / path.sigma(t)[:, None]
    output = target(objective.prediction, path, exact, implied_eps, t)
    losses = objective.losses(output, x0, eps, t, path).mean(1)
    return float(losses.mean()), float(losses.std()) / count**0.5


@pytest.mark.parametrize("weighting", [EDMWeighting(), Sigmoid(bias=1.0), Kept(), Simple()], **KIND)
def test_the_loss_itself_does_not_depend_on_how_it_is_estimated(weighting):
    """Its expectation is one number for every prediction and law, here with the exact denoiser of a mixture."""
    found = [expected_loss(Objective(prediction=p, times=law, weighting=weighting, max_weight=1e12, stratified=False),
                           Flow(), ring(), seed)
             for seed, (p, law) in enumerate([("x0", LogNormal(std=2.5)), ("velocity", CosMap()),
                                              ("eps", LogUniform(low=-14, high=14)), ("v", LogNormal(std=2.0))])]
    first, error = found[-2]
    for value, spread in found:
        assert abs(value - first) < 4 * math.hypot(error, spread)
    assert error < 0.03 * first


def test_the_elbo_is_the_integral_over_log_snr():
    """1/2 int E |eps - eps_hat|^2 dlambda, for N(0, c): E |eps - eps_hat|^2 = a^2 c / (a^2 c + s^2)."""
    path, c, count = Flow(), 0.3, 100_000
    objective = Objective(prediction="eps", times=LogUniform(low=-9, high=6), weighting=Elbo(), max_weight=1e9)
    random = torch.Generator().manual_seed(0)
    x0 = torch.randn(count, 1, generator=random, dtype=torch.float64) * c**0.5
    t, eps = objective.draw_times(count, path, random).double(), torch.randn(count, 1, generator=random).double()
    a, s = path.alpha(t)[:, None], path.sigma(t)[:, None]
    output = s * (a * x0 + s * eps) / (a**2 * c + s**2)
    want = (math.log1p(c * math.exp(6)) - math.log1p(c * math.exp(-9))) / 2
    assert float(objective.losses(output, x0, eps, t, path).mean()) == pytest.approx(want, rel=0.01)


# ---- saying and showing it --------------------------------------------------------------------------------


def test_the_sentence_names_peak_width_and_neighbour():
    assert describe_weighting(Objective(), Flow()) == (
        "peak at -3.4, half width 5.5 (-6.0 to -0.5), nearest named: sd3 (100% in common)")
    for weighting in (Simple(), Elbo(), MinSNR(), P2(), EDMWeighting(), Sigmoid()):
        for path in (Flow(), VE()):
            name, share = nearest_named(Objective(weighting=weighting, max_weight=1e30), path)
            assert (name, round(share, 4)) == (weighting.kind, 1.0)
    assert describe_weighting(Objective(weighting=Elbo(), max_weight=1e30), VE()).startswith("the same everywhere")
    assert describe_weighting(Objective(weighting=Sigmoid()), Flow()).startswith("highest at the noisy end (-10.0)")
    assert describe_weighting(Objective(learned_variance=True), Flow()).endswith("the variance that is learned")


def test_a_printed_recipe_says_its_effective_weighting():
    from rich.console import Console

    from fromnoise.cli.train import describe

    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(describe(digits(), digits(), Path("runs/digits")))
    assert "effective weighting over log-SNR: peak at -3.4, half width 5.5" in console.export_text()


def test_the_figure_shows_every_named_weighting(tmp_path):
    chart = plot_weightings(Objective(prediction="x0"), Flow(), tmp_path / "w.png")
    (axes,) = chart.axes
    assert (tmp_path / "w.png").stat().st_size > 10_000
    assert {line.get_label() for line in axes.lines} == {"this objective", *named_weightings(Flow(), LAMBDAS)}


def test_choices_are_made_on_the_command_line(capsys):
    from fromnoise.cli.train import resolve
    from fromnoise.recipe import without_effect

    recipe, _, _ = resolve(["digits", "--objective.weighting", "min_snr", "--objective.weighting.gamma", "3",
                            "--objective.times", "mode", "--objective.times.scale", "0.5",
                            "--objective.learned-variance", "--objective.shared-offset"])
    assert recipe.objective.weighting == MinSNR(gamma=3)
    assert recipe.objective.times == Mode(scale=0.5)
    assert without_effect(recipe).keys() & {"objective.loss", "objective.max_weight", "objective.shared_offset"} == {
        "objective.loss"}
    loose = replace(recipe, objective=Objective(stratified=False))
    assert "objective.shared_offset" in without_effect(loose)


# ---- learned variance -------------------------------------------------------------------------------------


def test_the_variance_finds_the_log_of_the_expected_loss():
    module, random = LossVariance(), torch.Generator().manual_seed(0)
    want = lambda l: torch.sin(l / 3) - 0.1 * l  # noqa: E731
    optimiser = torch.optim.Adam(module.parameters(), lr=0.03)
    for _ in range(500):
        l = torch.rand(512, 1, generator=random) * 16 - 8
        losses = want(l)[..., None].exp() * torch.randn(512, 1, 4, generator=random).square()
        optimiser.zero_grad()
        module.balance(losses, l).mean().backward()
        optimiser.step()
    l = torch.linspace(-7, 7, 29)
    assert float((module(l) - want(l)).detach().abs().max()) < 0.25
    assert bool(torch.isfinite(module(torch.tensor([math.inf, -math.inf]))).all())


def test_at_first_the_variance_changes_nothing():
    losses, l = torch.rand(5, 1, 3, 4, 4), torch.randn(5, 1)
    assert torch.equal(LossVariance().balance(losses, l), losses)


def tiny(**objective):
    return replace(digits(), net=UNet(width=8, multipliers=(1, 2)), text=Trained(width=16, max_length=16),
                   objective=Objective(**objective),
                   train=Training(steps=8, batch=8, threads=1, checkpoint_every=4, preview_every=0))


class Stop(Exception):
    pass


def test_training_with_learned_variance_goes_on_bit_for_bit(tmp_path, monkeypatch):
    recipe = tiny(learned_variance=True, prediction="x0", weighting=Sigmoid(), shared_offset=True, times=CosMap())
    whole = train(recipe, tmp_path / "whole").system.variance
    assert whole is not None
    assert float(whole.weight.detach().abs().max()) > 1e-4
    step = Trainer.train_step

    def crash(self, batch):
        if self.step == 6:  # two steps after a checkpoint
            raise Stop
        return step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", crash)
    with pytest.raises(Stop):
        train(recipe, tmp_path / "run")
    monkeypatch.undo()
    train(recipe, tmp_path / "run")
    for part in ("weights", "ema", "optimizer"):
        one, two = (load_checkpoint(tmp_path / run / "checkpoints").tensors[part] for run in ("whole", "run"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    model = fromnoise.load(tmp_path / "run", device="cpu")
    assert model.system.variance is not None
    w = effective_weighting(recipe.objective, recipe.path, LAMBDAS, model.system.variance)
    assert float(torch.trapezoid(w, LAMBDAS)) == pytest.approx(1)
    assert bool(torch.isfinite(model.sample("a seven", steps=2).media).all())


def test_a_recipe_without_it_has_no_more_weights(tmp_path):
    train(tiny(), tmp_path)
    assert not [name for name in load_weights(tmp_path)[0] if "variance" in name]
