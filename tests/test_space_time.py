"""Networks over space and time: layers along time, inflation, causality and caches, in the trunk and in the U-Net."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fromnoise.blocks import (
    Around,
    AttentionSpec,
    Cache,
    Clock,
    FeedForwardSpec,
    Frames,
    Perturbation,
    TemporalLayer,
    TemporalSpec,
    Tokens,
)
from fromnoise.nets import UNet, count, house
from fromnoise.nets.tap import Tap
from fromnoise.nets.trunk import NoPositions, Relative, Rotary, SinCos, TextSpec, Tread, Trunk
from fromnoise.nets.trunk.presets import jit, lumina2, pixart, prx, sd3, uvit, z_image
from fromnoise.nets.trunk.settings import Temporal
from fromnoise.nets.unet import TemporalLevels
from fromnoise.types import Condition, UserError

B, L, T, C, SIDE = 2, 5, 4, 3, (4, 8)
TURNED = 1e-8  # turns are kept in float32
KINDS = {
    "rotary": {}, "causal": {"causal": True}, "learned offsets": {"reach": 2},
    "learned offsets, causal": {"reach": 2, "causal": True}, "pseudo-3D": {"kernel": 3},
    "pseudo-3D, causal": {"kernel": 3, "causal": True}, "even, causal": {"kernel": 2, "causal": True},
    "feed-forward": {"ratio": 2.0},
}
BASE = Trunk(width=48, single=2, attention=AttentionSpec(heads=2), positions=Rotary(axes=(8, 8, 8)))
TRUNKS = {
    "single": BASE,
    "double, single": replace(BASE, single=1, double=1, text=TextSpec(clean=True)),
    "causal words": replace(BASE, mask="causal", text=TextSpec(clean=True)),
    "house": house(48, 2, 2, 2),
    "sincos, two streams, relative": replace(BASE, single=0, double=2, positions=Relative(reach=2)),
    "refined": lumina2(48, 2, 1, 2, 1),
    "padded": z_image(48, 2, 2, 1),
    "cross": pixart(48, 2, 2, sized=False),
    "read": prx(48, 2, 2, 2),
    "text ends": sd3(48, 2, 2),
    "long skips": replace(uvit(48, 2, 3), positions=NoPositions()),
    "class tokens": replace(jit(48, 2, 3), patch=2, class_from=1, class_tokens=2, bottleneck=0),
}
UNETS = {
    "joint": UNet(width=16, multipliers=(1, 2), groups=4, heads=2, depths=(0, 1)),
    "every residual block": UNet(width=16, multipliers=(1, 2), groups=4, heads=2, blocks=2, middle="residual",
                                 attention="plain", skips="all", resample="conv", depths=(1, 0)),
    "words": UNet(width=16, multipliers=(1, 2), groups=4, heads=2, attention="spatial", depths=(1, 1)),
    "transformer": UNet(width=16, multipliers=(1, 2), groups=4, heads=2, middle="transformer", resample="project",
                        skips="add"),
}


def along(spec, **kind):
    """The spec with layers along time wherever there can be some."""
    if isinstance(spec, UNet):
        return replace(spec, temporal=TemporalLevels(levels=(0, 1), **kind))
    return replace(spec, temporal=Temporal(every=1, **kind))


def randomised(module, std=0.2):
    for p in module.parameters():
        torch.nn.init.normal_(p, std=std)
    return module


def network(spec, seed=0):
    torch.manual_seed(seed)
    return randomised(spec.build(C, 16, 48)).double()


def inputs(frames=T, clocks=True):
    torch.manual_seed(1)
    told = Condition(text=torch.randn(B, L, 16).double(), mask=torch.arange(L) < torch.tensor([[3], [L]]),
                     pooled=torch.randn(B, 48).double())
    t = torch.rand(B, frames).double()
    return torch.randn(B, frames, C, *SIDE).double(), t if clocks else t[:, :1].expand(B, frames), told


def near(a, b, within=1e-12):
    assert a.shape == b.shape
    assert float((a - b).detach().abs().max()) <= within * float(b.detach().abs().max())


# ---- the layer -------------------------------------------------------------------------------------------------


def equation(layer, spec, x, signal):
    """What ``TemporalLayer`` says of ``[B, T, N, D]``, written with einsum and without any of its blocks."""
    frames, width = x.shape[1], x.shape[-1]

    def norm(x):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()

    def rms(x):
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    if spec.kernel:
        before = spec.kernel - 1 if spec.causal else spec.kernel // 2
        h, said = norm(x), layer.conv.bias.expand_as(x).clone()
        for i in range(frames):
            for k in range(spec.kernel):
                if 0 <= i + k - before < frames:
                    said[:, i] += torch.einsum("bnd,ed->bne", h[:, i + k - before], layer.conv.weight[:, :, k, 0])
        x = x + said
    scale, shift = (signal @ layer.modulation.weight.T + layer.modulation.bias).chunk(2, dim=-1)
    h = (1 + scale[:, :, None]) * norm(x) + shift[:, :, None]
    q, k, v = torch.einsum("btnd,ced->cbtne", h, layer.heads.qkv.weight).unflatten(-1, (2, -1))
    q, k = rms(q) * layer.heads.q_norm.weight, rms(k) * layer.heads.k_norm.weight
    d = width // 2
    if not spec.reach:
        angle = torch.arange(frames)[:, None] * spec.theta ** -(torch.arange(0, d, 2).double() / d)
        by = torch.exp(1j * angle)[None, :, None, None]
        q, k = (torch.view_as_real(torch.view_as_complex(y.unflatten(-1, (-1, 2)).contiguous()) * by).flatten(-2)
                for y in (q, k))
    logits = torch.einsum("bqnhd,bknhd->bnhqk", q, k) / math.sqrt(d)
    for i in range(frames):
        for j in range(frames):
            if spec.reach:
                logits[..., i, j] += 10 * layer.bias.table[:, min(max(i - j, -spec.reach), spec.reach) + spec.reach]
            if spec.causal and j > i:
                logits[..., i, j] = -torch.inf
    y = torch.einsum("bnhqk,bknhd->bqnhd", logits.softmax(-1), v).flatten(-2)
    x = x + y @ layer.heads.out.weight.T
    if spec.ratio:
        hidden = F.gelu(norm(x) @ layer.feed_forward.inner.weight.T, approximate="tanh")
        x = x + hidden @ layer.feed_forward.outer.weight.T
    return x


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_a_layer_along_time_is_its_equation(name):
    torch.manual_seed(0)
    spec = TemporalSpec(**KINDS[name])
    layer = randomised(TemporalLayer(24, 10, AttentionSpec(heads=2), spec)).double()
    x, signal = torch.randn(B, 5, 3, 24).double(), torch.randn(B, 5, 10).double()
    said = layer(x.flatten(0, 1), Frames.of(5, signal, spec.causal)).unflatten(0, (B, 5))
    near(said, equation(layer, spec, x, signal), TURNED)


@torch.no_grad()
def test_rotary_positions_along_time_know_offsets_alone():
    torch.manual_seed(0)
    layer = randomised(TemporalLayer(24, 10, AttentionSpec(heads=2), TemporalSpec())).double()
    x, signal = torch.randn(B * 6, 3, 24).double(), torch.randn(B, 6, 10).double()
    near(layer(x, Frames(6, signal, first=500)), layer(x, Frames(6, signal)), TURNED)


@pytest.mark.parametrize("name", sorted(TRUNKS.keys() - {"long skips"}))  # in which every clock is a word
@torch.no_grad()
def test_frames_with_one_clock_each_are_frames_with_one_for_all(name):
    net, (x, t, told) = network(TRUNKS[name]), inputs()
    near(net(x, t[:, :1].expand(B, T), told), net(x, t[:, :1], told), 1e-11)
    assert float((net(x, t, told) - net(x, t[:, :1], told)).abs().max()) > 1e-6


# ---- the trunk -------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_factorised_trunk_is_its_blocks_on_every_frame_and_then_layers_along_time():
    spec = along(replace(BASE, positions=SinCos()), causal=True)
    net, (x, t, _) = network(replace(spec, temporal=replace(spec.temporal, every=2), single=4)), inputs()
    tokens = torch.stack([net.patches(x[:, i : i + 1], Condition(), (1, 2, 4)) for i in range(T)], dim=1)
    signal = F.silu(net.time_in(t, Condition(), torch.float64))
    for i, block in enumerate(net.taps):
        tokens = torch.stack([block({"all": Tokens(tokens[:, f], Clock(signal[:, f : f + 1]))}, Around())["all"]
                              for f in range(T)], dim=1)
        if i % 2:
            tokens = equation(net.temporal[str(i)], net.spec.temporal, tokens, signal)
    features = net.time_in(t, Condition(), torch.float64)
    out = torch.cat([net.head(tokens[:, f], Clock(features[:, f : f + 1])) for f in range(T)], dim=1)
    expected = out.view(B, T, 2, 4, C, 2, 2).permute(0, 1, 4, 2, 5, 3, 6).reshape(B, T, C, *SIDE)
    near(net(x, t, Condition()), expected, TURNED)


@pytest.mark.parametrize("name", [*TRUNKS, *UNETS])
@torch.no_grad()
def test_an_inflated_network_says_of_every_frame_what_it_says_of_a_picture(name):
    """At the start, whatever the image model's weights are; and not any more when its layers have learned."""
    spec = {**TRUNKS, **UNETS}[name]
    image, film = network(spec), along(spec, ratio=2.0, kernel=3).build(C, 16, 48).double()
    own = {key: value for key, value in film.state_dict().items() if key.startswith("temporal.")}
    assert own
    assert film.load_state_dict(image.state_dict() | own)
    x, t, told = inputs()
    apart = torch.cat([image(x[:, i : i + 1], t[:, i : i + 1], told) for i in range(T)], dim=1)
    near(film(x, t, told), apart)
    if name != "transformer":  # where what the layer is given lies otherwise in memory, and is summed in another order
        assert torch.equal(film(x[:, :1], t[:, :1], told), apart[:, :1])  # a film of one frame is a picture
    randomised(film.temporal)
    learned = film(x, t, told)
    assert float((learned - apart).abs().max()) > 1e-3
    turned = film(x.flip(1), t.flip(1), told).flip(1)
    assert float((learned - turned).abs().max()) > 1e-3  # it knows the order of frames
    near(film(x, t[:, :1].expand(B, T), told), film(x, t[:, :1] if isinstance(spec, Trunk) else
                                                    t[:, :1].expand(B, T), told))


