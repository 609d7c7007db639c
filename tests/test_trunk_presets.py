"""Every preset, small: what must hold of all, whether it has a peer or not; every weight re-randomised."""

from dataclasses import replace

import pytest
import torch

from fromnoise.blocks import AttentionSpec, FeedForwardSpec, JointBlock, ModulationSpec
from fromnoise.nets.trunk import Rotary, SinCos, TimeSpec, Trunk
from fromnoise.nets.trunk.attempts import ATTEMPTS
from fromnoise.nets.trunk.presets import dit, flux1, jit, pixart, pixart_sigma, prx, sana, sd3, sit, uvit
from fromnoise.types import Condition, UserError

SMALL = {
    "dit": dit(32, 2, 2, base=4), "sit": sit(32, 2, 2, base=4), "pixart": pixart(48, 4, 2, base=4),
    "pixart_sigma": pixart_sigma(48, 4, 2, base=4), "sana": sana(48, 6, 2, 4), "sprint": sana(48, 6, 2, 4, guided=True),
    "prx": prx(32, 2, 2), "prx pixels": prx(32, 2, 2, bottleneck=8, sized=True), "jit": jit(32, 2, 3, 2, bottleneck=8),
    "uvit": uvit(32, 2, 3, places=24, words=9), "sd3": sd3(32, 2, 2, base=4, table=16), "flux1": flux1(32, 2, 1, 2),
    **{name: make(32, 2, 3) for name, make in ATTEMPTS.items()},
}
NUMBERS = {"guidance": 1, "size_aspect": 3}


def reads(spec: Trunk) -> bool:
    """Whether the preset takes a text (the others take a class alone)."""
    return spec not in (SMALL["dit"], SMALL["sit"], SMALL["jit"])


def built(spec, random=True):
    pooled = None if spec.time.pooled == "none" else spec.width if spec.time.pooled == "add" else 20
    net = spec.build(3, 16 if reads(spec) else None, pooled).double()
    for p in net.parameters() if random else ():
        p.data = 0.2 * torch.randn(p.shape, dtype=torch.float64)
    return net, pooled


def inputs(spec, pooled, B=3, L=5):
    amount = NUMBERS.get(spec.time.numbers)
    condition = Condition(
        text=torch.randn(B, L, 16, dtype=torch.float64) if reads(spec) else None,
        pooled=None if pooled is None else torch.randn(B, pooled, dtype=torch.float64),
        numbers=None if amount is None else 1 + 5 * torch.rand(B, amount, dtype=torch.float64))
    return torch.randn(B, 1, 3, 8, 12, dtype=torch.float64), torch.rand(B, 1, dtype=torch.float64), condition


@pytest.fixture(params=SMALL)
def case(request):
    net, pooled = built(SMALL[request.param])
    return net, *inputs(net.spec, pooled)


@pytest.mark.parametrize("case", [name for name, spec in SMALL.items() if reads(spec)], indirect=True)
def test_padding_is_never_seen(case):
    net, x, t, condition = case
    junk = torch.cat([condition.text, 9 * torch.randn(3, 4, 16, dtype=torch.float64)], 1)
    mask = torch.arange(9).expand(3, 9) < 5
    padded = Condition(text=junk, mask=mask, pooled=condition.pooled, numbers=condition.numbers)
    torch.testing.assert_close(net(x, t, padded), net(x, t, condition))


def test_samples_of_a_batch_do_not_meet(case):
    net, x, t, condition = case
    order = [2, 0, 1]
    permuted = net(x[order], t[order], condition.map(lambda c: c[order]))
    torch.testing.assert_close(permuted, net(x, t, condition)[order])
    first = condition.map(lambda c: c[:1])
    changed = Condition.cat([first, condition.map(lambda c: c[1:] + 1)])
    torch.testing.assert_close(net(x, t, changed)[:1], net(x[:1], t[:1], first))


@torch.no_grad()
def test_time_and_every_part_of_the_condition_matter(case):
    net, x, t, condition = case
    plain = net(x, t, condition)
    assert float((net(x, 1 - t, condition) - plain).detach().abs().max()) > 1e-3
    for name, value in condition._held().items():
        other = Condition(**(condition._held() | {name: value + 1}))
        assert float((net(x, t, other) - plain).detach().abs().max()) > 1e-3, name


