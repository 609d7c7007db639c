"""The U-Net's settings: what each is, what they refuse, and the invariants of the systems that have no peer."""

import math
from dataclasses import replace

import pytest
import torch

from fromnoise.blocks import Perturbation, attend_math
from fromnoise.blocks.chunked import PIECE, chunked_attention
from fromnoise.blocks.convolution import double, double_and_convolve
from fromnoise.blocks.group_norm import GroupNorm
from fromnoise.blocks.magnitude import UnitAttention, UnitBlock, UnitLinear, unit, unit_cat, unit_silu, unit_sum
from fromnoise.blocks.waves import Fourier, Sinusoid
from fromnoise.config import from_dict
from fromnoise.nets import UNet
from fromnoise.nets.unet_parts import UnitStem
from fromnoise.nets.unet_presets import adm, edm2, sd1, sdxl, simple_diffusion
from fromnoise.types import Condition, UserError

EDM2 = edm2(width=32, multipliers=(1, 2), depths=(0, 1), blocks=1, head_width=16, classes=0)


def rms(x) -> float:
    return float(x.detach().square().mean().sqrt())


# ---- old recipes -------------------------------------------------------------------------------------------


def test_the_default_unet_is_the_one_it_always_was():
    """Initial weights of a seed, and an output, as computed by the first U-Net of this library."""
    torch.manual_seed(0)
    net = from_dict(UNet, {"kind": "unet", "width": 8, "multipliers": [1, 2], "heads": 2, "blocks": 2}).build(3, 16)
    assert sum(float(p.detach().abs().sum()) for p in net.parameters()) == pytest.approx(2327.301, rel=1e-6)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=g))
    x, t = torch.randn(2, 1, 3, 8, 12, generator=g), torch.tensor([[0.3], [0.8]])
    text, mask = torch.randn(2, 5, 16, generator=g), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    want = torch.tensor([[-0.81812674, -0.05151051, -0.50389069], [-0.01589204, 0.21022990, 0.43456295]])
    torch.testing.assert_close(net(x, t, Condition(text, mask))[:, 0, :, 3, 5], want, atol=1e-5, rtol=0)


# ---- fast paths and their slow twins -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 40, 40), (2, 2, 700, 500), (1, 2, 5, 77)])
@pytest.mark.parametrize("biased", [False, True])
def test_attention_in_pieces_equals_its_slow_twin(shape, biased):
    B, H, N, L = shape
    assert (N * L > PIECE) == (N == 700)
    q, k, v = (torch.randn(B, H, n, 8, dtype=torch.float64, requires_grad=True) for n in (N, L, L))
    bias = torch.randn(B, 1, 1, L, dtype=torch.float64).masked_fill(torch.rand(B, 1, 1, L) < 0.3, -math.inf)
    bias = bias if biased else None
    got, want = chunked_attention(q, k, v, bias), attend_math(q, k, v, bias)
    torch.testing.assert_close(got, want)
    g = torch.randn_like(want)
    # What spans several pieces is summed in float32.
    torch.testing.assert_close(torch.autograd.grad(got, (q, k, v), g), torch.autograd.grad(want, (q, k, v), g),
                               rtol=1e-5, atol=1e-5)


def test_doubling_and_convolving_in_one_equals_one_after_the_other():
    x, w, b = (torch.randn(*s, dtype=torch.float64) for s in ((2, 5, 4, 3), (6, 5, 3, 3), (6,)))
    want = torch.nn.functional.conv2d(double(x, None), w, b, padding=1)
    torch.testing.assert_close(double_and_convolve(x, w, b), want)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_group_norm_in_bfloat16_is_that_of_float32_rounded(layout):
    norm, plain = GroupNorm(4, 16), torch.nn.GroupNorm(4, 16)
    with torch.no_grad():
        for p, q in zip(norm.parameters(), plain.parameters(), strict=True):
            q.copy_(p.normal_())
    x = torch.randn(2, 16, 5, 3).bfloat16().to(memory_format=layout)
    a, b = x.clone().requires_grad_(), x.float().requires_grad_()
    got, want, g = norm(a), plain(b), torch.randn(2, 16, 5, 3).bfloat16()
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, want.bfloat16())
    got.backward(g)
    want.backward(g.float())
    torch.testing.assert_close(a.grad, b.grad.bfloat16())
    torch.testing.assert_close([p.grad for p in norm.parameters()], [p.grad for p in plain.parameters()])


