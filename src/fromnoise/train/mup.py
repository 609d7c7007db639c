"""muP: learning rates that hold at every width (Yang et al. 2022, "Tensor Programs V", table 3).

What one step of Adam does to the output of a matrix grows with its number of inputs, for its entries move by the
learning rate whatever the width and all of them in agreement.  So at m times the width for which a rate was chosen,

    matrix        inputs    outputs   AdamW's rate   initial scale
    first layer   fixed     m         lr             fan_in^-1/2
    hidden        m         m         lr / m         fan_in^-1/2
    last layer    m         fixed     lr / m         0 here (elsewhere fan_in^-1)
    vector                            lr             as it is

The trunk's initial weights are these already, and its outputs start at zero, so that the rates are all that is left.
Muon needs no rule: a step changes a matrix by lr sqrt(max(1, rows / columns)) in the spectral norm, which is
what hidden activations need to move alike at every width (Yang, Simon and Bernstein 2023, condition 1).  Heads that
grow with the width want ``net.attention.base_dim`` as well; where there are more heads instead, nothing.
Magnitude-preserving matrices (``blocks.magnitude``) are used over the root of their inputs, which is half of the rule:
lr / sqrt(m) is left of it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from fromnoise.nets import Trunk
from fromnoise.recipe import Net
from fromnoise.system import Built, System
from fromnoise.types import UserError


def slower(system: Built) -> dict[str, float]:
    """By how much AdamW's rate is divided, for every parameter of ``system`` whose inputs grow with the width.

    Empty where ``train.optimizer.base_width`` is 0 or the width itself.  UserError for an autoencoder, and for a
    network that cannot be made twice as wide, which is how it is seen what grows.
    """
    recipe, base = system.recipe, system.recipe.train.optimizer.base_width
    if not base:
        return {}
    if not isinstance(system, System):
        raise UserError("train.optimizer.base_width is for diffusion models: leave it out.")
    net = system.denoiser.net
    if base == recipe.net.width:
        return {}
    pooled = recipe.text.pooled_width
    told = getattr(getattr(recipe.net, "time", None), "pooled", "none")
    try:
        with torch.device("meta"):
            wider = twice(recipe.net).build(system.latents.channels, recipe.text.width,
                                            pooled and (2 * pooled if told == "add" else pooled))
    except UserError as error:
        raise UserError("train.optimizer.base_width needs a network that can be made twice as wide; this one is then "
                        f"refused: {error}") from None
    by = recipe.net.width / base
    if getattr(recipe.net, "magnitude", False):
        by **= 0.5
    return {f"denoiser.net.{name}": by for name in inputs_grow(net, wider)}


def twice(net: Net) -> Net:
    """The network with twice the width, and twice the heads of the same size."""
    if not isinstance(net, Trunk):
        return replace(net, width=2 * net.width, heads=2 * net.heads)
    a = net.attention
    more = replace(a, heads=2 * a.heads, kv_heads=2 * a.kv_heads, cross_heads=2 * a.cross_heads)
    return replace(net, width=2 * net.width, attention=more)


def inputs_grow(net: nn.Module, wider: nn.Module) -> list[str]:
    """The matrices and convolutions of ``net`` that have more inputs in ``wider``."""
    shapes = {name: p.shape for name, p in wider.named_parameters()}
    found = []
    for name, p in net.named_parameters():
        inputs = 2 if p.ndim == 3 else 1  # [n, out, in] is n matrices
        if p.ndim > 1 and name.endswith(("weight", "qkv")) and shapes[name][inputs] > p.shape[inputs]:
            found.append(name)
    return found
