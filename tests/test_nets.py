"""Blocks and networks against slow twins and invariants; every weight re-randomised, since zeros hide faults."""

from dataclasses import replace

import pytest
import torch

from fromnoise.blocks import (
    RelativeBias,
    attend,
    attend_math,
    patchify,
    place_waves,
    rms_norm,
    token_shift,
    turn,
    turns,
    unpatchify,
    word_shift,
)
from fromnoise.blocks.layers import SquaredReLU
from fromnoise.denoise import Denoiser, classifier_free
from fromnoise.nets import UNet, house
from fromnoise.nets.unet_presets import edm2, sd1, sd2, simple_diffusion
from fromnoise.process import Flow
from fromnoise.text import ByteTokenizer, Trained
from fromnoise.text.tokenizers import BPETokenizer, tokenize
from fromnoise.types import Condition

NETS = [house(width=32, depth=2, heads=2, patch=2), house(width=32, depth=2, positions="rotary", patch=2),
        house(width=32, depth=1, token_shift=False, pooled_text=False, places=False, patch=2),
        UNet(width=8, multipliers=(1, 2), heads=2), sd1(8, (1, 2), (1, 0), 2), sd2(8, (1, 2), (0, 1), 2, 4),
        simple_diffusion(8, (1, 2), 2, 1, 8, 0, 4), replace(simple_diffusion(8, (1, 2), 1, 1, 8, 0, 2), pooled="mean"),
        replace(edm2(width=8, multipliers=(1, 2), depths=(0, 1), blocks=1, head_width=8, classes=0), pooled="mean")]


def built(spec, channels=3, text=16):
    net = spec.build(channels, text).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.2 * torch.randn(p.shape))
    return net


def inputs(B=3, T=1, L=5):
    x = torch.randn(B, T, 3, 8, 12, dtype=torch.float64)
    return x, torch.rand(B, T, dtype=torch.float64), Condition(torch.randn(B, L, 16, dtype=torch.float64))


def test_squared_relu_equals_its_slow_twin():
    x = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(SquaredReLU()(x), torch.relu(x) ** 2)
    assert torch.autograd.gradcheck(SquaredReLU(), (x,))
    with torch.no_grad():
        torch.testing.assert_close(SquaredReLU()(x), torch.relu(x) ** 2)


