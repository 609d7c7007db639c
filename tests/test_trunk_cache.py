"""A causal trunk with a cache says what it says without; later frames change nothing earlier; clocks of frames."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from fromnoise.blocks import AttentionSpec, Cache, FeedForwardSpec, ModulationSpec, Perturbation
from fromnoise.nets.trunk import Learned, NoPositions, Relative, Rotary, SinCos, TextSpec, Trunk
from fromnoise.nets.trunk.presets import lumina2, qwen_image21
from fromnoise.types import Condition, UserError

B, L, T, C, SIDE = 2, 5, 4, 3, (4, 6)
BASE = Trunk(width=48, double=2, mask="causal", text=TextSpec(clean=True), attention=AttentionSpec(heads=2),
             positions=Rotary(axes=(8, 8, 8), words="before"))
SPECS = {
    "double": BASE,
    "single": replace(BASE, double=0, single=2),
    "double, single": replace(BASE, double=1, single=2, parallel=True),
    "refined": replace(BASE, double=0, single=2, refine=1),
    "words first": replace(BASE, positions=replace(BASE.positions, words="first")),
    "words after": replace(BASE, positions=replace(BASE.positions, words="after", centred=True)),
    "relative": replace(BASE, single=1, positions=Relative(reach=2)),
    "sincos": replace(BASE, positions=SinCos()),
    "nowhere": replace(BASE, positions=NoPositions(), token_shift=True, places=True),
    "shared clocks, grouped queries": replace(
        BASE, single=1, attention=AttentionSpec(heads=2, kv_heads=1),
        modulation=ModulationSpec(source="shared", shift=False, tanh_gate=True)),
    "qwen-image 2.1": replace(qwen_image21(48, 2, 2), patch=2, attention=AttentionSpec(heads=2)),
    "lumina2, made causal": replace(lumina2(48, 2, 1, 2, 1), mask="causal", text=TextSpec(norm=True, clean=True),
                                    feed_forward=FeedForwardSpec(gated=True, activation="silu")),
}


def network(spec, dtype=torch.float64):
    torch.manual_seed(0)
    net = spec.build(C, 16, None)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return net.to(dtype)


def inputs(dtype=torch.float64, padded=True):
    torch.manual_seed(1)
    mask = torch.arange(L) < torch.tensor([[3], [L]]) if padded else None
    return (torch.randn(B, T, C, *SIDE).to(dtype), torch.rand(B, T).to(dtype),
            Condition(text=torch.randn(B, L, 16).to(dtype), mask=mask))


def near(a, b, dtype=torch.float64):
    assert a.shape == b.shape
    assert float((a - b).detach().abs().max()) <= (1e-12 if dtype == torch.float64 else 1e-5) * float(b.abs().max())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SPECS)
@torch.no_grad()
def test_text_is_looked_at_once_over_many_noise_levels(name, dtype):
    net, (x, t, told) = network(SPECS[name], dtype), inputs(dtype)
    cache = Cache(hold=False)
    for i in range(T):
        now = x[:, i : i + 1], t[:, i : i + 1], told
        near(net(*now, cache=cache), net(*now), dtype)
    assert (cache.words, cache.frames) == (L, 0)
    assert all(k.shape[1] == L for k, _ in cache.pairs.values())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("name", SPECS)
@torch.no_grad()
def test_frames_rolled_out_are_those_of_the_masked_forward(name, padded, dtype):
    net, (x, t, told) = network(SPECS[name], dtype), inputs(dtype, padded)
    cache = Cache()
    for i in range(T):
        now, clean = x[:, i : i + 1], torch.zeros_like(t[:, :1])
        cache.hold = False
        said = net(now, t[:, i : i + 1], told, cache=cache)
        again = net(now, t[:, i : i + 1], told, cache=cache)  # nothing of the first look is left
        clocks = torch.cat([torch.zeros_like(t[:, :i]), t[:, i : i + 1]], dim=1)
        near(said, net(x[:, : i + 1], clocks, told)[:, i:], dtype)
        near(again, said, dtype)
        cache.hold = True
        net(now, clean, told, cache=cache)
    assert (cache.words, cache.frames) == (L, T)


@pytest.mark.parametrize("name", SPECS)
@torch.no_grad()
def test_frames_of_different_clocks_are_those_seen_one_after_another(name):
    net, (x, t, told) = network(SPECS[name]), inputs()
    cache = Cache()
    apart = [net(x[:, i : i + 1], t[:, i : i + 1], told, cache=cache) for i in range(T)]
    near(torch.cat(apart, dim=1), net(x, t, told))
    for first in (1, 2):  # several at once
        cache = Cache()
        apart = [net(x[:, part], t[:, part], told, cache=cache) for part in (slice(first), slice(first, T))]
        near(torch.cat(apart, dim=1), net(x, t, told))


@pytest.mark.parametrize("spec", [*SPECS.values(), replace(BASE, mask="full"), replace(
    BASE, mask="full", text=TextSpec())])
@torch.no_grad()
def test_equal_clocks_are_one_clock(spec):
    net, (x, t, told) = network(spec), inputs()
    near(net(x, t[:, :1].expand(B, T), told), net(x, t[:, :1], told))


@pytest.mark.parametrize("name", SPECS)
def test_what_comes_later_changes_nothing_earlier(name):
    net, (x, t, told) = network(SPECS[name]), inputs()
    x.requires_grad_()
    net(x, t, told)[:, 1].square().sum().backward()
    assert x.grad is not None
    assert float(x.grad[:, 2:].abs().max()) == 0
    assert all(float(x.grad[:, i].abs().max()) > 0 for i in range(2))


@torch.no_grad()
def test_padding_is_never_looked_at():
    net, (x, t, told) = network(BASE), inputs()
    other = replace(told, text=torch.where(told.mask[..., None], told.text, 100.0))
    near(net(x, t, other), net(x, t, told))
    one, two = Cache(), Cache()
    for i in range(T):
        near(net(x[:, i : i + 1], t[:, :1], other, cache=one), net(x[:, i : i + 1], t[:, :1], told, cache=two))


@torch.no_grad()
def test_a_net_without_text_rolls_out():
    torch.manual_seed(0)
    net = replace(BASE, double=0, single=2).build(C, None).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    (x, t, _), cache = inputs(), Cache()
    apart = [net(x[:, i : i + 1], t[:, i : i + 1], Condition(), cache=cache) for i in range(T)]
    near(torch.cat(apart, dim=1), net(x, t, Condition()))


@torch.no_grad()
def test_bfloat16_caches_bfloat16():
    net, (x, t, told) = network(BASE, torch.bfloat16), inputs(torch.bfloat16)
    cache = Cache()
    apart = torch.cat([net(x[:, i : i + 1], t[:, i : i + 1], told, cache=cache) for i in range(T)], dim=1)
    wide = told.map(lambda v: v.double() if v.is_floating_point() else v)
    exact = deepcopy(net).double()(x.double(), t.double(), wide)
    whole = net(x, t, told)
    assert apart.dtype == torch.bfloat16
    assert {k.dtype for k, _ in cache.pairs.values()} == {torch.bfloat16}
    assert float((apart - exact).abs().mean()) < 1.5 * float((whole - exact).abs().mean())  # no worse than rounding


def test_what_cannot_be_cached_is_refused():
    x, t, told = inputs()
    with pytest.raises(UserError, match="Only a causal network"):
        network(replace(BASE, mask="full"))(x, t, told, cache=Cache())
    with pytest.raises(UserError, match="no cache"):
        network(BASE)(x, t, told, Perturbation((0,)), cache=Cache())
    net, cache = network(SPECS["relative"]), Cache()
    net(x[:, :1], t[:, :1], told, cache=cache)
    with pytest.raises(UserError, match="one size"):
        net(x[:, :1, :, :2], t[:, :1], told, cache=cache)
    learned = network(replace(BASE, positions=Learned(places=T * 6, words=L)))
    learned(x, t, told)
    with pytest.raises(UserError, match="has learned 24 places"):
        learned(x[:, :1], t[:, :1], told, cache=Cache())


@pytest.mark.parametrize(("changes", "reason"), [
    ({"alone": 1}, "net.alone knows no mask"),
    ({"double": 0, "single": 2, "text": TextSpec(clean=True, pad_to=32),
      "positions": Rotary(axes=(8, 8, 8), words="first")}, "no frame owns"),
    ({"double": 0, "single": 2, "class_tokens": 4}, "choose one"),
    ({"modulation": ModulationSpec(source="none"), "head": "plain", "positions": NoPositions()}, "must be \"full\""),
])
def test_causal_trunks_refuse_what_has_no_causal_form(changes, reason):
    with pytest.raises(UserError, match=reason):
        replace(BASE, **changes).build(C, 16)
