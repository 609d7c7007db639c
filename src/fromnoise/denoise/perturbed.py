"""A denoiser made worse by disturbing some layers of its network: the weak side of guidance without training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from fromnoise.blocks import Perturbation
from fromnoise.denoise.denoiser import Denoise, Denoiser
from fromnoise.nets.trunk import Route, Sprint
from fromnoise.types import Condition, UserError


def perturbed(denoiser: Denoiser, layers: Sequence[int], how: Literal["identity", "skip"] = "identity") -> Denoise:
    """``denoiser`` with the attention of ``layers`` disturbed (counted from 0; -1 is the last).

    how: "identity" is perturbed-attention guidance (Ahn et al. 2024), in which no place of the picture sees another;
    "skip" is skip-layer guidance, which leaves the layers out.  Give it to ``autoguidance`` or ``mixed``.
    UserError for a network without such layers.
    """
    depth = getattr(denoiser.net, "attention_layers", 0)
    if not depth:
        raise UserError(f"{type(denoiser.net).__name__} has no attention layers that could be perturbed.")
    if not layers or any(not -depth <= layer < depth for layer in layers):
        raise UserError(f"The layers to perturb are numbers from 0 to {depth - 1} (got {list(layers)}).")
    if how not in ("identity", "skip"):
        raise UserError(f'Layers are perturbed by "identity" or "skip" (got {how!r}).')
    perturbation = Perturbation(tuple(layer % depth for layer in layers), how)

    def weak(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return denoiser(x, t, condition, perturb=perturbation)

    return weak


def path_dropped(denoiser: Denoiser) -> Denoise:
    """``denoiser`` without the middle blocks that few patches went through while it trained (Sprint).

    As the weak side of ``autoguidance`` it is path-drop guidance (Park et al. 2025), which costs the few blocks that
    are left.  UserError for a network that was not trained so.
    """
    if not isinstance(getattr(getattr(denoiser.net, "spec", None), "routing", None), Sprint):
        raise UserError('Path-drop guidance is for a trunk that was trained with net.routing "sprint".')

    def weak(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return denoiser(x, t, condition, route=Route.past(len(x), x.device))

    return weak
