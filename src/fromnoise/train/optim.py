"""Optimisers: Muon for the matrices inside blocks, AdamW for everything else, and the rate over time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from fromnoise.recipe import Optimizer

# Parts of parameter names that mark first and last layers, tables and modulation: not Muon's business,
# because their rows are looked up, or their inputs and outputs have a meaning of their own.
OUTER = ("embedding", "position", "places", "_in.", "_out.", "head.", "pad.", "modulation", "maps", "depthwise", "time",
         "bias")


NO_RULE: Mapping[str, float] = MappingProxyType({})


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised (Jordan et al. 2024).

    Matrices of one shape are orthogonalised together in one batched Newton-Schulz iteration in float32, stacks of
    matrices and convolutions among them.  torch's own Muon takes matrices alone, one at a time and in bfloat16, which
    costs many small operations on small networks (and less than ours on wide ones, where the CPU has bfloat16:
    docs/training-efficiency.md).  The update is scaled by sqrt(max(1, rows / columns)), which is torch's
    ``adjust_lr_fn="original"``.
    """

    def __init__(self, params, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[p.shape].append(p)
            for params in shapes.values():
                buffers = [self._momentum(p) for p in params]
                grads = [p.grad for p in params if p.grad is not None]
                torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])  # type: ignore[call-overload]
                nesterov = torch._foreach_lerp(grads, buffers, group["momentum"])  # type: ignore[call-overload]
                matrices = torch.stack(nesterov)
                if matrices.ndim >= 5:  # a convolution is a matrix [out, in * k * ...]; [n, out, in] is n matrices
                    matrices = matrices.flatten(2)
                updates = orthogonalise(matrices) * max(1, matrices.shape[-2] / matrices.shape[-1]) ** 0.5
                if group["weight_decay"]:
                    torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
                updates = updates.to(params[0].dtype).view(len(params), *params[0].shape)
                torch._foreach_add_(params, list(updates.unbind()), alpha=-group["lr"])

    def _momentum(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        return state["momentum"]


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices, about: singular values pushed to [0.7, 1.2] by a quintic iteration.

    Each iteration is x <- q(g) x with g = x x' and q(g) = a + b g + c g^2 (coefficients of Jordan et al.
    2024).  All q commute with g, so the product of the q is gathered on the small side alone, with
    g <- q g q, and meets the wide matrix once, which halves the work for convolutions.

    matrices: ``[..., m, n]``.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).float()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    gram = x @ x.mT
    product = one = torch.eye(x.shape[-2], device=x.device)
    for step in range(steps):
        q = a * one + b * gram + c * gram @ gram
        product = q @ product
        gram = q @ gram @ q if step < steps - 1 else gram
    x = product @ x
    return x.mT if tall else x


def build_optimizers(module: nn.Module, spec: Optimizer,
                     slower: Mapping[str, float] = NO_RULE,
                     without: Collection[str] = ()) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon where the recipe asks for it.  Every trainable parameter but those ``without`` is in one of them.

    slower: by how much AdamW's rate is divided for some of the parameters, by name (``mup.slower``); what a step takes
    away by weight decay stays.  Muon's rate is the same at every width: see there.
    """
    matrices: list[Tensor] = []
    rest: dict[float, list[Tensor]] = {1.0: []}
    for name, p in module.named_parameters():
        if p.requires_grad and name not in without:
            muon = spec.matrices == "muon" and p.ndim in (2, 3, 4, 5) and not any(part in name for part in OUTER)
            (matrices if muon else rest.setdefault(slower.get(name, 1.0), [])).append(p)
    groups = [{"params": group, "lr": spec.lr / by, "weight_decay": spec.weight_decay * by}
              for by, group in rest.items() if group]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, betas=spec.betas, fused=True)]
    if matrices:
        optimizers.append(Muon(matrices, lr=spec.muon_lr, weight_decay=spec.weight_decay))
    return optimizers


def rate(step: int, steps: int, spec: Optimizer) -> float:
    """Factor on the learning rates at step 0, 1, ...: linear warm-up, constant, linear to zero at the end.

    With ``decay_after`` it also falls as the inverse square root of the steps from there on (EDM2, eq. 67).
    """
    warm = min(1.0, (step + 1) / (spec.warmup + 1))
    cool = (steps - step) / max(1.0, spec.cooldown * steps) if spec.cooldown else 1.0
    decay = max(1.0, step / spec.decay_after) ** -0.5 if spec.decay_after else 1.0
    return min(warm, cool, 1.0) * decay
