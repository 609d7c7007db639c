"""Guidance against what is exact: the algebra of scores, class-conditional mixtures, and slow twins."""

import json
import math

import pytest
import torch
from torch.testing import assert_close

from fromnoise.analytic import GaussianMixture, ode_map, ring
from fromnoise.blocks import patchify
from fromnoise.config import from_dict, to_dict
from fromnoise.denoise import (
    APG,
    CFGZero,
    Counted,
    Denoiser,
    Guidance,
    Schedule,
    autoguidance,
    cfg_zero,
    classifier_free,
    classifier_guided,
    dynamic_threshold,
    gradient_of,
    in_space,
    linear,
    measured,
    mixed,
    normed,
    passes,
    projected,
    replaced,
    rescaled,
    rescheduled,
    scale_of,
    static_threshold,
    under,
    zero_init,
)
from fromnoise.denoise.threshold import quantile
from fromnoise.nets import UNet, house
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
    from_x0,
)
from fromnoise.sample import solve, time_grid
from fromnoise.types import Condition, UserError

PATHS = [Flow(), Trigonometric(), Cosine(), VP(), SubVP(), ScaledLinear(), VE(), EDM(), Shifted(), ZeroTerminal()]


def mixture(D=2, seed=0):
    """Six Gaussians of three classes."""
    random = torch.Generator().manual_seed(seed)
    A = torch.randn(6, D, D, generator=random, dtype=torch.float64) * 0.3
    return GaussianMixture(torch.rand(6, generator=random) + 0.2, torch.randn(6, D, generator=random).double(),
                           A @ A.mT + 0.05 * torch.eye(D), torch.arange(6) % 3)


def label(*labels):
    """A condition that names a class for each sample; -1 is none."""
    return Condition(torch.tensor(labels, dtype=torch.float64).view(-1, 1, 1))


def labelled(world, path):
    """The exact denoiser of a mixture, told the class of each sample."""
    worlds = [*(world.of_label(k) for k in range(3)), world]

    def denoise(x, t, condition):
        which = condition.text[:, 0, 0].long()
        every = torch.stack([each.x0(x, t, path) for each in worlds])
        return every[which, torch.arange(len(x))].to(x.dtype)

    return denoise


def setting(path=None, B=8, D=2, time=0.4):
    """(world, its denoiser, points, time, the conditions "class 1" and "none")."""
    world, path = mixture(D), path or Flow()
    return world, labelled(world, path), torch.randn(B, D).double(), torch.tensor(time).double(), \
        label(*[1] * B), label(*[-1] * B)


def noisy(x, path, time):
    return float(path.sigma(torch.tensor(time).double())) * x


# ---- classifier-free ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.kind)
@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_classifier_free_is_the_algebra_of_scores(path, scale):
    """The score of the guided denoiser is grad log p(x) + s grad log p(y | x)."""
    world, denoise, x, t, one, none = setting(path)
    guided = classifier_free(denoise, none, scale)(x, t, one)
    score, toward = world.score(x, t, path), world.classifier(1, path)(x, t)
    assert_close(from_x0("score", path, guided, x, t), score + scale * toward, rtol=1e-8, atol=1e-8)


def test_scale_one_is_the_conditional_model_itself_and_costs_one_evaluation():
    _, denoise, x, t, one, none = setting()
    counted = Counted(denoise)
    assert torch.equal(classifier_free(counted, none, 1.0)(x, t, one), denoise(x, t, one))
    assert (counted.calls, counted.samples) == (1, 8)


@pytest.mark.parametrize(("time", "inside"), [(0.19, False), (0.2, True), (0.5, True), (0.7, True), (0.71, False)])
def test_an_interval_has_its_ends_and_outside_only_one_pass_is_made(time, inside):
    _, denoise, x, t, one, none = setting(time=time)
    counted = Counted(denoise)
    got = classifier_free(counted, none, 3.0, (0.2, 0.7))(x, t, one)
    assert counted.samples == (16 if inside else 8)
    u, c = denoise(x, t, none), denoise(x, t, one)
    assert_close(got, u + 3 * (c - u) if inside else c, rtol=1e-12, atol=1e-12)


