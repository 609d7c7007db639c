"""What one part of the trunk must be in terms of another: double and single, read and cross, masks, caches' blocks."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fromnoise.blocks import (
    Around,
    AttentionSpec,
    BlockSpec,
    Cache,
    FeedForwardSpec,
    JointBlock,
    Mask,
    ModulationSpec,
    Perturbation,
    StreamLayer,
    Tokens,
    attend,
)
from fromnoise.blocks.attention import attend_linear
from fromnoise.blocks.heads import CrossAttention
from fromnoise.nets.trunk import Rotary, Trunk
from fromnoise.nets.trunk.attempts import native
from fromnoise.nets.trunk.presets import dit, sit
from fromnoise.types import Condition

D = 32
BASE = Trunk(width=D, attention=AttentionSpec(heads=2), feed_forward=FeedForwardSpec(gated=True), single=2)


def built(spec, text=16):
    net = spec.build(3, text).double()
    for p in net.parameters():
        p.data = 0.2 * torch.randn(p.shape, dtype=torch.float64)
    return net


def inputs(B=2, L=5):
    mask = torch.arange(L) < torch.tensor([[L], [L - 2]])
    condition = Condition(text=torch.randn(B, L, 16, dtype=torch.float64), mask=mask)
    return torch.randn(B, 1, 3, 6, 10, dtype=torch.float64), torch.rand(B, 1, dtype=torch.float64), condition


def same_but(ours, theirs, rename):
    """``ours`` with the weights of ``theirs``; ``rename``: our name to theirs."""
    weights = theirs.state_dict()
    ours.load_state_dict({name: weights[rename(name)] for name in ours.state_dict()})


@torch.no_grad()
def test_double_stream_with_tied_weights_is_single_stream():
    single = built(BASE)
    double = built(replace(BASE, single=0, double=2))
    same_but(double, single, lambda name: name.replace("double_stream", "single_stream").replace(
        ".layers.text.", ".layers.all.").replace(".layers.picture.", ".layers.all."))
    arguments = inputs()
    torch.testing.assert_close(double(*arguments), single(*arguments))
    dict(double.named_parameters())["stages.double_stream.blocks.0.layers.text.heads.out.weight"].add_(0.1)
    assert float((double(*arguments) - single(*arguments)).abs().max()) > 1e-3


@torch.no_grad()
def test_double_stream_whose_text_is_never_moved_reads_the_normalised_text():
    """With the text's gates shut, and neither shift nor scale, its keys in every block are those of norm(text)."""
    double = built(replace(BASE, single=0, double=3))
    for block in double.stages["double_stream"].blocks:
        block.layers["text"].modulation.map.weight.zero_()
        block.layers["text"].modulation.map.bias.zero_()
    read = built(replace(BASE, single=0, read=3))
    weights = double.state_dict()
    picked = {}
    for name in read.state_dict():
        theirs = weights[name.replace("read_stream", "double_stream")]
        picked[name] = theirs[1:] if ".text.heads.qkv.weight" in name else theirs  # of q, k, v the last two
    read.load_state_dict(picked)
    read.text_in = nn.Sequential(read.text_in, nn.LayerNorm(D, 1e-6, elementwise_affine=False))
    arguments = inputs()
    torch.testing.assert_close(read(*arguments), double(*arguments))


@torch.no_grad()
def test_reading_with_the_picture_hidden_from_itself_is_cross_attention():
    spec = BlockSpec(width=D, features=D, attention=AttentionSpec(heads=2, qk_norm="rms"),
                     feed_forward=FeedForwardSpec(), modulation=ModulationSpec(source="none"))
    block = JointBlock(0, spec, {"text": StreamLayer(spec, asks=False, modulated=False, normed=False),
                                 "picture": StreamLayer(spec)}).double()
    cross = CrossAttention(spec.width, spec.attention).double()
    for p in (*block.parameters(), *cross.parameters()):
        p.copy_(0.3 * torch.randn(p.shape))
    picture, text = block.layers["picture"], block.layers["text"]
    picture.feed_forward.outer.weight.zero_()
    for linear, weight in ((cross.q, picture.heads.qkv.weight[0]), (cross.out, picture.heads.out.weight)):
        linear.weight.copy_(weight)
        linear.bias.zero_()
    cross.kv.weight.copy_(text.heads.qkv.weight)
    cross.kv.bias.zero_()
    cross.q_norm.weight.copy_(picture.heads.q_norm.weight)
    cross.k_norm.weight.copy_(text.heads.k_norm.weight)
    x, words = torch.randn(2, 7, D, dtype=torch.float64), torch.randn(2, 4, D, dtype=torch.float64)
    real = torch.tensor([[True] * 4, [True] * 3 + [False]])
    hidden = torch.cat([real, torch.zeros(2, 7, dtype=torch.bool)], dim=1)[:, None, None, :]
    got = block({"text": Tokens(words), "picture": Tokens(x)}, Around(mask=hidden))
    torch.testing.assert_close(got["picture"], x + cross(picture.norm1(x), words, real))
    assert torch.equal(got["text"], words)


