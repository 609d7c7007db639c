"""Clips of any size and length in one sequence come out as they do by themselves."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from fromnoise.blocks import AttentionSpec, Mask, attend
from fromnoise.nets import house
from fromnoise.nets.trunk import MaskDiT, NoPositions, Relative, Rotary, TextSpec, Trunk
from fromnoise.nets.trunk.presets import jit, lumina2, pixart, prx, qwen_image21, sana, sd3, uvit, z_image
from fromnoise.nets.trunk.settings import Temporal
from fromnoise.types import Condition, UserError

C, TEXT, POOLED = 3, 16, 48
BASE = Trunk(width=48, single=1, double=1, attention=AttentionSpec(heads=2), positions=Rotary(axes=(8, 8, 8)))
SPECS = {
    "double, single": BASE,
    "causal": replace(BASE, mask="causal", text=TextSpec(clean=True), positions=Rotary(axes=(8, 8, 8), words="before")),
    "causal, refined, relative": replace(BASE, mask="causal", text=TextSpec(clean=True), refine=1,
                                         positions=Relative(reach=2)),
    "house": house(48, 2, 2, 2),
    "refined": lumina2(48, 2, 1, 2, 1),
    "padded": z_image(48, 2, 2, 1),
    "cross": pixart(48, 2, 2, sized=False),
    "cross, relative": replace(BASE, single=0, double=0, cross=2, positions=Relative(reach=2)),
    "read": prx(48, 2, 2, 2),
    "text ends": replace(sd3(48, 2, 2), alone=0),
    "the noise level is a word": replace(uvit(48, 2, 3), positions=NoPositions()),
    "one sequence": replace(qwen_image21(48, 2, 2), patch=2, attention=AttentionSpec(heads=2)),
    "told its size": replace(BASE, time=replace(BASE.time, numbers="size")),
    "magnitude": replace(house(48, 2, 2, 2, places=False, token_shift=False), magnitude=True, head="plain"),
}
SIZES = ((3, 4, 6), (1, 8, 4), (2, 2, 10))  # frames, height and width
WORDS = (5, 3, 4)


def network(spec):
    torch.manual_seed(0)
    net = spec.build(C, TEXT, POOLED)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return net.eval()  # in training, magnitude-preserving matrices are normalised in every forward


def clips(dtype=torch.float64, batch=2):
    torch.manual_seed(1)
    found = []
    for (frames, height, width), words in zip(SIZES, WORDS, strict=True):
        mask = torch.arange(words) < torch.tensor([[words - 2], [words]])[:batch]
        told = Condition(text=torch.randn(batch, words, TEXT, dtype=dtype), mask=None if words == 3 else mask,
                         pooled=torch.randn(batch, POOLED, dtype=dtype))
        found.append((torch.randn(batch, frames, C, height, width, dtype=dtype),
                      torch.rand(batch, frames, dtype=dtype), told))
    return found


def gradients(net, outputs):
    net.zero_grad()
    sum((i + 1) * y.square().sum() for i, y in enumerate(outputs)).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def near(a, b, within):
    assert float((a - b).detach().abs().max()) <= within * float(b.detach().abs().max()) + 1e-300


@pytest.mark.parametrize("name", SPECS)
def test_packed_is_separate(name):
    """Outputs and gradients, each clip with a size, length, text and clocks of its own."""
    net, given = network(SPECS[name]).double(), clips()
    packed, apart = net.packed(given), [net(*clip) for clip in given]
    for one, other in zip(packed, apart, strict=True):
        assert one.shape == other.shape
        near(one, other, 1e-11)
    ours, theirs = gradients(net, net.packed(given)), gradients(net, apart)
    assert ours.keys() == theirs.keys()
    largest = max(float(value.abs().max()) for value in theirs.values())
    assert all(float((ours[key] - value).abs().max()) <= 1e-10 * largest for key, value in theirs.items())


@torch.no_grad()
def test_packed_in_float32_and_one_clip_alone():
    net, given = network(BASE), clips(torch.float32, 1)
    for one, clip in zip(net.packed(given), given, strict=True):
        near(one, net(*clip), 1e-5)
    assert torch.equal(net.packed(given[:1])[0], net(*given[0]))


def test_no_clip_feels_another():
    net, given = network(SPECS["house"]).double(), clips()
    x = given[0][0].requires_grad_()
    text = given[1][2].text.requires_grad_()
    packed = net.packed(given)
    packed[2].square().sum().backward(retain_graph=True)
    assert not x.grad.any()
    assert not text.grad.any()
    packed[1].square().sum().backward()
    assert not x.grad.any()
    assert bool(text.grad.any())


def test_the_mask_of_documents_is_its_truth_table():
    asking, documents = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 0, 1])
    expected = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1]], dtype=torch.bool)
    assert torch.equal(Mask(asking=asking, documents=documents).dense()[0, 0], expected)
    keys = torch.tensor([[True, True, False, True]])
    assert torch.equal(Mask(keys, asking=asking, documents=documents).dense()[0, 0], expected & keys)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("causal", [False, True])
def test_flex_attention_with_the_blocks_of_documents(causal):
    torch.manual_seed(0)
    whose = torch.tensor([0, 0, 1, 1, 1, 0, 0, 1, 1, 1])
    groups = torch.tensor([0, 1, 0, 1, 2, 10, 11, 10, 10, 11]) if causal else None
    mask = Mask(None, groups, groups, whose, whose)
    q, k, v = torch.randn(3, 2, 2, 10, 16)
    torch.testing.assert_close(flex_attention(q, k, v, block_mask=mask.blocks()), attend(q, k, v, mask.dense()))


@pytest.mark.parametrize(("spec", "reason"), [
    (replace(BASE, temporal=Temporal(every=1)), "nothing to pack"),
    (replace(BASE, single=4, double=0, routing=MaskDiT()), "leaves out patches of one clip"),
    (replace(jit(48, 2, 3), patch=2, class_from=1, class_tokens=2, bottleneck=0), "join one sequence"),
    (replace(BASE, alone=1), "would see each other"),
    (sana(48, 2, 2, 2), "neighbours of one picture"),
])
def test_networks_that_cannot_be_packed(spec, reason):
    with pytest.raises(UserError, match=reason):
        network(spec).double().packed(clips())


def test_clips_that_cannot_be_packed():
    net, given = network(BASE).double(), clips()
    with pytest.raises(UserError, match="at least one"):
        net.packed([])
    with pytest.raises(UserError, match="these have 1, 2"):
        net.packed([given[0], clips(batch=1)[1]])
    with pytest.raises(UserError, match="others have none"):
        net.packed([given[0], (*given[1][:2], Condition(pooled=given[1][2].pooled))])