def test_every_frame_has_the_scale_of_its_own_clock():
    """Clocks [B, T] inside and outside the interval, and at 0, in one batch."""
    def net(x, t, condition):
        return x * (2 + condition.text.view(-1, 1, 1, 1, 1)) + t[..., None, None, None]

    x, t = torch.randn(2, 3, 1, 2, 2).double(), torch.tensor([[0.0, 0.5, 0.9], [0.3, 0.6, 1.0]])
    scale = Schedule(scale=4.0, clean=2.0, interval=(0.25, 0.8))
    one, none = label(1.0, 0.5), label(-1.0, -1.0)
    got = classifier_free(net, none, scale)(x, t, one)
    for b in range(2):
        for f in range(3):
            s = 2 + 2 * float(t[b, f]) if 0.25 <= t[b, f] <= 0.8 else 1.0
            c, u = (x[b, f] * (2 + which) + t[b, f] for which in ((1.0, 0.5)[b], -1.0))
            assert_close(got[b, f], u + s * (c - u))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_float64_clock_does_not_change_the_dtype(dtype):
    _, denoise, x, t, one, none = setting()
    x = x.to(dtype)
    for guided in (classifier_free(denoise, none, Schedule(scale=3.0, clean=1.0)),
                   classifier_guided(denoise, lambda x, t: x, Flow()), rescheduled(denoise, VP(), Flow()),
                   zero_init(denoise, Flow(), 0.1)):
        for clock in (t, t.expand(8)):
            assert guided(x, clock, one).dtype == dtype


@pytest.mark.parametrize("clock", ["scalar", "frames"])
def test_nothing_waits_for_a_device(clock):
    """On the meta device, which has no values, whatever asks for one raises."""
    x, condition = torch.empty(4, 2, 3, 8, 8, device="meta"), Condition(torch.empty(4, 5, 6, device="meta"))
    t = torch.tensor(0.5).double() if clock == "scalar" else torch.empty(4, 2, device="meta")
    path, scale = VP(), Schedule(scale=3.0, clean=1.0, interval=(0.1, 0.9))

    def denoise(x, t, condition):
        return 0.9 * x

    rules = linear, rescaled(0.7), projected(0.0, 5.0, -0.5), cfg_zero(path)
    guided = [classifier_free(denoise, condition, scale, others=[(condition, 0.5)], rule=rule) for rule in rules]
    guided += [autoguidance(denoise, denoise, scale), mixed(denoise, [(scale, denoise)]),
               classifier_guided(denoise, lambda x, t: x, path, scale), zero_init(denoise, path),
               static_threshold(denoise), dynamic_threshold(denoise), rescheduled(denoise, path, Flow()),
               measured(denoise, x, x, path), replaced(denoise, x, x)]
    assert all(each(x, t, condition).shape == x.shape for each in guided)


def test_schedules():
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    assert_close(Schedule(scale=3.0).at(t), torch.full_like(t, 3.0))
    assert_close(Schedule(scale=1.0, clean=5.0).at(t), 5 - 4 * t)
    cosine = Schedule(scale=1.0, clean=5.0, shape="cosine").at(t)
    assert_close(cosine, 3 + 2 * torch.cos(math.pi * t))
    assert Schedule(scale=3.0, interval=(0.25, 0.5)).at(t).tolist() == [1, 3, 3, 1, 1]
    assert Schedule(scale=3.0, interval=(0.25, 0.5)).at(t, none=0.0).tolist() == [0, 3, 3, 0, 0]
    for bad in ((0.5, 0.2), (-0.1, 0.5), (0.0, 1.5)):
        with pytest.raises(ValueError, match="two times"):
            Schedule(interval=bad)
    with pytest.raises(ValueError, match="its own interval"):
        classifier_free(lambda x, t, condition: x, label(-1), Schedule(), (0.2, 0.5))


def test_scales_of_other_systems():
    assert scale_of("z-image", 4.0) == scale_of("krea2", 4.0) == scale_of("show-o", 4.0) == 5.0
    assert scale_of("ho-salimans", 0.0) == 1.0
    assert scale_of("sdxl", 5.0) == 5.0
    with pytest.raises(UserError, match='Did you mean "flux"'):
        scale_of("flux9", 3.0)


