"""Every fast path of the trunk beside its slow twin."""

import pytest
import torch
import torch.nn.functional as F

from fromnoise.blocks.attention import attend, attend_math, attend_pieces
from fromnoise.blocks.heads import Stack
from fromnoise.blocks.layers import lean_rms_norm


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def gradients(y, *of):
    return torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view_as(y).to(y.dtype)).sum(), of)


MASKS = {
    "none": None,
    "keys": torch.arange(9) < torch.tensor([[5], [9]])[:, None, None],
    "causal": (torch.arange(7)[:, None] + 2 >= torch.arange(9))[None, None],
    "nothing to see": torch.zeros(2, 1, 1, 9, dtype=torch.bool),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("path", [attend_math, attend_pieces])
def test_written_out_attention_is_the_fused_one(mask, path):
    q, k, v = draw(2, 3, 7, 4), draw(2, 3, 9, 4, seed=1), draw(2, 3, 9, 4, seed=2)
    fused, mine = F.scaled_dot_product_attention(q, k, v, attn_mask=MASKS[mask]), path(q, k, v, MASKS[mask])
    torch.testing.assert_close(mine, fused)
    for a, b in zip(gradients(mine, q, k, v), gradients(fused, q, k, v), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("mask", MASKS)
def test_half_precision_attention_is_as_near_as_the_fused_one(mask):
    q, k, v = (draw(2, 3, n, 4, seed=i, dtype=torch.bfloat16) for i, n in enumerate((7, 9, 9)))
    exact = attend_math(q.double(), k.double(), v.double(), MASKS[mask])
    near = (attend(q, k, v, MASKS[mask]) - exact).abs().mean()
    plain = F.scaled_dot_product_attention(q, k, v, MASKS[mask])
    assert float(near.detach()) <= 2 * float((plain - exact).detach().abs().mean())


def test_autocast_is_half_precision():
    q, k = draw(1, 1, 4, 4, dtype=torch.float32), draw(1, 1, 4, 4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert attend(q, k, k).dtype == torch.bfloat16


@pytest.mark.parametrize("gain", [True, False])
def test_lean_rms_norm_is_the_rms_norm(gain):
    x, w = draw(5, 8, dtype=torch.float32), draw(8, seed=1, dtype=torch.float32) if gain else None
    x.data[0] = 0  # no direction to divide by
    mine, theirs = lean_rms_norm(x, w, 1e-6), F.rms_norm(x, (8,), w, 1e-6)
    torch.testing.assert_close(mine, theirs)
    of = (x, w) if gain else (x,)
    for a, b in zip(gradients(mine, *of), gradients(theirs, *of), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_lean_rms_norm_rounds_once():
    x, w = draw(50, 64, dtype=torch.bfloat16), draw(64, seed=1, dtype=torch.bfloat16)
    exact = F.rms_norm(x.double(), (64,), w.double(), 1e-6)
    assert float(((lean_rms_norm(x, w, 1e-6) - exact) / exact).detach().abs().max()) <= 2**-8


@pytest.mark.parametrize("bias", [True, False])
def test_maps_apart_are_the_maps_together(bias):
    stack = Stack(3, 8, 6, bias).double()
    if bias:
        torch.nn.init.normal_(stack.bias)
    x = draw(2, 5, 8)
    torch.testing.assert_close(torch.cat(stack.apart(x), dim=-1), stack(x))