def test_bfloat16_is_close_to_float32():
    net = sd1(32, (1, 2), (1, 0), 8).build(4, 24)
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(std=p[0].numel() ** -0.5 if p.ndim > 1 else 0.1)
    x, t, c = torch.randn(2, 1, 4, 24, 24), torch.rand(2, 1), Condition(torch.randn(2, 5, 24))
    want = net(x, t, c)
    with torch.autocast("cpu", torch.bfloat16):
        got = net(x, t, c)
    assert rms(got.float() - want) < 0.03 * rms(want)


# ---- settings ------------------------------------------------------------------------------------------------


def test_waves():
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    waves = Sinusoid(waves=4, scale=1000.0, max_period=10_000.0, shift=1.0).build()(t)
    turns = 1000 * t[:, None] * 10_000.0 ** (-torch.arange(3, -1, -1) / 3)
    torch.testing.assert_close(waves.double(), torch.cat([turns.cos(), turns.sin()], 1), atol=1e-4, rtol=0)
    fourier = Fourier(waves=4096, scale=3.0).build()
    features = fourier(torch.rand(7))
    assert features.shape == (7, 4096)
    assert features.square().mean(1).sub(1).abs().max() < 0.06


@pytest.mark.parametrize("spec", [
    sd1(16, (1, 2), (1, 0), 8), sdxl(16, (1, 2), (0, 2), 8, 8, 12, 4), adm(16, (1, 2), (0, 1), 1, 5).__class__(
        width=16, multipliers=(1, 2), groups=8, resample="residual", skips="all", attention="plain", depths=(1, 1),
        middle="residual", middle_depth=0, image_channels=2, extra_outputs=3)])
def test_shapes_image_channels_and_frames(spec):
    net = spec.build(4, 24)
    condition = Condition(torch.randn(2, 3, 24), None, torch.randn(2, spec.pooled_width), torch.rand(2, spec.numbers),
                          torch.randn(2, 3, spec.image_channels, 8, 12))
    y = net(torch.randn(2, 3, 4, 8, 12), torch.rand(2, 3), condition)
    assert y.shape == (2, 3, 4 + spec.extra_outputs, 8, 12)
    for part in ("image",) * bool(spec.image_channels) + ("pooled", "numbers") * (spec.pooled == "mlp"):
        lacking = Condition(**{**vars(condition), part: None})
        with pytest.raises(ValueError, match=f"reads {part} of the condition"):
            net(torch.randn(2, 3, 4, 8, 12), torch.rand(2, 3), lacking)


@pytest.mark.parametrize(("change", "sentence"), [
    ({"multipliers": ()}, "multipliers needs"), ({"heads": 3}, "net.heads 3 does not divide the coarsest width 64"),
    ({"head_width": 24}, "net.head_width 24 does not divide"), ({"groups": 7}, "net.groups 7 does not divide"),
    ({"depths": (1,)}, "net.depths has 1 numbers and net.multipliers 3"),
    ({"depths": (0, 2, 0)}, "has one layer a place"), ({"middle_depth": 3}, "has one layer a place"),
    ({"middle_depth": 0}, '"residual" works without'), ({"middle": "transformer"}, 'needs net.skips "add"'),
    ({"skips": "add"}, 'net.resample is "project" then'), ({"skips": "all", "resample": "project"}, "old width"),
    ({"pad": "end"}, 'only net.resample "conv"'), ({"pooled": "mlp"}, "net.pooled_width says how wide"),
    ({"pooled_width": 4}, "is of no use"), ({"numbers": 6}, 'go through net.pooled "mlp"'),
    ({"magnitude": True}, "EDM2's U-Net alone"),
])
def test_what_does_not_fit_together_is_a_sentence(change, sentence):
    with pytest.raises(UserError, match=sentence):
        UNet(**change).build(3, 16)


# ---- perturbed attention ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [sd1(16, (1, 2), (1, 0), 8), simple_diffusion(16, (1, 2), 2, 1, 8, 0, 8), EDM2])
def test_every_attention_layer_can_be_disturbed_and_no_other_is(spec):
    """Layers are numbered through, each changes the output, and none is one too many."""
    net = spec.build(3, 16)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.2 * torch.randn(p.shape))
    x, t, c = torch.randn(2, 1, 3, 8, 8), torch.rand(2, 1), Condition(torch.randn(2, 4, 16))
    with torch.no_grad():
        plain = net(x, t, c)
        for how in ("identity", "skip"):
            answers = [net(x, t, c, Perturbation((i,), how)) for i in range(net.attention_layers)]
            assert all(float((y - plain).abs().max()) > 1e-5 for y in answers)
            assert torch.equal(net(x, t, c, Perturbation((net.attention_layers,), how)), plain)