def random_net(spec, text=16):
    net = spec.build(3, text).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.2 * torch.randn(p.shape))
    return net.requires_grad_(False)


# ---- several conditions, batching and counting ----------------------------------------------------------


def test_composed_prompts_are_a_weighted_sum():
    """AND and NOT (Liu et al. 2022) as scores: grad log p(x) + s (sum_i w_i grad log p(y_i | x))."""
    path = VP()
    world, denoise, x, t, one, none = setting(path)
    zero, two = label(*[0] * 8), label(*[2] * 8)
    guided = classifier_free(denoise, none, 1.5, others=[(zero, 1.0), (two, -0.5)])(x, t, one)
    toward = [world.classifier(k, path)(x, t) for k in range(3)]
    want = world.score(x, t, path) + 1.5 * (toward[1] + toward[0] - 0.5 * toward[2])
    assert_close(from_x0("score", path, guided, x, t), want, rtol=1e-8, atol=1e-8)
    once = classifier_free(denoise, none, 1.0, others=[(zero, 1.0)])(x, t, one)
    assert_close(from_x0("score", path, once, x, t), world.score(x, t, path) + toward[1] + toward[0],
                 rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("spec", [house(width=32, depth=2, heads=2, patch=2), UNet(width=8, heads=2)])
@pytest.mark.parametrize(("max_batch", "calls"), [(None, 1), (1, 4), (6, 2), (9, 2), (12, 1)])
def test_batched_passes_equal_separate_ones(spec, max_batch, calls):
    """Four conditions of different lengths over three samples: 12 evaluations, however many calls they take."""
    denoiser = Denoiser(random_net(spec), Flow(), "velocity")
    counted = Counted(denoiser)
    x, t = torch.randn(3, 1, 3, 8, 8).double(), torch.rand(3, 1).double()
    conditions = [Condition(torch.randn(3, L, 16).double()) for L in (1, 4, 2, 3)]
    together = passes(counted, x, t, conditions, max_batch)
    assert (counted.calls, counted.samples) == (calls, 12)
    for got, condition in zip(together, conditions, strict=True):
        assert_close(got, denoiser(x, t, condition))


def test_counting_a_whole_solve_with_an_interval():
    """Five even steps at t = 1, 0.8, ..., 0.2, of which two lie in the interval."""
    _, denoise, x, _, one, none = setting()
    counted = Counted(denoise)
    guided = classifier_free(counted, none, 2.0, (0.35, 0.7), max_batch=8)
    solve(under(guided, one), x, path=Flow(), solver="euler", steps=5)
    assert (counted.calls, counted.samples) == (7, 56)


# ---- other rules ----------------------------------------------------------------------------------------


def pair(B=4, shape=(2, 3, 5, 5)):
    return torch.randn(B, *shape).double(), torch.randn(B, *shape).double() + 0.3


def test_every_rule_gives_c_at_scale_one():
    c, u = pair()
    x, t, s = torch.randn_like(c), torch.tensor(0.3).double(), torch.tensor(1.0).double()
    for rule in (linear, rescaled(0.7), projected(0.0, 1.0), projected(0.5, momentum=-0.5), cfg_zero(VP()),
                 in_space(rescaled(1.0), "v", VP())):
        assert_close(rule(c, u, s, x, t), c)


def test_rescaling_keeps_the_standard_deviation_of_every_sample():
    c, u = pair()
    s = torch.tensor(5.0)
    std = torch.std
    whole = rescaled(1.0)(c, u, s, c, s)
    assert_close(std(whole, (1, 2, 3, 4)), std(c, (1, 2, 3, 4)))
    plain = linear(c, u, s)
    assert float(std(plain)) > 2 * float(std(c))
    assert_close(rescaled(0.7)(c, u, s, c, s), 0.7 * whole + 0.3 * plain)
    path, x, t = VP(), torch.randn_like(c), torch.tensor(0.6).double()
    other = in_space(rescaled(1.0), "v", path)(c, u, s, x, t)
    v, v_c = (from_x0("v", path, x0, x, t) for x0 in (other, c))
    assert_close(std(v, (1, 2, 3, 4)), std(v_c, (1, 2, 3, 4)))


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.kind)
def test_cfg_zero_projects_velocities(path):
    """With the projection of v_c on v_u in place of v_u, what is added is at right angles to v_u."""
    c, u = pair(shape=(7,))
    x, t, s = torch.randn_like(c), torch.tensor(0.5).double(), torch.tensor(3.0).double()
    v, v_c, v_u = (from_x0("velocity", path, x0, x, t) for x0 in (cfg_zero(path)(c, u, s, x, t), c, u))
    share = (v_c * v_u).sum(1, keepdim=True) / v_u.square().sum(1, keepdim=True)
    assert_close(v, share * v_u + 3 * (v_c - share * v_u))
    assert_close(((v - v_c) * v_u).sum(1), torch.zeros(4).double(), atol=1e-8, rtol=0)