@torch.no_grad()
def test_cross_blocks_see_the_text_only_through_cross_attention():
    """With its way out shut, a PixArt is a network without text."""
    spec = replace(BASE, single=0, cross=2)
    told, untold = built(spec), built(spec, text=None)
    for block in told.stages["cross_stream"].blocks:
        block.layers["picture"].cross.out.weight.zero_()
        block.layers["picture"].cross.out.bias.zero_()
    same_but(untold, told, lambda name: name)
    x, t, condition = inputs()
    torch.testing.assert_close(told(x, t, condition), untold(x, t, Condition()))


def test_the_block_causal_mask_is_its_truth_table():
    words, frames = torch.tensor([0, 1, 2]), torch.tensor([10, 10, 11, 11])
    groups = torch.cat([words, frames])
    keys = torch.tensor([[True, True, False, True, True, True, True]])
    expected = torch.tensor([
        [1, 0, 0, 0, 0, 0, 0],  # a word sees the words up to itself
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],  # a frame sees all words and all of itself
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 1],  # the next frame sees what was before it as well
        [1, 1, 1, 1, 1, 1, 1],
    ], dtype=torch.bool)
    assert torch.equal(Mask(None, groups, groups).dense()[0, 0], expected)
    assert torch.equal(Mask(keys, groups, groups).dense()[0, 0], expected & keys)
    assert torch.equal(Mask(keys, frames, groups).dense()[0, 0], (expected & keys)[3:])
    assert Mask().dense() is None
    assert Mask().blocks() is None


def test_linear_attention_of_pairs_is_that_of_sums():
    q, k, v = torch.randn(3, 2, 9, 4, 6, dtype=torch.float64)
    keys = (torch.arange(9) < torch.tensor([[9], [5]]))[:, None, None, :]
    pairs = keys.expand(2, 1, 9, 9)
    bias = torch.zeros(2, 1, 9, 9, dtype=torch.float64).masked_fill(~pairs, float("-inf"))
    for mask in (pairs, bias):
        torch.testing.assert_close(attend_linear(q, k, v, mask), attend_linear(q, k, v, keys))
    torch.testing.assert_close(attend_linear(q, k, v, torch.ones_like(pairs)), attend_linear(q, k, v))


@pytest.mark.parametrize("padded", [False, True])
def test_flex_attention_with_the_blocks_of_a_mask_is_attention_with_the_mask(padded):
    groups = torch.cat([torch.arange(9), torch.full((30,), 100), torch.full((30,), 101)])
    keys = (torch.arange(69) != 7).expand(2, 69) if padded else None
    mask = Mask(keys, groups[9:], groups)
    q, k, v = torch.randn(2, 2, 60, 16), torch.randn(2, 2, 69, 16), torch.randn(2, 2, 69, 16)
    torch.testing.assert_close(attend(q, k, v, mask.blocks()), attend(q, k, v, mask.dense()))


@torch.no_grad()
def test_in_the_native_network_nothing_sees_what_comes_later():
    net = built(native(D, 2, 2))
    x, t, condition = inputs()
    x, t = torch.cat([x, torch.randn_like(x)], dim=1), torch.cat([t, 1 - t], dim=1)
    plain = net(x, t, condition)
    later = torch.cat([x[:, :1], x[:, 1:] + 1], dim=1)
    torch.testing.assert_close(net(later, t, condition)[:, 0], plain[:, 0])
    assert float((net(later, t, condition) - plain)[:, 1].detach().abs().max()) > 1e-3
    sooner = torch.cat([x[:, :1] + 1, x[:, 1:]], dim=1)
    assert float((net(sooner, t, condition) - plain)[:, 1].detach().abs().max()) > 1e-3