def test_every_weight_gets_a_gradient(case):
    net, x, t, condition = case
    net.whole(x, t, condition).square().sum().backward()
    missing = [name for name, p in net.named_parameters() if p.grad is None or float(p.grad.abs().sum()) == 0]
    assert missing == []


@pytest.mark.parametrize("name", SMALL)
def test_blocks_start_as_the_identity_and_the_output_at_zero(name):
    net, pooled = built(SMALL[name], random=False)
    moved = []
    for block in net.modules():
        if isinstance(block, JointBlock):
            block.register_forward_hook(lambda m, args, out: moved.extend(
                float((x - args[0][stream].x).detach().abs().max()) for stream, x in out.items()))
    y = net(*inputs(net.spec, pooled))
    assert moved
    assert max(moved) == 0
    assert float(y.detach().abs().max()) == 0


@pytest.mark.parametrize(("spec", "pooled", "reason"), [
    (SMALL["dit"], 20, "added to 32"),
    (SMALL["jit"], None, "there is none"),
])
def test_a_class_that_does_not_fit_is_refused(spec, pooled, reason):
    with pytest.raises(UserError, match=reason):
        spec.build(3, None, pooled)


@pytest.mark.parametrize(("name", "changes", "reason"), [
    ("jit", {"long_skips": True}, "do not go together"),
    ("jit", {"modulation": ModulationSpec(source="none"), "head": "plain", "positions": SinCos()}, "one of them here"),
    ("uvit", {"time": TimeSpec(network=False, waves=16)}, "as many net.time.waves as features, 32"),
    ("sana", {"feed_forward": FeedForwardSpec(gated=True, conv=True)}, "with silu and with biases alone"),
    ("jit", {"width": 36, "attention": AttentionSpec(heads=6), "positions": Rotary(axes=(2, 2), sincos=True)},
     "must add up to the size of a head, 6"),
    ("jit", {"width": 42, "attention": AttentionSpec(heads=7), "positions": Rotary(axes=(2, 4), sincos=True)},
     "multiple of 4"),
])
def test_fields_that_contradict_each_other_are_refused(name, changes, reason):
    with pytest.raises(UserError, match=reason):
        replace(SMALL[name], **changes).build(3, 16, 32)


def test_a_network_with_learned_places_takes_no_more_words_than_it_has_learned():
    net, _ = built(SMALL["uvit"])
    x, t, condition = inputs(net.spec, None, L=10)
    with pytest.raises(UserError, match="10 places for words and cannot take 11"):
        net(x, t, condition)


@torch.no_grad()
def test_prx_is_told_the_size_of_x_where_no_other_is_given():
    net, _ = built(SMALL["prx pixels"])
    x, t, condition = inputs(net.spec, None)
    numbers = torch.tensor([[8.0, 12.0]]).expand(3, 2)
    told = Condition(text=condition.text, numbers=numbers)
    torch.testing.assert_close(net(x, t, told), net(x, t, condition))
    other = Condition(text=condition.text, numbers=numbers.flip(1))
    assert float((net(x, t, other) - net(x, t, condition)).detach().abs().max()) > 1e-3


def test_jit_has_class_tokens_only_from_a_third_of_the_depth():
    net, pooled = built(SMALL["jit"])
    lengths = []
    for name in ("before", "single_stream"):
        for block in net.stages[name].blocks:
            block.register_forward_pre_hook(lambda m, args: lengths.append(len(args[0]["all"])))
    net(*inputs(net.spec, pooled))
    assert lengths == [24, 24 + 32, 24 + 32]


@torch.no_grad()
def test_long_skips_join_the_first_block_to_the_last():
    """U-ViT: with the skips' second halves at zero and the first the identity, they are as if not there."""
    net, _ = built(SMALL["uvit"])
    arguments = inputs(net.spec, None)
    stage = net.stages["single_stream"]
    assert len(stage.skips) == 1
    joined = net(*arguments)
    stage.skips[0].weight.copy_(torch.cat([torch.eye(32), torch.zeros(32, 32)], dim=1))
    stage.skips[0].bias.zero_()
    plain = net(*arguments)
    stage.skips = torch.nn.ModuleList()
    torch.testing.assert_close(net(*arguments), plain)
    assert float((joined - plain).abs().max()) > 1e-3