@pytest.mark.parametrize("patch", [1, 2])
def test_normed_velocities_are_as_long_as_those_of_c(patch):
    """Square by square, with the direction of plain guidance; other sides are refused."""
    path, t, s = Flow(), torch.tensor(0.4).double(), torch.tensor(3.0).double()
    c, u, x = (torch.randn(2, 1, 3, 4, 6, generator=torch.Generator().manual_seed(i)).double() for i in range(3))
    v, v_c, v_u = (from_x0("velocity", path, x0, x, t) for x0 in (normed(path, patch)(c, u, s, x, t), c, u))

    def tokens(value):
        return patchify(value, patch)

    assert_close(tokens(v).norm(dim=-1), tokens(v_c).norm(dim=-1))
    plain = tokens(linear(v_c, v_u, s))
    assert_close(tokens(v) / tokens(v).norm(dim=-1, keepdim=True), plain / plain.norm(dim=-1, keepdim=True))
    with pytest.raises(ValueError, match="multiples"):
        normed(path, 5)(c, u, s, x, t)


def test_normed_rows_are_as_long_as_those_of_c():
    path, t, s = Flow(), torch.tensor(0.4).double(), torch.tensor(3.0).double()
    c, u, x = (torch.randn(2, 1, 3, 4, 6, generator=torch.Generator().manual_seed(i)).double() for i in range(3))
    v, v_c, v_u = (from_x0("velocity", path, x0, x, t) for x0 in (normed(path, None)(c, u, s, x, t), c, u))
    plain = linear(v_c, v_u, s)
    assert_close(v, plain * v_c.norm(dim=-1, keepdim=True) / plain.norm(dim=-1, keepdim=True))


def test_zero_init_keeps_x_where_it_is():
    """On the flow path Euler does not move while t is above; then it starts from the same noise."""
    _, denoise, x, _, one, _ = setting()
    counted = Counted(denoise)
    grid = time_grid(10, Flow())
    seen = []
    solve(under(zero_init(counted, Flow(), 0.85), one), x, path=Flow(), solver="euler", grid=grid,
          callback=lambda p: seen.append(p.x))
    assert_close(seen[1], x)
    assert counted.calls == 8
    assert_close(seen[2], x + 0.1 * (denoise(x, grid[2], one) - x) / grid[2])
    per_frame = torch.tensor([[0.9, 0.5]]).double()
    media = torch.randn(1, 2, 3, 4, 4).double()
    half = zero_init(lambda x, t, condition: 0 * x, VP(), 0.85)(media, per_frame, one)
    still = from_x0("velocity", VP(), half, media, per_frame)
    assert float(still[:, 0].abs().max()) < 1e-12
    assert float(half[:, 1].abs().max()) == 0


def test_projected_guidance_is_its_algorithm():
    c, u = pair(shape=(9,))
    s, x, t = torch.tensor(4.0).double(), torch.zeros_like(c), torch.tensor(0.5).double()
    assert_close(projected(1.0)(c, u, s, x, t), linear(c, u, s))
    d = c - u
    short = d * (1.5 / d.norm(dim=1, keepdim=True)).clamp(max=1)
    assert float(d.norm(dim=1).min()) > 1.5
    along = (short * c).sum(1, keepdim=True) / c.square().sum(1, keepdim=True) * c
    assert_close(projected(0.2, 1.5)(c, u, s, x, t), c + 3 * (short - along + 0.2 * along))
    away = projected(0.0)(c, u, s, x, t) - c
    assert_close((away * c).sum(1), torch.zeros(4).double(), atol=1e-10, rtol=0)
    assert_close(projected(0.0, norm=100.0)(c, u, s, x, t), projected(0.0)(c, u, s, x, t))