# ---- magnitude preservation (EDM2) ------------------------------------------------------------------------------


def test_magnitude_preserving_layers_keep_unit_magnitude():
    x, y = torch.randn(2, 4, 96, 32, 32)
    for z in (unit_silu(x), unit_sum(x, y, 0.3), unit_cat(x, y[:, :24]), UnitLinear(96, 128, 3)(x),
              UnitLinear(96, 64)(x.movedim(1, -1)), unit(5 * x, 1)):
        assert rms(z) == pytest.approx(1, abs=0.03)
    a, b = unit_cat(x, y[:, :24]).split([96, 24], 1)
    assert rms(a) ** 2 * 96 == pytest.approx(rms(b) ** 2 * 24, rel=0.05)  # both weigh the same in what follows


@pytest.mark.parametrize("encoder", [True, False])
@pytest.mark.parametrize("resample", [None, "up"])
def test_blocks_keep_unit_magnitude(encoder, resample):
    block = UnitBlock(64, 96, 32, encoder=encoder, resample=resample)
    x, features = torch.randn(4, 64, 16, 16), unit_silu(torch.randn(4, 32))
    assert rms(block(x, features)) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("attention", "within"), [(0, 0.16), (1, 0.2)])
def test_activations_of_the_whole_network_start_at_unit_magnitude(attention, within):
    """But for chance, the zeros beyond the border, and attention, whose averages over many places are smaller."""
    torch.manual_seed(0)
    spec = edm2(width=64, multipliers=(1, 2), depths=(0, attention), blocks=2, head_width=16, classes=10)
    net, seen = replace(spec, middle_depth=attention).build(4, None), {}
    for name, module in net.named_modules():
        if isinstance(module, UnitBlock | UnitAttention | UnitStem):
            module.register_forward_hook(lambda m, i, o, name=name: seen.update({name: rms(o)}))
    net(torch.randn(4, 1, 4, 48, 48), torch.rand(4, 1), Condition(pooled=torch.eye(10)[:4]))
    assert len(seen) == 15 + 6 * attention
    assert all(abs(size - 1) < within for size in seen.values()), seen
    assert sum(abs(size - 1) for size in seen.values()) / len(seen) < within / 2


def test_forced_weight_normalisation_after_an_optimiser_step():
    net = EDM2.build(3, None)
    with torch.no_grad():
        net.conv_out.gain.fill_(1.0)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.5)
    x, t = torch.randn(2, 1, 3, 8, 8), torch.rand(2, 1)
    net(x, t, Condition()).square().mean().backward()
    optimizer.step()
    layers = [m for m in net.modules() if isinstance(m, UnitLinear)]

    def rows(m):
        return m.weight.detach().flatten(1).square().mean(1).sqrt()

    assert any(float((rows(m) - 1).abs().max()) > 0.05 for m in layers)
    with torch.no_grad():
        before = net.eval()(x, t, Condition())
    net.train()(x, t, Condition())
    assert all(float((rows(m) - 1).abs().max()) < 1e-3 for m in layers)
    with torch.no_grad():  # only how weights are stored has changed, not what the network says
        torch.testing.assert_close(net.eval()(x, t, Condition()), before, atol=2e-3, rtol=1e-3)


def test_a_weights_gradient_has_no_part_along_its_row():
    layer, x = UnitLinear(12, 7).double(), torch.randn(5, 12, dtype=torch.float64)
    layer(x).pow(3).sum().backward()
    along = (layer.weight.grad * layer.weight).sum(1).abs() / layer.weight.grad.norm(dim=1)
    assert float(along.detach().max()) < 1e-3


# ---- simple diffusion ------------------------------------------------------------------------------------------


def test_the_u_vit_has_its_transformer_in_the_middle_and_no_concatenation():
    spec = simple_diffusion(16, (1, 2, 4), depth=3, blocks=2, head_width=16, classes=6, groups=8)
    net = spec.build(3, None)
    assert net.attention_layers == 3
    assert [len(blocks) for blocks in net.down] == [2, 2, 0]
    assert [len(blocks) for blocks in net.up] == [0, 2, 2]
    condition = Condition(pooled=torch.eye(6)[:2])
    assert net(torch.randn(2, 1, 3, 8, 12), torch.rand(2, 1), condition).shape == (2, 1, 3, 8, 12)
    widths = {m.norm1.num_channels for blocks in net.up for m in blocks}
    assert widths == {16, 32}
