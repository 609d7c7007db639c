"""A network of ours against its peer in diffusers: the same outputs and gradients, from the peer's own weights.

Peers are tiny, and every parameter is made random again: fresh ones hide bugs behind gains of one and zeros.
"""

from __future__ import annotations

import torch
from torch.overrides import TorchFunctionMode

from fromnoise.interop.rules import give, take
from fromnoise.interop.transformers import FAMILIES

B, L, H, W = 2, 5, 6, 10


DOUBLE = {torch.float32: torch.float64, torch.complex64: torch.complex128}


class Exact(TorchFunctionMode):
    """float64 all the way: peers round norms, turns and sinusoids to float32, which would hide 1e-10."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        def wide(value):
            return DOUBLE.get(value, value) if isinstance(value, torch.dtype) else value

        kwargs = kwargs or {}
        if func is torch.Tensor.float:
            return args[0].double()
        if func is torch.Tensor.type_as and args[0].dtype == torch.float64:
            return args[0]
        if func in (torch.Tensor.to, torch.arange):
            args, kwargs = [wide(a) for a in args], {k: wide(a) for k, a in kwargs.items()}
        return func(*args, **kwargs)


def randomised(module, seed=0):
    """The module with every parameter drawn anew, in float64."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    for name, p in module.named_parameters():
        centre = 1.0 if "norm" in name and p.ndim == 1 and name.endswith("weight") else 0.0
        p.data = centre + 0.2 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return module


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def packed(x, p=2):
    """``[B, C, H, W]`` to the tokens ``[B, N, C p p]`` that some pipelines hand to their transformer."""
    b, c, h, w = x.shape
    x = x.view(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(b, (h // p) * (w // p), c * p * p)


def ids(h, w, axes):
    """Positions (0, row, column, ...) of h x w tokens."""
    found = torch.zeros(h, w, axes)
    found[..., 1], found[..., 2] = torch.arange(h)[:, None], torch.arange(w)[None]
    return found.reshape(-1, axes)


def assert_parity(case, channels=4, text_width=24, pooled_width=20, size=(H, W)):
    """``case()`` is (class name, peer, run, condition), where ``run(x, t, condition)`` calls the peer."""
    with Exact():
        family, peer, run, condition = case()
    config, family = dict(peer.config), FAMILIES[family]
    spec = family.spec(config)
    net = spec.build(channels, text_width, pooled_width).double()
    rules = list(family.rules(spec, config))
    elsewhere = {name for rule in family.told(config) for name in rule.theirs} | set(family.tables)
    theirs = {k: v for k, v in peer.state_dict().items() if k not in elsewhere}
    ours = take(theirs, rules)
    net.load_state_dict(ours)
    idle = {name for rule in rules if not rule.ours for name in rule.theirs}
    for k, v in give(ours, rules).items():  # and back
        assert v.shape == theirs[k].shape if k in idle else torch.allclose(v, theirs[k], rtol=0, atol=1e-14), k

    x, t = draw(B, channels, *size), torch.tensor([0.3, 0.85], dtype=torch.float64)
    for parameter in (*net.parameters(), *peer.parameters()):
        parameter.grad = None
    with Exact():
        mine = net.whole(x[:, None], t[:, None], condition)[:, 0]
        its = run(x, t, condition)
    mine_shaped = packed(mine) if its.ndim == 3 else mine
    assert float((mine_shaped - its).detach().abs().max()) < family.tolerance * float(its.detach().abs().max())

    direction = draw(*its.shape, seed=9)
    (its * direction).sum().backward()
    (mine_shaped * direction).sum().backward()
    named = peer.named_parameters(remove_duplicate=False)
    grads = {k: (torch.zeros_like(p) if p.grad is None else p.grad) for k, p in named if k not in elsewhere}
    still = take({k: torch.zeros_like(g) for k, g in grads.items()}, rules)  # a rule may move the origin
    expected = {k: g - still[k] for k, g in take(grads, rules).items()}
    for k, p in net.named_parameters():
        scale = float(expected[k].abs().max())
        assert p.grad is not None or scale == 0, k
        if p.grad is not None:
            assert float((p.grad - expected[k]).abs().max()) <= 10 * family.tolerance * max(scale, 1e-3), k
