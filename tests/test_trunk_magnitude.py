"""The magnitude-preserving trunk: what EDM2's layers promise, on tokens."""

from __future__ import annotations

from dataclasses import replace
from shutil import rmtree

import pytest
import torch

from fromnoise.blocks import AttentionSpec, Cache
from fromnoise.blocks.magnitude import UnitLinear
from fromnoise.nets.trunk import Learned, Relative, Rotary, Sprint, TextSpec, TimeSpec, Tread, Trunk
from fromnoise.recipe import Optimizer, without_effect
from fromnoise.recipes import shapes
from fromnoise.system import System
from fromnoise.text import Trained
from fromnoise.train import train
from fromnoise.train.mup import slower
from fromnoise.types import Condition, UserError

BASE = Trunk(width=64, attention=AttentionSpec(heads=4), single=12, magnitude=True)
ROTARY = Rotary(axes=(4, 6, 6))
TRUNKS = {
    "single": BASE, "rotary": replace(BASE, positions=ROTARY),
    "double": replace(BASE, single=6, double=6, time=TimeSpec(pooled="linear")),
    "read": replace(BASE, single=0, read=12),
    "refined": replace(BASE, refine=2, positions=Relative(reach=4)),
}


def inputs(spec: Trunk = BASE, B: int = 4, L: int = 6, T: int = 1) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    mask = torch.arange(L) < torch.tensor([L, L - 2] * (B // 2))[:, None]
    condition = Condition(text=torch.randn(B, L, 16), mask=mask, pooled=torch.randn(B, 20))
    return torch.randn(B, T, 3, 16, 16), torch.rand(B, T), condition


def loosened(net, gain: float = 0.3):
    """With modulation and output open, as training leaves them."""
    for name, p in net.named_parameters():
        if name.endswith(("gain", "gains")):
            p.data.fill_(gain)
    return net


@torch.no_grad()
@pytest.mark.parametrize("name", TRUNKS)
def test_activations_keep_unit_magnitude_through_depth(name):
    torch.manual_seed(0)
    net, sizes = loosened(TRUNKS[name].build(3, 16, 20)), []
    for stage in net.stages.values():
        for block in stage.blocks:
            block.register_forward_hook(lambda _, args, out: sizes.append(
                {key: float(x.square().mean().sqrt()) for key, x in out.items()}))
    output = net(*inputs())
    assert len(sizes) >= 12
    assert all(0.85 < size < 1.15 for each in sizes for key, size in each.items() if (name, key) != ("read", "text"))
    assert float(output.square().mean().sqrt()) == pytest.approx(0.3, rel=0.35)  # the gain


@torch.no_grad()
def test_scale_of_weights_means_nothing_and_the_output_starts_at_zero():
    torch.manual_seed(0)
    net, arguments = BASE.build(3, 16), inputs()
    assert not net(*arguments).any()
    before = loosened(net).eval()(*arguments)
    for module in net.modules():
        if isinstance(module, UnitLinear):
            module.weight.mul_(7.0)
    torch.testing.assert_close(net(*arguments), before, rtol=1e-3, atol=1e-3)


def test_weights_are_put_back_at_every_step():
    """After each step and the forward that follows, every row of every matrix has the root mean square 1."""
    torch.manual_seed(0)
    net, (x, t, condition) = loosened(replace(BASE, single=2).build(3, 16)), inputs()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    matrices = [m.weight for m in net.modules() if isinstance(m, UnitLinear)]
    assert len(matrices) == 4 + 2 * 5  # patches, text, time, head; heads and back, modulation, feed-forward
    for _ in range(3):
        net(x, t, condition).sub(x).square().mean().backward()
        for w in matrices:
            torch.testing.assert_close(w.square().mean(1), torch.ones(len(w)), atol=1e-3, rtol=0)
            along = (w.grad * w).sum(1) / (w.norm(dim=1) * w.grad.norm(dim=1) + 1e-12)
            assert float(along.abs().max()) < 1e-2  # gradients turn rows and never stretch them
        optimizer.step()
        optimizer.zero_grad()
        assert any(float((w.square().mean(1) - 1).abs().max()) > 1e-3 for w in matrices)  # what is then put back


@torch.no_grad()
def test_double_stream_with_tied_weights_is_single_stream():
    single, double = (loosened(replace(BASE, single=s, double=d).build(3, 16)) for s, d in ((2, 0), (0, 2)))
    weights = single.state_dict()
    double.load_state_dict({name: weights[name.replace("double_stream", "single_stream").replace(
        ".layers.text.", ".layers.all.").replace(".layers.picture.", ".layers.all.")] for name in double.state_dict()})
    arguments = inputs()
    torch.testing.assert_close(double(*arguments), single(*arguments))


@torch.no_grad()
def test_cached_equals_full():
    spec = replace(BASE, single=3, mask="causal", text=TextSpec(clean=True), positions=ROTARY)
    net, (x, t, condition) = loosened(spec.build(3, 16)).double().eval(), inputs(T=3)
    condition = Condition(condition.text.double(), condition.mask)
    x, t = x.double(), t.double() * torch.tensor([0.0, 0.0, 1.0])
    whole, cache = net(x, t, condition), Cache()
    parts = [net(x[:, i : i + 1], t[:, i : i + 1], condition, cache=cache) for i in range(3)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


@pytest.mark.parametrize(("changes", "says"), [
    ({"single": 0, "cross": 2}, "net.cross"), ({"parallel": True}, "net.parallel"),
    ({"sandwich": True}, "net.sandwich"),
    ({"positions": Learned()}, "learned positions"), ({"places": True}, "net.places"), ({"routing": Sprint()}, "tread"),
    ({"time": TimeSpec(numbers="size")}, "net.time.numbers"),
])
def test_what_has_no_such_form_is_refused(changes, says):
    with pytest.raises(UserError, match=says):
        replace(BASE, **changes).check()


def recipe_of(**changes):
    recipe = replace(shapes(), text=Trained(width=16, depth=1, max_length=8), net=replace(
        BASE, patch=8, width=32, single=2, attention=AttentionSpec(heads=2), **changes))
    optimizer = Optimizer(matrices="adamw", lr=1e-2, base_width=8)
    return replace(recipe, train=replace(recipe.train, steps=4, batch=4, threads=1, checkpoint_every=2, preview_every=0,
                                         optimizer=optimizer))


def test_a_run_is_the_same_after_a_resume(tmp_path):
    recipe = recipe_of(routing=Tread(start=0, stop=1))
    whole = train(recipe, tmp_path).system.state_dict()
    rmtree(tmp_path / "checkpoints" / "step-000004")
    result = train(recipe, tmp_path)
    assert result.steps_done == 2
    again = result.system.state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_half_of_mup_is_built_in():
    recipe = recipe_of()
    assert set(slower(System(recipe, recipe.text.learn_tokenizer(["a"]))).values()) == {2.0}  # sqrt(32 / 8)


def test_fields_without_effect_are_said():
    assert "net.norm" in without_effect(recipe_of())
    assert "net.norm" not in without_effect(replace(recipe_of(), net=replace(BASE, magnitude=False)))