@pytest.mark.parametrize("name", ["double, single", "words"])
@torch.no_grad()
def test_pictures_beside_x_and_disturbed_blocks_are_those_of_each_frame(name):
    spec = replace({**TRUNKS, **UNETS}[name], image_channels=2)
    image, film = network(spec), along(spec).build(C, 16, 48).double()
    film.load_state_dict(image.state_dict() | {k: v for k, v in film.state_dict().items() if k.startswith("temporal.")})
    x, t, told = inputs()
    beside = torch.randn(B, T, 2, *SIDE).double()
    for perturb in (Perturbation((0,)), Perturbation((1,), "skip")):
        apart = [image(x[:, i : i + 1], t[:, i : i + 1], replace(told, image=beside[:, i : i + 1]), perturb)
                 for i in range(T)]
        near(film(x, t, replace(told, image=beside), perturb), torch.cat(apart, dim=1))
        assert float((apart[0] - image(x[:, :1], t[:, :1], replace(told, image=beside[:, :1]))).abs().max()) > 1e-6


@pytest.mark.parametrize("net", ["trunk", "unet"])
def test_the_weights_of_pictures_begin_as_they_do_without(net):
    spec = BASE if net == "trunk" else UNETS["words"]
    torch.manual_seed(5)
    plain = spec.build(C, 16).state_dict()
    torch.manual_seed(5)
    film = along(spec).build(C, 16).state_dict()
    assert all(torch.equal(film[name], value) for name, value in plain.items())
    assert all(name.startswith("temporal.") for name in film.keys() - plain.keys())


