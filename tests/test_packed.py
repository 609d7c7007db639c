"""Packed maps are the maps they were made of: to rounding in float32, to a few digits in bfloat16."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fromnoise.blocks import AttentionSpec, FeedForwardSpec, packable, packed
from fromnoise.blocks.heads import Stack
from fromnoise.blocks.packed import Packed
from fromnoise.nets import Trunk, house
from fromnoise.nets.trunk.settings import Temporal
from fromnoise.types import Condition

pytestmark = pytest.mark.skipif(not packable(torch.device("cpu")), reason="this torch arranges no weights")
SPECS = {
    "house": replace(house(width=64, heads=2, depth=2, patch=2), temporal=Temporal(every=1, causal=True)),
    "biased, gated, grouped": Trunk(width=64, single=2, attention=AttentionSpec(
        heads=4, kv_heads=2, bias=True, out_bias=True, gate=True), feed_forward=FeedForwardSpec(gated=True, bias=True)),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 7])
@torch.no_grad()
def test_a_packed_stack_is_a_stack(bias, rows):
    torch.manual_seed(0)
    stack, x = Stack(3, 10, 6, bias), torch.randn(2, rows, 10)
    if stack.bias is not None:
        nn.init.normal_(stack.bias)
    quick = Packed(stack.weight.flatten(0, 1), stack.bias, 3, torch.float32)
    torch.testing.assert_close(quick(x), stack(x))
    for a, b in zip(quick.apart(x), stack.apart(x), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", SPECS)
@torch.no_grad()
def test_a_packed_network_says_what_it_said(name):
    torch.manual_seed(0)
    net = SPECS[name].build(3, 8)
    for p in net.parameters():
        nn.init.normal_(p, std=0.2)
    x, t, told = torch.randn(2, 4, 3, 8, 8), torch.rand(2, 4), Condition(text=torch.randn(2, 3, 8))
    whole = net(x, t, told)
    near = packed(net)
    torch.testing.assert_close(near(x, t, told), whole, rtol=1e-4, atol=1e-4)
    rough = packed(net, torch.bfloat16)
    assert 0 < float((rough(x, t, told) - whole).std() / whole.std()) < 0.05
    assert not any(isinstance(part, Packed) for part in net.modules())
    torch.testing.assert_close(net(x, t, told), whole, rtol=0, atol=0)  # which stays as it was
    assert not any(isinstance(part, Stack) for part in near.modules())
