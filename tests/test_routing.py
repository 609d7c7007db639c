"""Patches that go past blocks: what the others see, what comes back, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from shutil import rmtree

import pytest
import torch
from torch import Tensor

from fromnoise.blocks import AttentionSpec, FeedForwardSpec, ModulationSpec, Perturbation
from fromnoise.denoise import Denoiser, autoguidance, path_dropped
from fromnoise.nets.trunk import Learned, MaskDiT, Relative, Rotary, Route, Sprint, TextSpec, Tread, Trunk
from fromnoise.nets.trunk.presets import flux2, jit, lumina2, sana, uvit, z_image
from fromnoise.process import Flow, Uniform
from fromnoise.recipe import Recipe
from fromnoise.recipes import shapes
from fromnoise.text import Trained
from fromnoise.train import train
from fromnoise.train.loop import Hooks, Trainer
from fromnoise.types import Condition, UserError

D = 32
BASE = Trunk(width=D, attention=AttentionSpec(heads=2), single=4)
ROTARY = Rotary(axes=(4, 6, 6))
TRUNKS = {
    "single": BASE,
    "double": replace(BASE, single=0, double=4, positions=ROTARY, text_ends=True),
    "read": replace(BASE, single=0, read=4, positions=Rotary(axes=(8, 8), words="none")),
    "cross": replace(BASE, single=0, cross=4, modulation=ModulationSpec(source="table"), head="table", places=True),
    "relative": replace(BASE, positions=Relative(reach=3)),
    "causal": replace(BASE, mask="causal", text=TextSpec(clean=True), positions=ROTARY),
    "shared, causal": replace(BASE, mask="causal", text=TextSpec(clean=True),
                              modulation=ModulationSpec(source="shared")),
    "noise as a word": replace(BASE, modulation=ModulationSpec(source="none"), head="plain",
                               positions=Learned(places=30, words=8)),
    "alone": replace(BASE, single=0, double=4, alone=4),
    "double, then single": replace(BASE, single=3, double=1),
    "z_image": replace(z_image(D, 2, 4, 1), time=replace(z_image().time, width=D), text=TextSpec(norm=True, pad_to=8)),
    "lumina2": lumina2(D, 2, 1, 4, 1), "flux2": flux2(D, 2, 1, 3, guided=False),
}


def built(spec: Trunk, text: int = 16):
    net = spec.build(3, text).double()
    for p in net.parameters():
        p.data = 0.3 * torch.randn(p.shape, dtype=torch.float64)
    return net


def inputs(spec: Trunk, B: int = 2, L: int = 5) -> tuple[Tensor, Tensor, Condition]:
    T = 2 if spec.mask == "causal" else 1
    mask = torch.arange(L) < torch.tensor([[L], [L - 2]])
    condition = Condition(text=torch.randn(B, L, 16, dtype=torch.float64), mask=mask)
    x = torch.randn(B, T, 3, 10 // T, 12, dtype=torch.float64)[..., : 10 // T // 2 * 2, :]
    return x, torch.rand(B, T, dtype=torch.float64), condition


def patches(x: Tensor) -> int:
    return x.shape[1] * x.shape[3] * x.shape[4] // 4


def routed(spec: Trunk, routing) -> Trunk:
    return replace(spec, routing=routing)


def drawn(x: Tensor, keep: int) -> Route:
    """Another choice for every sample."""
    return Route(torch.stack([torch.randperm(patches(x))[:keep].sort().values for _ in x]))


def all_of(x: Tensor) -> Route:
    return drawn(x, patches(x))


@torch.no_grad()
@pytest.mark.parametrize("kind", [Tread(), Sprint(), MaskDiT(decoder=3)], ids=lambda k: k.kind)
@pytest.mark.parametrize("name", TRUNKS)
def test_a_route_of_all_patches_is_no_route(name, kind):
    if kind.kind == "maskdit" and TRUNKS[name].double and TRUNKS[name].single:
        kind = MaskDiT(decoder=TRUNKS[name].single)
    net, arguments = built(routed(TRUNKS[name], kind)), inputs(TRUNKS[name])
    torch.testing.assert_close(net(*arguments, route=all_of(arguments[0])), net(*arguments))
    if kind.kind == "tread":
        plain = TRUNKS[name].build(3, 16).double()
        plain.load_state_dict(net.state_dict())
        assert torch.equal(plain(*arguments), net(*arguments))


def hide(block, hidden: Tensor, places: int):
    """The slow twin of a routed block: nobody sees the hidden tokens, and they stay as they are."""
    usual = block.forward

    def forward(streams, around):
        words = sum(len(part) for part in streams.values()) - places
        beyond = torch.zeros(len(hidden), places - hidden.shape[1], dtype=torch.bool)
        gone = torch.cat([torch.zeros(len(hidden), words, dtype=torch.bool), hidden, beyond], dim=1)
        bias = torch.zeros(len(hidden), 1, 1, words + places, dtype=torch.float64).masked_fill(
            gone[:, None, None], float("-inf"))
        mask = around.mask
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, float("-inf"))
        out = usual(streams, replace(around, mask=bias if mask is None else bias + mask))
        for name, part in streams.items():
            if name != "text":
                out[name] = torch.where(gone[:, -part.x.shape[1] :, None], part.x, out[name])
        return out

    block.forward = forward


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in TRUNKS if name != "alone"])  # whose second attention has no mask
def test_kept_patches_see_what_a_network_of_them_alone_would_see(name):
    """Against a network in which the others are hidden from everyone: masks, places, clocks and biases follow."""
    spec = routed(TRUNKS[name], Tread(start=1, stop=3))
    net, (x, t, condition) = built(spec), inputs(spec)
    route = drawn(x, 11)
    got, plain = net(x, t, condition, route=route), net(x, t, condition)
    places = -(-patches(x) // spec.text.pad_to) * spec.text.pad_to if spec.text.pad_to else patches(x)
    for stage in net.stages.values():
        for block in stage.blocks:
            if block.index in (1, 2):
                hide(block, route.hidden(patches(x)), places)
    torch.testing.assert_close(got, net(x, t, condition))
    assert not torch.allclose(got, plain)


def jacobian_seen(net, arguments, route: Route, patch: int) -> Tensor:
    """``[patches]``: how much every patch of the input moves one patch of the output, of the first sample."""
    x, t, condition = arguments
    x = x.clone().requires_grad_()
    columns = x.shape[4] // 2
    row, column = 2 * (patch // columns), 2 * (patch % columns)
    net(x, t, condition, route=route)[0, 0, :, row : row + 2, column : column + 2].square().sum().backward()
    moved = x.grad[0, 0].square().sum(0)
    return moved.unfold(0, 2, 2).unfold(1, 2, 2).sum((-1, -2)).flatten()


def test_no_gradient_leads_from_dropped_patches_through_routed_blocks():
    """With all blocks routed a kept patch hears of kept patches alone, and a dropped one of itself alone."""
    spec = routed(replace(BASE, single=3), Tread(start=0, stop=3))
    net, arguments = built(spec), inputs(spec)
    route = drawn(arguments[0], 11)
    hidden = route.hidden(30)[0]
    kept = jacobian_seen(net, arguments, route, int(route.keep[0, 4]))
    assert torch.equal(kept > 0, ~hidden)
    one = int(hidden.nonzero()[3])
    dropped = jacobian_seen(net, arguments, route, one)
    assert (dropped > 0).nonzero().flatten().tolist() == [one]


@torch.no_grad()
def test_maskdit_begins_without_the_dropped_patches():
    spec = routed(BASE, MaskDiT(decoder=1))
    net, (x, t, condition) = built(spec), inputs(spec)
    route = drawn(x, 11)
    hidden = route.hidden(30).view(2, 1, 1, 5, 6).repeat_interleave(2, 3).repeat_interleave(2, 4)
    other = torch.where(hidden, torch.randn_like(x), x)
    torch.testing.assert_close(net(other, t, condition, route=route), net(x, t, condition, route=route))
    assert not torch.allclose(net(other, t, condition), net(x, t, condition))
    output = net(x, t, condition, route=route)[0, 0].unfold(1, 2, 2).unfold(2, 2, 2).flatten(1, 2)
    first, second = hidden[0, 0, 0, ::2, ::2].flatten().nonzero()[:2, 0].tolist()
    assert not torch.allclose(output[:, first], output[:, second])  # masks know their places


def test_losses_of_maskdit():
    """Each mean over its own patches, one at a time."""
    spec, route = MaskDiT(weight=0.3), Route(torch.tensor([[0, 3], [1, 2]]))
    losses, output, x = torch.rand(3, 2, 1, 3, 4, 4).unbind(0)
    got = spec.losses(losses, output, x, route, 2)
    seen, unseen = [], []
    for b in range(2):
        for patch in range(4):
            where = (b, slice(None), slice(None), slice(patch // 2 * 2, patch // 2 * 2 + 2),
                     slice(patch % 2 * 2, patch % 2 * 2 + 2))
            if patch in route.keep[b]:
                seen.append(losses[where].mean())
            else:
                unseen.append((output[where] - x[where]).square().mean())
    torch.testing.assert_close(got.mean(), torch.stack(seen).mean() + 0.3 * torch.stack(unseen).mean())
    whole = Route(torch.arange(4).expand(2, -1))
    torch.testing.assert_close(spec.losses(losses, output, x, whole, 2), losses)


@torch.no_grad()
@pytest.mark.parametrize("name", ["single", "double", "z_image", "cross"])
def test_a_dropped_path_is_the_network_without_its_middle(name):
    """In training, of some samples; in path-drop guidance of all, whose middle blocks are then not run."""
    spec = routed(TRUNKS[name], Sprint(start=1, stop=3))
    net, (x, t, condition) = built(spec), inputs(spec)
    some = replace(drawn(x, 7), dropped=torch.tensor([False, True]))
    none = Route.past(2, x.device)
    got, without, kept = (net(x, t, condition, route=r) for r in (some, none, replace(some, dropped=None)))
    torch.testing.assert_close(got[1], without[1])
    torch.testing.assert_close(got[0], kept[0])
    assert not torch.allclose(got[0], without[0])
    for stage in net.stages.values():
        for block in stage.blocks:
            if block.index in (1, 2):
                block.forward = None  # not run
    denoiser = Denoiser(net, Flow(), "x0")
    torch.testing.assert_close(path_dropped(denoiser)(x, t, condition), without)


@torch.no_grad()
def test_path_drop_guidance():
    spec = routed(BASE, Sprint())
    denoiser, (x, t, condition) = Denoiser(built(spec), Flow(), "x0"), inputs(spec)
    weak = path_dropped(denoiser)
    guided = autoguidance(denoiser, weak, 1.5)(x, t, condition)
    d, w = denoiser(x, t, condition), weak(x, t, condition)
    torch.testing.assert_close(guided, w + 1.5 * (d - w))
    with pytest.raises(UserError, match="sprint"):
        path_dropped(Denoiser(built(BASE), Flow(), "x0"))


def test_sprint_starts_as_the_mean_of_both_depths():
    net = routed(BASE, Sprint()).build(3, 16)
    both = torch.randn(3, 2 * D)
    torch.testing.assert_close(net.detour.fuse(both), (both[:, :D] + both[:, D:]) / 2)


def test_draws_are_even_and_another_for_each_sample():
    routing = Tread(rate=0.4)
    hidden = torch.stack([routing.draw(8, 30, torch.Generator().manual_seed(i)).hidden(30) for i in range(400)])
    assert bool((hidden.sum(-1) == 12).all())
    assert float((hidden.double().mean((0, 1)) - 0.4).abs().max()) < 0.04
    assert not torch.equal(hidden[0, 0], hidden[0, 1])
    dropped = Sprint(drop=0.25).draw(20_000, 4, torch.Generator().manual_seed(0)).dropped
    assert float(dropped.double().mean()) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(("spec", "says"), [
    (routed(BASE, Tread(start=3, stop=2)), "0 to 3"), (routed(BASE, Tread(stop=9)), "0 to 3"),
    (routed(BASE, MaskDiT(decoder=4)), "0 to 3"), (routed(replace(BASE, token_shift=True), Tread()), "token_shift"),
    (routed(replace(BASE, double=2), Tread(start=1, stop=4)), "one kind"),
    (routed(jit(32, 2, 6, bottleneck=8), Tread(start=1, stop=4)), "one kind"),
    (routed(sana(48, 6, 4, 4), Tread()), "feed_forward.conv"),
    (routed(uvit(32, 2, 5, places=24, words=9), Tread()), "long_skips"),
])
def test_what_cannot_be_routed_is_refused(spec, says):
    with pytest.raises(UserError, match=says):
        spec.check()


def test_a_route_needs_routing_and_nothing_disturbed():
    x, t, condition = inputs(BASE)
    with pytest.raises(UserError, match="no routed blocks"):
        built(BASE)(x, t, condition, route=all_of(x))
    with pytest.raises(UserError, match="disturbed"):
        built(routed(BASE, Tread()))(x, t, condition, Perturbation((1,)), route=all_of(x))


# ---- training --------------------------------------------------------------------------------------


def recipe_of(routing, **training) -> Recipe:
    net = Trunk(patch=8, width=32, attention=AttentionSpec(heads=2), feed_forward=FeedForwardSpec(ratio=1.0), single=3,
                routing=routing)
    recipe = replace(shapes(), net=net, text=Trained(width=16, depth=1, max_length=8))
    settings = {"steps": 6, "batch": 4, "threads": 1, "checkpoint_every": 3, "preview_every": 0, **training}
    return replace(recipe, train=replace(recipe.train, **settings))


@pytest.mark.parametrize("routing", [Tread(), Sprint(drop=0.3), MaskDiT()], ids=lambda k: k.kind)
def test_training_with_routes_is_the_same_after_a_resume(routing, tmp_path):
    whole = train(recipe_of(routing), tmp_path).system.state_dict()
    rmtree(tmp_path / "checkpoints" / "step-000006")
    result = train(recipe_of(routing), tmp_path)
    assert result.steps_done == 3
    resumed = result.system.state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_routes_are_a_function_of_seed_and_step_and_end_with_until(tmp_path):
    method = Trainer(recipe_of(Tread(until=0.5)), tmp_path, Hooks()).method
    x = torch.zeros(4, 1, 3, 32, 32)
    assert torch.equal(method.route(x, 0, 1).keep, method.route(x, 0, 1).keep)
    assert not torch.equal(method.route(x, 0, 1).keep, method.route(x, 0, 2).keep)
    assert not torch.equal(method.route(x, 0, 1).keep, method.route(x, 1, 1).keep)
    assert method.route(x, 0, 2) is not None
    assert method.route(x, 0, 3) is None


def test_routed_training_differs_from_plain(tmp_path):
    """The losses of a step, with everything else drawn alike."""
    losses = {}
    for routing in (Tread(rate=0.0), Tread(), MaskDiT(rate=0.0), MaskDiT()):
        recipe = recipe_of(routing)
        recipe = replace(recipe, objective=replace(recipe.objective, times=Uniform()))
        trainer = Trainer(recipe, tmp_path, Hooks())
        torch.manual_seed(0)
        for name, p in trainer.system.named_parameters():
            if "detour" not in name:
                p.data = 0.2 * torch.randn(p.shape)
        losses[routing] = float(trainer.method.loss(trainer.fetch(0), 0, 0).detach())
    none, tread, still_none, masked = losses.values()
    assert none == pytest.approx(still_none)
    assert len({round(loss, 4) for loss in (none, tread, masked)}) == 3