CAUSAL = {**{name: along(TRUNKS[name], causal=True, kernel=2, reach=2) for name in (
    "single", "double, single", "house", "cross", "read", "refined", "padded")},
    "causal words": along(TRUNKS["causal words"]),
    "no positions": along(replace(BASE, positions=NoPositions()), causal=True),
    **{name: along(spec, causal=True, kernel=3) for name, spec in UNETS.items()}}


@pytest.mark.parametrize("name", CAUSAL)
def test_what_comes_later_changes_nothing_earlier(name):
    net, (x, t, told) = network(CAUSAL[name]), inputs()
    x.requires_grad_()
    net(x, t, told)[:, 1].square().sum().backward()
    assert float(x.grad[:, 2:].abs().max()) == 0
    assert all(float(x.grad[:, i].abs().max()) > 0 for i in range(2))


@pytest.mark.parametrize("name", [name for name, spec in CAUSAL.items() if isinstance(spec, Trunk)])
@torch.no_grad()
def test_frames_rolled_out_are_those_of_the_masked_forward(name):
    net, (x, t, told) = network(CAUSAL[name]), inputs()
    whole = net(x, t, told)
    for ends in ((1, 2, 3, 4), (2, 4), (1, 4)):
        cache = Cache()
        parts = zip((0, *ends), ends, strict=False)
        near(torch.cat([net(x[:, a:b], t[:, a:b], told, cache=cache) for a, b in parts], dim=1), whole)
    cache = Cache()
    for i in range(T):  # worked on at its noise level, and then held as it is without
        clocks = torch.cat([torch.zeros_like(t[:, :i]), t[:, i : i + 1]], dim=1)
        cache.hold = False
        for _ in range(2):
            said = net(x[:, i : i + 1], t[:, i : i + 1], told, cache=cache)
            near(said, net(x[:, : i + 1], clocks, told)[:, i:])
        cache.hold = True
        net(x[:, i : i + 1], torch.zeros_like(t[:, :1]), told, cache=cache)
    assert cache.frames == T