def test_fast_attention_equals_its_slow_twin():
    q, k, v = torch.randn(3, 2, 4, 9, 6, dtype=torch.float64)
    for bias in (None, torch.randn(1, 4, 9, 9, dtype=torch.float64)):
        torch.testing.assert_close(attend(q, k, v, bias), attend_math(q, k, v, bias))
    learned = torch.randn(1, 4, 9, 9, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(attend(q, k, v, learned), attend(q, k, v, learned.detach()))


def test_rms_norm_and_patches():
    x = torch.randn(5, 8, dtype=torch.float64)
    torch.testing.assert_close(rms_norm(x).square().mean(-1), torch.ones(5, dtype=torch.float64), atol=1e-5, rtol=0)
    media = torch.randn(2, 3, 4, 6, 10)
    tokens = patchify(media, 2)
    assert tokens.shape == (2, 3 * 3 * 5, 16)
    assert torch.equal(unpatchify(tokens, 2, (3, 4, 6, 10)), media)
    assert torch.equal(tokens[0, 5 + 1], media[0, 0, :, 2:4, 2:4].flatten())  # row 1, column 1


def test_relative_bias_depends_on_offset_alone_and_clamps():
    bias = RelativeBias(2, (1, 2, 2))
    torch.testing.assert_close(10 * bias.table[:, 1, 2], torch.tensor([[-4.0, -2, 0, -2, -4], [0, 0, 0, 0, 0]]))
    with torch.no_grad():
        bias.table.normal_()
    positions = torch.tensor([[0, 0, 0], [0, 1, 2], [0, 2, 4], [0, 0, 9], [1, 0, 0]])
    b = bias(positions)
    torch.testing.assert_close(b[:, 1, 0], b[:, 2, 1])
    torch.testing.assert_close(b[:, 3, 0], 10 * bias.table[:, 1, 2, 4])
    torch.testing.assert_close(b[:, 0, 4], 10 * bias.table[:, 0, 2, 2])
    assert not torch.equal(b[:, 0, 1], b[:, 1, 0])


def test_rotary_logits_depend_on_offset_alone():
    where = torch.tensor([[0, 1, 2], [1, 3, 0], [2, 0, 5]])
    q, k = torch.randn(2, 1, 3, 1, 12, dtype=torch.float64)

    def logits(shift):
        by = turns(where + shift, (4, 4, 4), 100.0)
        return turn(q, by)[:, :, 0] @ turn(k, by)[:, :, 0].mT

    torch.testing.assert_close(logits(0), logits(7), rtol=1e-5, atol=1e-5)
    assert float((logits(0) - q[:, :, 0] @ k[:, :, 0].mT).abs().max()) > 0.1


def test_token_shift_takes_from_the_four_neighbours():
    y = torch.arange(2 * (1 + 1 * 3 * 4) * 16, dtype=torch.float32).view(2, 13, 16)
    s = token_shift(y, (1, 3, 4), start=1)
    assert torch.equal(s[:, 0], y[:, 0])

    def at(t, r, c):
        return t[:, 1 + 4 * r + c]

    centre = at(s, 1, 1)
    for feature, (r, c) in enumerate([(0, 1), (2, 1), (1, 0), (1, 2)]):
        assert torch.equal(centre[:, feature], at(y, r, c)[:, feature])
    assert torch.equal(centre[:, 4:], at(y, 1, 1)[:, 4:])
    assert (at(s, 0, 0)[:, [0, 2]] == 0).all()


def test_word_shift_takes_from_both_sides_and_never_from_padding():
    y = torch.randn(2, 5, 8)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    s = word_shift(y, mask)
    for b, L in ((0, 5), (1, 3)):
        for i in range(L):
            before = y[b, i - 1, 0:2] if i > 0 else torch.zeros(2)
            after = y[b, i + 1, 2:4] if i + 1 < L else torch.zeros(2)
            assert torch.equal(s[b, i], torch.cat([before, after, y[b, i, 4:]]))
    assert torch.equal(word_shift(y[:1], None), s[:1])


def test_places_tell_every_patch_apart_and_left_is_left_at_every_size():
    waves = place_waves(8, 8, 8)
    assert torch.cdist(waves, waves).add(torch.eye(64) * 9).min() > 0.5
    small, large = place_waves(2, 2, 3), place_waves(6, 6, 3)
    torch.testing.assert_close(large[6 * 1 + 4], small[1])  # centres at y = 1/4, x = 3/4
    torch.testing.assert_close(small[1, :3], torch.cos(torch.pi * torch.arange(1, 4) * 0.25))
    torch.testing.assert_close(small[1, 3:], torch.cos(torch.pi * torch.arange(1, 4) * 0.75))
    assert place_waves(2, 3, 4).shape == (6, 8)


@pytest.mark.parametrize("spec", NETS)
def test_padding_is_never_seen(spec):
    net = built(spec)
    x, t, condition = inputs()
    plain = net(x, t, condition)
    junk = torch.cat([condition.text, 9 * torch.randn(3, 4, 16, dtype=torch.float64)], 1)
    mask = torch.arange(9).expand(3, 9) < 5
    torch.testing.assert_close(net(x, t, Condition(junk, mask)), plain)


@pytest.mark.parametrize("spec", NETS)
def test_samples_of_a_batch_do_not_meet_and_everything_matters(spec):
    net = built(spec)
    x, t, condition = inputs()
    whole = net(x, t, condition)
    for i in range(3):
        alone = net(x[i : i + 1], t[i : i + 1], condition.map(lambda c, i=i: c[i : i + 1]))
        torch.testing.assert_close(alone[0], whole[i])
    assert float((net(x, 1 - t, condition) - whole).detach().abs().max()) > 1e-3
    assert float((net(x, t, condition.map(lambda c: c + 1)) - whole).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("spec", NETS)
def test_every_weight_gets_a_gradient(spec):
    net = built(spec)
    x, t, condition = inputs()
    net(x, t, condition).square().sum().backward()
    missing = [name for name, p in net.named_parameters() if p.grad is None or float(p.grad.abs().sum()) == 0]
    assert not missing


@pytest.mark.parametrize("spec", NETS)
def test_frames_have_their_own_clock(spec):
    """Two frames at one time are as a clock for both; changing one frame's time changes the answer."""
    net = built(spec)
    x, _, condition = inputs(T=2)
    t = torch.full((3, 2), 0.3, dtype=torch.float64)
    same = net(x, t, condition)
    assert same.shape == x.shape
    t[:, 1] = 0.9
    assert float((net(x, t, condition) - same)[:, 1].detach().abs().max()) > 1e-3


@pytest.mark.parametrize("spec", NETS)
def test_nets_start_at_zero_output(spec):
    net = spec.build(3, 16)
    x, t, condition = inputs()
    assert float(net(x.float(), t.float(), condition.map(lambda c: c.float())).detach().abs().max()) == 0


def test_denoiser_broadcasts_times_and_guidance_batches_both_passes():
    calls = []

    class Net(torch.nn.Module):
        def forward(self, x, t, condition):
            calls.append(x.shape[0])
            assert t.shape == x.shape[:2]
            return x * t[..., None, None, None] + condition.text.mean((1, 2)).view(-1, 1, 1, 1, 1)

    x, _, condition = inputs()
    denoise = Denoiser(Net(), Flow(), "x0")
    scalar = denoise(x, torch.tensor(0.5), condition)
    torch.testing.assert_close(scalar, denoise(x, torch.full((3,), 0.5), condition))
    null = Condition(torch.randn(3, 2, 16, dtype=torch.float64))
    guided = classifier_free(denoise, null, 3.0)
    calls.clear()
    got = guided(x, torch.tensor(0.5), condition)
    assert calls == [6]
    u, c = (denoise(x, torch.tensor(0.5), which) for which in (null, condition))
    padded_mean = null.text.sum((1, 2)) / (5 * 16)  # this toy does not look at the mask
    want_u = u + (padded_mean - null.text.mean((1, 2))).view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(got, want_u + 3 * (c - want_u))
    off = classifier_free(denoise, null, 3.0, interval=(0.6, 1.0))
    torch.testing.assert_close(off(x, torch.tensor(0.5), condition), c)


def test_tokenizers():
    captions = ["a small red circle", "a large blue square", "ключ"]
    bpe = BPETokenizer.learn(captions * 20, 512)
    for text in (*captions, "words never seen: ∆"):
        for tokenizer in (bpe, ByteTokenizer()):
            ids = tokenizer.encode(text)
            assert ids
            assert max(ids) < tokenizer.vocabulary
    assert len(bpe.encode(captions[0])) == 4
    assert BPETokenizer(bpe.to_json()).encode(captions[1]) == bpe.encode(captions[1])
    tokens, mask = tokenize(bpe, ["", captions[0], captions[0] * 9], 8)
    assert tokens.shape == (3, 8)
    assert mask.sum(1).tolist() == [1, 5, 8]


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_text_encoder_does_not_see_padding(tokenizer):
    spec = Trained(tokenizer=tokenizer, width=16, depth=2, max_length=32)
    encoder = spec.build(spec.learn_tokenizer(["one two three", "four"])).double()
    together = encoder.encode(["one", "one two three four"])
    alone = encoder.encode(["one"])
    assert alone.mask is None
    torch.testing.assert_close(together.text[:1, : alone.text.shape[1]], alone.text)
