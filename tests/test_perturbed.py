"""Networks disturbed on purpose, against loops that do it by hand; every weight re-randomised."""

import math
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from fromnoise.blocks import rms_norm
from fromnoise.denoise import Denoiser, autoguidance, perturbed
from fromnoise.nets import UNet, house
from fromnoise.process import Flow
from fromnoise.types import Condition, UserError


def random_net(spec, text=16):
    net = spec.build(3, text).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.2 * torch.randn(p.shape))
    return net.requires_grad_(False)


def loop(q, k, v, bias, words):
    """Perturbed attention on ``[B, N, heads, d]``: a word attends to everything, a place to the words and itself."""
    out = torch.zeros_like(v)
    for n in range(q.shape[1]):
        seen = list(range(q.shape[1])) if n < words else [*range(words), n]
        logits = torch.einsum("bhd,bmhd->bhm", q[:, n], k[:, seen]) / math.sqrt(q.shape[-1])
        if bias is not None:
            logits = logits + bias[:, :, n if bias.shape[2] > 1 else 0][..., seen]
        out[:, n] = torch.einsum("bhm,bmhd->bhd", logits.softmax(-1), v[:, seen])
    return out.flatten(2)


def by_hand(attention, words):
    """The U-Net's attention with ``loop`` in its middle."""
    def forward(x, bias=None):
        q, k, v = ((x @ w.mT).unflatten(-1, (attention.heads, -1)) for w in attention.qkv)
        q, k = rms_norm(q) * attention.q_scale, rms_norm(k) * attention.k_scale
        return attention.out(loop(q, k, v, bias, words))

    return forward


def inputs():
    return torch.randn(2, 1, 3, 4, 6).double(), torch.rand(2, 1).double(), Condition(torch.randn(2, 3, 16).double())


TRUNK = house(width=32, depth=3, heads=2, patch=2)


def blocks(net):
    return net.stages["single_stream"].blocks


@pytest.mark.parametrize("words", [0, 4])
@pytest.mark.parametrize("frames", [1, 2])
def test_perturbed_attention_equals_its_slow_twin(words, frames, monkeypatch):
    net = random_net(TRUNK)
    x, t = torch.randn(2, frames, 3, 4, 6).double(), torch.rand(2, frames).double()
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    condition = Condition(torch.randn(2, words, 16).double(), mask) if words else Condition()
    denoiser = Denoiser(net, Flow(), "velocity")
    weak = perturbed(denoiser, [0, -1])(x, t, condition)
    plain = denoiser(x, t, condition)
    for layer in (0, 2):
        monkeypatch.setattr(blocks(net)[layer], "attend", partial(loop, words=words))
    assert_close(weak, denoiser(x, t, condition))
    assert float((weak - plain).abs().max()) > 1e-3


def test_without_words_perturbed_attention_passes_the_values_on(monkeypatch):
    """Softmax over one place is 1, so that the attention map is the identity."""
    net = random_net(TRUNK)
    denoiser, (x, t) = Denoiser(net, Flow(), "x0"), (torch.randn(2, 1, 3, 4, 6).double(), torch.tensor(0.3))
    weak = perturbed(denoiser, [1])(x, t, Condition())
    monkeypatch.setattr(blocks(net)[1], "attend", lambda q, k, v, bias: v.flatten(2))
    assert_close(weak, denoiser(x, t, Condition()))


def test_skipping_layers_is_the_network_without_them():
    net = random_net(TRUNK)
    denoiser = Denoiser(net, Flow(), "velocity")
    x, t, condition = inputs()
    weak = perturbed(denoiser, [1], "skip")(x, t, condition)
    vectors = blocks(net)[1].layers["all"].modulation.map
    for gate in (2, 5):  # a block whose gates are closed is not there
        rows = slice(gate * 32, (gate + 1) * 32)
        vectors.weight[rows] = 0
        vectors.bias[rows] = 0
    assert_close(weak, denoiser(x, t, condition))


@pytest.mark.parametrize("how", ["identity", "skip"])
def test_the_unet_has_one_attention_to_perturb(how, monkeypatch):
    net = random_net(UNet(width=8, multipliers=(1, 2), heads=2))
    denoiser = Denoiser(net, Flow(), "velocity")
    x, t, condition = inputs()
    weak, plain = perturbed(denoiser, [0], how)(x, t, condition), denoiser(x, t, condition)
    attention = net.attention.attention
    slow = by_hand(attention, 3) if how == "identity" else lambda x, bias: torch.zeros_like(x)
    monkeypatch.setattr(attention, "forward", slow)
    assert_close(weak, denoiser(x, t, condition))
    assert float((weak - plain).abs().max()) > 1e-4


def test_a_perturbation_leaves_no_trace_and_off_is_the_same_bits():
    denoiser = Denoiser(random_net(TRUNK), Flow(), "velocity")
    x, t, condition = inputs()
    before = denoiser(x, t, condition)
    guided = autoguidance(denoiser, perturbed(denoiser, [0, 1]), 2.0, (0.0, 0.4))
    guided(x, torch.tensor(0.2), condition)
    assert torch.equal(denoiser(x, t, condition), before)
    off = torch.tensor(0.5)
    assert torch.equal(guided(x, off, condition), denoiser(x, off, condition))


def test_layers_that_are_not_there_are_a_sentence():
    denoiser = Denoiser(random_net(TRUNK), Flow(), "velocity")
    for layers in ([3], [-4], []):
        with pytest.raises(UserError, match="from 0 to 2"):
            perturbed(denoiser, layers)
    with pytest.raises(UserError, match='"identity" or "skip"'):
        perturbed(denoiser, [0], "swap")
    with pytest.raises(UserError, match="Identity has no attention layers"):
        perturbed(Denoiser(torch.nn.Identity(), Flow(), "x0"), [0])
