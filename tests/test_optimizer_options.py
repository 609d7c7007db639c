"""Shifted times, rates that decay or follow the width, and Muon against torch's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.optim import _muon

from fromnoise.blocks import AttentionSpec, attend_heads
from fromnoise.blocks.heads import CrossAttention, Heads
from fromnoise.nets import Trunk, UNet, house
from fromnoise.nets.published import published
from fromnoise.process import VE, VP, Flow, LogNormal, LogUniform, Objective, Uniform
from fromnoise.recipe import Optimizer, Recipe
from fromnoise.recipes import shapes
from fromnoise.system import System
from fromnoise.text import Trained
from fromnoise.train.mup import slower
from fromnoise.train.optim import Muon, build_optimizers, orthogonalise, rate
from fromnoise.types import Condition, UserError

# ---- shifted times ---------------------------------------------------------------------------------


def test_shifted_times_on_the_flow_path_are_sd3s():
    u, s = torch.linspace(0, 1, 101, dtype=torch.float64), 3.0
    shifted = Objective(times=Uniform(), shift=s).law
    torch.testing.assert_close(shifted.times(u, Flow()), s * u / (1 + (s - 1) * u))
    t = u[1:-1]
    clock = shifted.density(t, Flow()) * Flow().logsnr_dot(t).abs()
    torch.testing.assert_close(clock, s / (s + (1 - s) * t).square())  # its derivative, inverted
    normal = Objective(times=LogNormal(mean=-0.3, std=1.2), shift=s).law
    moved = LogNormal(mean=-0.3 + torch.tensor(s).log().item(), std=1.2)
    torch.testing.assert_close(normal.times(t, Flow()), moved.times(t, Flow()))
    torch.testing.assert_close(normal.density(t, Flow()), moved.density(t, Flow()))


@pytest.mark.parametrize("path", [VP(), VE(), Flow()], ids=lambda p: p.kind)
@pytest.mark.parametrize("shift", [0.4, 2.5])
@pytest.mark.parametrize("law", [Uniform(), LogNormal(mean=1.0, std=2.0)], ids=lambda s: s.kind)
def test_shifted_times_are_cut_where_the_path_ends(path, shift, law):
    shifted = Objective(times=law, shift=shift).law
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)
    t = shifted.times(u, path)
    inner = t[1:-1]
    assert bool((inner.diff() > 0).all())  # no heap at an end
    torch.testing.assert_close(shifted.quantile_of(inner, path), u[1:-1], atol=1e-6, rtol=1e-5)
    lambdas = path.logsnr(t[100:901:100])
    for low, high in zip(lambdas[1:], lambdas[:-1], strict=True):
        grid = torch.linspace(float(low), float(high), 400, dtype=torch.float64)
        assert float(torch.trapezoid(shifted.density(path.time(grid), path), grid)) == pytest.approx(0.1, rel=2e-3)


def test_no_shift_is_the_law_itself():
    assert Objective().law is Objective().times
    with pytest.raises(UserError, match="nothing in common"):
        Objective(times=LogUniform(low=-3, high=3), shift=1e9).draw_times(4, VE(), torch.Generator())


# ---- rates -----------------------------------------------------------------------------------------


def test_rates_decay_as_the_inverse_square_root():
    """EDM2, eq. 67: lr / sqrt(max(t / t_ref, 1))."""
    spec = Optimizer(warmup=0, cooldown=0.0, decay_after=100)
    assert [rate(s, 1000, spec) for s in (0, 50, 100)] == [1.0, 1.0, 1.0]
    assert rate(400, 1000, spec) == pytest.approx(0.5)
    assert rate(900, 1000, spec) == pytest.approx(1 / 3)
    cooled = replace(spec, cooldown=0.5)
    assert rate(900, 1000, cooled) == pytest.approx(0.2 / 3)


# ---- Muon ------------------------------------------------------------------------------------------


def walk(optimizer_of, steps: int = 5) -> list[torch.Tensor]:
    """Where a few matrices are after some steps along fixed gradients."""
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(shape, generator=generator).requires_grad_() for shape in ((12, 12), (24, 8), (8, 24))]
    optimizer = optimizer_of(matrices)
    for _ in range(steps):
        for p in matrices:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return [p.detach() for p in matrices]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_muon_is_torchs(decay, monkeypatch):
    """Momentum, scale of the update and weight decay are those of ``torch.optim.Muon`` in float32."""
    theirs = walk(lambda p: torch.optim.Muon(p, lr=0.02, weight_decay=decay, momentum=0.95))
    ours = walk(lambda p: Muon(p, lr=0.02, weight_decay=decay, momentum=0.95))
    for a, b in zip(ours, theirs, strict=True):
        assert float((a - b).abs().max()) < 5 * 0.02 * 3**0.5 * 2e-2  # they orthogonalise in bfloat16
    monkeypatch.setattr(_muon, "_zeropower_via_newtonschulz", lambda grad, *_: orthogonalise(grad))
    exact = walk(lambda p: torch.optim.Muon(p, lr=0.02, weight_decay=decay, momentum=0.95))
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


# ---- muP -------------------------------------------------------------------------------------------


def recipe_of(width: int, base: int = 0, **optimizer) -> Recipe:
    """A small trunk on shapes, with as many heads of 16 as its width holds."""
    net = Trunk(patch=8, width=width, attention=AttentionSpec(heads=width // 16), single=2)
    spec = Optimizer(**{"matrices": "adamw", "lr": 1e-2, **optimizer}, base_width=base)
    recipe = shapes()
    return replace(recipe, net=net, text=Trained(width=16, max_length=8), train=replace(recipe.train, optimizer=spec))


def system_of(recipe: Recipe) -> System:
    return System(recipe, recipe.text.learn_tokenizer(["a red circle"]))


def moved(width: int, base: int, steps: int = 4) -> float:
    """How far a few steps of Adam move the trunk's last features (their root mean square)."""
    recipe = recipe_of(width, base)
    system = system_of(recipe)
    net = system.denoiser.net
    (optimizer,) = build_optimizers(net, recipe.train.optimizer,
                                    {name.removeprefix("denoiser.net."): by for name, by in slower(system).items()})
    random = torch.Generator().manual_seed(0)
    x, goal = (torch.randn(4, 1, 3, 32, 32, generator=random) for _ in range(2))
    condition = Condition(torch.randn(4, 6, 16, generator=random), torch.ones(4, 6, dtype=torch.bool))
    t = torch.rand(4, 1, generator=random)
    seen: list[torch.Tensor] = []
    net.head.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    for _ in range(steps):
        net(x, t, condition).sub(goal).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return float((seen[-1] - seen[0]).square().mean().sqrt())