def test_momentum_is_that_of_one_solve():
    pairs = [pair(shape=(9,)) for _ in range(3)]
    s, rule, total = torch.tensor(4.0), projected(1.0, momentum=-0.5), torch.zeros(4, 9).double()
    for (c, u), time in zip(pairs, (1.0, 0.5, 0.5), strict=True):
        total = c - u - 0.5 * total
        assert_close(rule(c, u, s, c, torch.tensor(time)), c + 3 * total)
    with pytest.raises(ValueError, match="make it anew"):
        rule(*pairs[0], s, pairs[0][0], torch.tensor(1.0))
    with pytest.raises(ValueError, match="make it anew"):
        rule(*pair(2, (9,)), s, pairs[0][0][:2], torch.tensor(0.3))


def test_rules_keep_half_precision_samples_finite_and_close():
    """A sample's squares overflow nothing and are not summed in half precision."""
    c, u = (60 * each.float() for each in pair(shape=(3, 64, 64)))
    s = torch.tensor(3.0)
    for rule in (rescaled(0.7), projected(0.0, 50.0), in_space(rescaled(0.7), "v", VP())):
        t = torch.tensor(0.5).double()
        got = rule(c.half(), u.half(), s, c.half(), t)
        assert_close(got.float(), rule(c, u, s, c, t), rtol=0.02, atol=1.0)


# ---- two denoisers --------------------------------------------------------------------------------------


def test_autoguidance_leads_away_from_the_weak_one_under_the_same_condition():
    world, denoise, x, t, one, _ = setting()
    wide = GaussianMixture(world.weights, world.means, world.covs + 0.3 * torch.eye(2), world.labels)
    weak = labelled(wide, Flow())
    w, d = weak(x, t, one), denoise(x, t, one)
    assert_close(autoguidance(denoise, weak, 2.5)(x, t, one), w + 2.5 * (d - w))
    counted = Counted(weak)
    assert torch.equal(autoguidance(denoise, counted, 2.5, (0.5, 1.0))(x, t, one), d)
    assert counted.calls == 0


def test_mixed_is_any_affine_guidance():
    _, denoise, x, t, one, none = setting()
    def weak(x, t, condition):
        return 0.9 * denoise(x, t, condition)

    u, c, p = denoise(x, t, none), denoise(x, t, one), weak(x, t, one)
    both = mixed(denoise, [(1 - 3.0, under(denoise, none)), (-0.7, weak)])
    assert_close(both(x, t, one), u + 3 * (c - u) + 0.7 * (c - p))
    late = mixed(denoise, [(Schedule(scale=-0.7, interval=(0.5, 1.0)), weak)])
    assert_close(late(x, t, one), c)


def test_guidances_compose():
    """A negative prompt inside autoguidance, under a threshold, on another path, in a solver."""
    path, old = Flow(), VP()
    world, _, x, _, one, none = setting()
    inner = classifier_free(labelled(world, old), none, 2.0)
    weak = labelled(GaussianMixture(world.weights, world.means, 1.5 * world.covs, world.labels), old)
    whole = static_threshold(rescheduled(autoguidance(inner, weak, 1.3), old, path), 2.0)
    x0 = solve(under(whole, one), x, path=path, steps=12)
    assert bool(x0.isfinite().all())
    assert float(x0.abs().max()) <= 2


# ---- classifier guidance --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.kind)
@pytest.mark.parametrize("time", [0.02, 0.5, 0.98, 1.0])
def test_an_exact_classifier_gives_the_class_conditional_denoiser(path, time):
    """Also at t = 1, where nothing of the signal is left, and the gradient vanishes with it."""
    world, denoise, x, t, one, none = setting(path, time=time)
    x = noisy(x, path, 1.0) if time == 1 else x
    guided = classifier_guided(under(denoise, none), world.classifier(1, path), path)
    assert_close(guided(x, t, none), denoise(x, t, one), rtol=1e-6, atol=1e-6)