@torch.no_grad()
def test_a_cache_along_time_in_float32_and_for_frames_of_another_size():
    net, (x, t, told) = network(CAUSAL["single"]).float(), inputs()
    x, t, told = x.float(), t.float(), told.map(lambda v: v.float() if v.is_floating_point() else v)
    cache = Cache()
    near(torch.cat([net(x[:, i : i + 1], t[:, i : i + 1], told, cache=cache) for i in range(T)], dim=1),
         net(x, t, told), 1e-5)
    with pytest.raises(UserError, match="frames of one size"):
        net(x[:, :1, :, :, :4], t[:, :1], told, cache=cache)
    with pytest.raises(UserError, match=r"Only a causal network .* net\.temporal\.causal is not set"):
        network(along(BASE))(x, t, told, cache=Cache())


@pytest.mark.parametrize("spec", [along(BASE, reach=2, kernel=3), along(UNETS["words"])], ids=["trunk", "unet"])
def test_bfloat16_and_lengths_and_sizes_of_all_kinds(spec):
    """A film may be longer and larger than any seen; under autocast it is what it is in float32, but for rounding."""
    torch.manual_seed(0)
    net = randomised(spec.build(C, 16), 0.1)
    told = Condition(text=torch.randn(1, L, 16))
    for frames, side in ((1, (4, 4)), (3, (8, 4)), (13, (4, 12))):
        x, t = torch.randn(1, frames, C, *side), torch.rand(1, frames)
        exact = net(x, t, told)
        with torch.autocast("cpu", torch.bfloat16):
            rough = net(x, t, told)
        rough.float().square().mean().backward()
        assert float((rough.float() - exact).detach().square().mean().sqrt() / exact.detach().std()) < 0.1
    assert all(bool(p.grad.isfinite().all()) for p in net.temporal.parameters())
    assert all(float(p.grad.abs().max()) > 0 for name, p in net.temporal.named_parameters() if "out" in name)


@torch.no_grad()
def test_the_features_of_blocks_are_those_of_frames():
    net, (x, t, told) = network(along(BASE)), inputs()
    with Tap(net, {0}) as tap:
        net(x, t, told)
    with Tap(net, {0}) as alone:
        net(x[:, 2:3], t[:, 2:3], told)
    assert tap.features(0, x).shape == (B, T, 48, 2, 4)
    near(tap.features(0, x)[:, 2:3], alone.features(0, x[:, 2:3]))


def test_operations_along_time_are_counted():
    """Of every place four maps of D x D for each frame, and 2 D for each pair of them; of a frame two vectors."""
    image, film = (count(spec, 4, (16, 16), frames=16) for spec in (replace(BASE, temporal=Temporal()), along(BASE)))
    framewise = count(BASE, 4, (16, 16)).multiply_adds * 16
    D, N, frames = 48, 64, 16
    layer = 4 * N * frames * D * D + 2 * N * frames**2 * D + frames * 2 * D * D
    assert film.multiply_adds == framewise + 2 * layer
    assert film.multiply_adds < image.multiply_adds
    assert film.tokens == image.tokens == N * frames
    assert film.parameters - image.parameters == 2 * (4 * D * D + 2 * D * D + 2 * D + 2 * 24)


@pytest.mark.parametrize(("spec", "reason"), [
    (replace(along(BASE), temporal=Temporal(every=3)), "more than the 2 blocks"),
    (along(BASE, kernel=4), "has no middle"),
    (along(replace(BASE, width=42, positions=NoPositions())), "an odd number"),
    (replace(along(BASE), routing=Tread(), single=4), "time runs at each place"),
    (replace(along(BASE), magnitude=True, feed_forward=FeedForwardSpec(activation="silu")), "magnitude-preserving"),
    (replace(UNETS["joint"], temporal=TemporalLevels(levels=(0, 2))), "a scale that is not there"),
    (replace(UNETS["joint"], temporal=TemporalLevels(levels=(0,)), head_width=32), "do not divide the widths"),
    (replace(UNETS["joint"], temporal=TemporalLevels(levels=(0,), kernel=2)), "has no middle"),
])
def test_layers_along_time_refuse_what_they_cannot_go_with(spec, reason):
    with pytest.raises(UserError, match=reason):
        spec.build(C, 16)