def test_coordinate_check():
    """With muP features move alike at all widths; without, they move the more the wider the network is."""
    widths = (32, 128, 512)
    by_rule, without = [moved(w, 32) for w in widths], [moved(w, 0) for w in widths]
    assert by_rule[0] == without[0]
    assert max(by_rule) / min(by_rule) < 1.5, by_rule
    assert without[2] / without[0] > 4, without


def test_at_the_base_width_the_rule_is_off():
    recipe = recipe_of(64, 64, weight_decay=0.1)
    off, on = system_of(recipe_of(64)), system_of(recipe)
    assert slower(on) == slower(off) == {}
    (a,), (b,) = (build_optimizers(s, recipe.train.optimizer, slower(s)) for s in (off, on))
    assert [len(g["params"]) for g in a.param_groups] == [len(g["params"]) for g in b.param_groups]


def test_what_follows_the_width_is_what_has_more_inputs():
    system = system_of(recipe_of(64, 16, weight_decay=0.1))
    found = slower(system)
    assert set(found.values()) == {4.0}
    names = {name.removeprefix("denoiser.net.") for name in found}
    assert {"head.out.weight", "time_in.time.2.weight"} <= names
    assert {"stages.single_stream.blocks.0.layers.all." + part for part in (
        "heads.qkv.weight", "heads.out.weight", "feed_forward.inner.weight", "modulation.map.weight")} <= names
    assert not names & {"patch_in.weight", "text_in.map.weight", "time_in.time.0.weight", "head.out.bias"}
    assert not any(name.startswith("text.") for name in found)
    (adamw,) = build_optimizers(system, system.recipe.train.optimizer, found)
    assert [(g["lr"], g["weight_decay"]) for g in adamw.param_groups] == [(1e-2, 0.1), (2.5e-3, pytest.approx(0.4))]
    ids = [id(p) for g in adamw.param_groups for p in g["params"]]
    assert sorted(ids) == sorted(id(p) for p in system.parameters())


@pytest.mark.parametrize("net", [house(), UNet(), published("sd3")(width=96, heads_=4, depth=2)],
                         ids=["transformer", "unet", "sd3"])
def test_every_net_can_follow_its_width(net):
    recipe = replace(shapes(), net=net)
    recipe = replace(recipe, train=replace(recipe.train, optimizer=Optimizer(base_width=16)))
    found = slower(system_of(recipe))
    assert len(found) > 3
    assert all(by == net.width / 16 for by in found.values())


def test_a_net_that_cannot_be_widened_is_refused():
    recipe = replace(shapes(), net=published("uvit")(width=96, heads_=4, depth=3))
    recipe = replace(recipe, train=replace(recipe.train, optimizer=Optimizer(base_width=48)))
    with pytest.raises(UserError, match="twice as wide"):
        slower(system_of(recipe))


@torch.no_grad()
def test_wide_heads_have_muPs_logits():
    """q k / d, which at heads of base_dim is q k / sqrt(d)."""
    x = torch.randn(2, 5, 32)
    plain, scaled = (Heads(32, AttentionSpec(heads=2, qk_norm="none", base_dim=base)) for base in (0, 4))
    scaled.load_state_dict(plain.state_dict())
    q, k, v = plain.ask(x, None)
    got = attend_heads(*scaled.ask(x, None))
    logits = torch.einsum("bqhd,bkhd->bhqk", q, k) * 4**0.5 / 16
    torch.testing.assert_close(got, torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), v).flatten(2))
    same = AttentionSpec(heads=2, base_dim=16)
    assert same.logit_scale(16) == 1
    cross, text = CrossAttention(32, AttentionSpec(heads=2, base_dim=4)), torch.randn(2, 3, 32)
    usual = CrossAttention(32, AttentionSpec(heads=2))
    usual.load_state_dict(cross.state_dict())
    usual.q_norm.weight.mul_(0.5)
    torch.testing.assert_close(cross(x, text, None), usual(x, text, None))