def test_the_gradient_of_a_classifier_by_autograd():
    path = Flow()
    world, denoise, x, t, one, none = setting(path)
    inside = world.labels == 1

    def log_prob(x, t):
        return world.responsibilities(x, t, path)[:, inside].sum(1).log()

    with torch.no_grad():
        guided = classifier_guided(under(denoise, none), gradient_of(log_prob), path)(x, t, none)
    assert_close(guided, denoise(x, t, one), rtol=1e-8, atol=1e-8)


def test_classifier_guidance_lands_in_the_class_and_on_its_ode():
    path, world = Flow(), ring()
    noise = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).double()
    plain = world.denoiser(path)
    guided = classifier_guided(lambda x, t, _: plain(x, t), world.classifier(3, path), path)
    x0 = solve(under(guided, Condition()), noise, path=path, solver="heun", steps=60)
    assert bool((world.mode(x0) == 3).all())
    assert_close(x0, ode_map(world.of_label(3), noise, path), atol=5e-3, rtol=0)
    assert len(torch.unique(world.mode(solve(plain, noise, path=path, steps=20)))) == 8


def test_classifier_guidance_rests_outside_its_interval():
    world, denoise, x, t, _, none = setting()
    def never(x, t):
        raise AssertionError

    assert torch.equal(classifier_guided(denoise, never, Flow(), 2.0, (0.5, 1.0))(x, t, none), denoise(x, t, none))
    clocks = torch.tensor([0.3, 0.6] * 4).double()
    got = classifier_guided(denoise, world.classifier(1, Flow()), Flow(), 2.0, (0.5, 1.0))(x, clocks, none)
    plain = denoise(x, clocks, none)
    assert torch.equal(got[::2], plain[::2])
    assert float((got - plain)[1::2].abs().min()) > 0


# ---- thresholds -----------------------------------------------------------------------------------------


def test_thresholds():
    x0 = torch.randn(5, 1, 3, 8, 8) * torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0]).view(-1, 1, 1, 1, 1)

    def denoise(x, t, condition):
        return x

    t = torch.tensor(0.5)
    assert_close(static_threshold(denoise)(x0, t, Condition()), x0.clamp(-1, 1))
    got = dynamic_threshold(denoise, 0.9)(x0, t, Condition())
    q = torch.quantile(x0.abs().flatten(1), 0.9, dim=1).clamp(min=1).view(-1, 1, 1, 1, 1)
    assert_close(got, x0.clamp(-q, q) / q)
    assert torch.equal(got[0], x0[0])
    assert float(got.abs().max()) == pytest.approx(1)
    assert float(dynamic_threshold(denoise, 0.9, 2.0)(x0, t, Condition()).abs().max()) == pytest.approx(2)
    with pytest.raises(ValueError, match="percentile"):
        dynamic_threshold(denoise, 1.5)


@pytest.mark.parametrize("p", [0.01, 0.5, 0.73, 0.995, 1.0])
@pytest.mark.parametrize("n", [1, 2, 101, 1000])
def test_quantiles(p, n):
    x = torch.randn(3, n).double()
    assert_close(quantile(x, p), torch.quantile(x, p, dim=1))


# ---- another path ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("trained", PATHS, ids=lambda p: p.kind)
@pytest.mark.parametrize("sampled", PATHS, ids=lambda p: p.kind)
def test_a_rescheduled_denoiser_is_that_of_the_other_path(trained, sampled):
    """To 1e-10 wherever the trained path has been as noisy."""
    world, x = mixture(), torch.randn(6, 2).double()
    plain = world.denoiser(trained)
    moved = rescheduled(lambda x, t, _: plain(x, t), trained, sampled)
    one = torch.ones((), dtype=torch.float64)
    compared = 0
    for time in (0.0, 0.01, 0.3, 0.6, 0.9, 0.99, 1.0):
        t = torch.tensor(time).double()
        if float(sampled.logsnr(t)) < float(trained.logsnr(one)):
            continue
        compared += 1
        at = float(sampled.alpha(t)) * world.means + float(sampled.sigma(t)) * x
        assert_close(moved(at, t, Condition()), world.x0(at, t, sampled), rtol=1e-10, atol=1e-10)
        assert_close(moved(at, t.expand(6), Condition()), world.x0(at, t, sampled), rtol=1e-10, atol=1e-10)
    assert compared >= 4


