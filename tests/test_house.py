"""The house transformer, a preset of the trunk, against the network of its own that it was."""

import pytest
import torch
import torch.nn.functional as F

from fromnoise.blocks import Perturbation, sinusoid
from fromnoise.nets import Transformer
from fromnoise.nets.trunk.house import from_older, house
from fromnoise.types import Condition

CASES = {
    "relative": {"width": 48, "heads": 3, "depth": 3, "patch": 2, "reach": 2},
    "rotary": {"width": 32, "heads": 2, "depth": 2, "patch": 2, "positions": "rotary"},
    "odd": {"width": 42, "heads": 3, "depth": 2, "patch": 3, "mlp_ratio": 2.7, "reach": 3},
    "bare": {"width": 32, "depth": 2, "patch": 1, "token_shift": False, "pooled_text": False, "places": False},
}


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def both(case):
    old = Transformer(**CASES[case]).build(3, 16).double()
    for i, p in enumerate(old.parameters()):
        p.data = 0.3 * draw(*p.shape, seed=i)
    new = house(**CASES[case]).build(3, 16).double()
    new.load_state_dict(from_older(old.state_dict(), "", new.spec))
    return old, new


@pytest.mark.parametrize("perturb", [(), ((1,), "identity"), ((0,), "skip")])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_network_that_it_was(case, T, padded, perturb, monkeypatch):
    old, new = both(case)

    def embed(self, t):  # both round the frequencies to float32, each in its own way
        waves = sinusoid(30 * t, 128, 30.0, 1.0).double().unflatten(-1, (2, 64)).flip(-1).flatten(-2)
        return self.outer(F.silu(self.inner(waves)))

    monkeypatch.setattr(type(old.time), "forward", embed)
    x, t = draw(2, T, 3, 6, 12, seed=50), torch.rand(2, T, dtype=torch.float64)
    told = Condition(draw(2, 5, 16, seed=51), torch.arange(5) < torch.tensor([[3], [5]]) if padded else None)
    theirs, ours = (net(x, t, told, Perturbation(*perturb)) for net in (old, new))
    near = 1e-10 if case != "rotary" else 1e-5  # its angles are in float32
    torch.testing.assert_close(ours, theirs, rtol=near, atol=near)
    for y in (ours, theirs):
        (y * draw(*y.shape, seed=52)).sum().backward()
    wanted = from_older({name: gradient(p) for name, p in old.named_parameters()}, "", new.spec)
    for name, p in new.named_parameters():
        torch.testing.assert_close(gradient(p), wanted[name], rtol=near, atol=near)


def gradient(p):
    return torch.zeros_like(p) if p.grad is None else p.grad