@torch.no_grad()
def test_the_text_of_the_native_network_is_clean_and_causal():
    """Its words come out the same whatever the noise level and the picture are, and whatever words follow."""
    net = built(native(D, 2, 2))
    said = []
    net.stages["single_stream"].register_forward_hook(lambda m, args, out: said.append(out["all"].x[:, :5]))
    x, t, condition = inputs()
    net(x, t, condition)
    net(x + 1, 1 - t, condition)
    torch.testing.assert_close(said[0], said[1])
    other = condition.text.clone()
    other[:, 3:] += 1
    net(x, t, Condition(text=other, mask=condition.mask))
    torch.testing.assert_close(said[0][:, :3], said[2][:, :3])
    assert float((said[0] - said[2])[0, 3:].abs().max()) > 1e-3


CAUSAL = {"native": native(D, 2, 2), "double": replace(native(D, 2, 2), single=0, double=2),
          "double_single": replace(native(D, 2, 2), single=1, double=1)}


@pytest.mark.parametrize("kind", CAUSAL)
@torch.no_grad()
def test_what_is_cached_is_as_if_it_were_seen_again(kind):
    net = built(CAUSAL[kind])
    x, t, condition = inputs()
    x, t = torch.cat([x, x.flip(-1), x + 1], dim=1), torch.cat([t, 1 - t, t / 2], dim=1)
    whole, cache = net(x, t, condition), Cache()
    for frame in range(3):
        cache.hold = frame < 2
        now = slice(frame, frame + 1)
        torch.testing.assert_close(net(x[:, now], t[:, now], condition, cache=cache), whole[:, now])
    assert (cache.words, cache.frames) == (5, 2)


@torch.no_grad()
def test_sit_is_dit_with_another_clock():
    """The same network told t in [0, 1], 1 for data, instead of 1000 t, 1 for noise."""
    ours, theirs = (make(D, 2, 2, base=4).build(3, None, D).double() for make in (sit, dit))
    for p in ours.parameters():
        p.copy_(0.2 * torch.randn(p.shape))
    same_but(theirs, ours, lambda name: name)
    x, t, _ = inputs()
    told = Condition(pooled=torch.randn(2, D, dtype=torch.float64))
    torch.testing.assert_close(ours(x, t, told), theirs(x, (1 - t) / 1000, told), rtol=1e-5, atol=1e-5)
    assert float((ours(x, t, told) - theirs(x, t, told)).abs().max()) > 1e-3


KINDS = {"cross": replace(BASE, single=0, cross=3), "read": replace(BASE, single=0, read=3),
         "linear": replace(BASE, single=0, cross=3, attention=AttentionSpec(heads=2, kind="linear")),
         "double": replace(BASE, single=0, double=3), "single": replace(BASE, single=3)}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_skipping_a_block_is_the_network_without_it(kind):
    net, fewer = built(KINDS[kind]), built(replace(KINDS[kind], **{"cross" if kind == "linear" else kind: 2}))
    same_but(fewer, net, lambda name: name.replace("blocks.1.", "blocks.2."))
    arguments = inputs()
    skipped = net(*arguments, Perturbation(layers=(1,), how="skip"))
    torch.testing.assert_close(skipped, fewer(*arguments))
    assert float((skipped - net(*arguments)).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_under_identity_attention_a_place_sees_itself_and_the_words_alone(kind):
    """With every block disturbed, changing one patch changes that patch alone, where words do not carry the news."""
    net = built(KINDS[kind])
    x, t, condition = inputs()
    words = Condition(text=condition.text, mask=condition.mask)
    condition = words if kind in ("cross", "linear", "read") else Condition()
    changed = x.clone()
    changed[..., 2:4, 4:6] += 1
    identity = Perturbation(layers=(0, 1, 2))
    moved = (net(changed, t, condition, identity) - net(x, t, condition, identity)).abs().amax((0, 1, 2))
    assert float(moved[2:4, 4:6].min()) > 0
    moved[2:4, 4:6] = 0
    assert float(moved.max()) < 1e-12
    assert float((net(x, t, condition, identity) - net(x, t, condition)).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("stack", [{"double": 1, "single": 0}, {"double": 1, "single": 1}, {"single": 2}],
                         ids=["apart", "apart, then together", "together"])
@torch.no_grad()
def test_words_that_are_not_turned_stand_at_the_origin(stack):
    said = []
    for words in ("none", "zero"):
        torch.manual_seed(0)
        net = built(replace(BASE, positions=Rotary(words=words), **stack))
        x, told = torch.randn(2, 3, 3, 4, 6).double(), Condition(text=torch.randn(2, 5, 16).double())
        said.append(net(x, torch.rand(2, 3).double(), told))
    torch.testing.assert_close(*said, atol=1e-12, rtol=0)