def test_a_path_beyond_the_trained_one_is_sampled_from_its_noisiest():
    world, noise = ring(), torch.randn(300, 2, generator=torch.Generator().manual_seed(1)).double()
    plain = world.denoiser(VP())
    moved = rescheduled(lambda x, t, _: plain(x, t), VP(), Flow())
    x0 = solve(under(moved, Condition()), noise, path=Flow(), solver="heun", steps=100)
    assert_close(x0, ode_map(world, noise, Flow()), atol=0.02, rtol=0)


# ---- the spec -------------------------------------------------------------------------------------------


def test_the_spec_says_what_the_functions_do():
    """Every field, against the functions it stands for."""
    path = VP()
    _, denoise, x, t, one, none = setting(path)
    x = 3 * x

    def guided(**fields):
        return Guidance(**fields).of(denoise, none, path)(x, t, one)

    def plain(*args, **told):
        return classifier_free(denoise, none, *args, **told)(x, t, one)

    def given(x0):
        return lambda *_: x0

    assert_close(guided(), plain(2.0))
    assert_close(guided(scale=3.0, clean=1.5), plain(1.5 + 1.5 * 0.4))
    assert_close(guided(scale=3.0, clean=1.5, shape="cosine"), plain(1.5 + 0.75 * (1 - math.cos(0.4 * math.pi))))
    assert_close(guided(scale=3.0, interval=(0.5, 1.0)), denoise(x, t, one))
    assert_close(guided(scale=3.0, rescale=0.6), plain(3.0, rule=rescaled(0.6)))
    assert_close(guided(scale=3.0, method=CFGZero()), plain(3.0, rule=cfg_zero(path)))
    assert_close(from_x0("velocity", path, guided(method=CFGZero(zero_above=0.3)), x, t), 0 * x, atol=1e-9, rtol=0)
    assert_close(guided(scale=3.0, method=APG(eta=0.3, norm=0.2)), plain(3.0, rule=projected(0.3, 0.2)))
    assert_close(guided(scale=9.0, threshold="static"), plain(9.0).clamp(-1, 1))
    assert_close(guided(scale=9.0, threshold="dynamic", percentile=0.7),
                 dynamic_threshold(given(plain(9.0)), 0.7)(x, t, one))
    counted = Counted(denoise)
    Guidance(max_batch=8).of(counted, none, path)(x, t, one)
    assert (counted.calls, counted.samples) == (2, 16)


def test_momentum_in_the_spec_is_made_anew_for_each_solve():
    _, denoise, x, _, one, none = setting()
    choice = Guidance(scale=3.0, method=APG(momentum=-0.5))
    first, again = (solve(under(choice.of(denoise, none, Flow()), one), x, path=Flow(), steps=6) for _ in range(2))
    assert torch.equal(first, again)
    plain = Guidance(scale=3.0, method=APG()).of(denoise, none, Flow())
    without = solve(under(plain, one), x, path=Flow(), steps=6)
    assert float((first - without).abs().max()) > 1e-3


def test_the_spec_goes_through_json_and_refuses_what_cannot_be():
    choice = Guidance(scale=3.0, clean=1.0, interval=(0.2, 0.8), method=APG(norm=5.0), threshold="dynamic")
    assert from_dict(Guidance, json.loads(json.dumps(to_dict(choice)))) == choice
    for bad, said in (({"scales": 3}, "scales: is not a field"), ({"interval": [0.8, 0.2]}, "interval"),
                      ({"rescale": 2.0}, "rescale"), ({"method": {"kind": "cfg0"}}, "method"),
                      ({"method": {"kind": "apg", "norm": 0}}, "norm"), ({"percentile": 0}, "percentile")):
        with pytest.raises(UserError, match=said):
            from_dict(Guidance, bad)
