"""A LoRA added to the weights of our networks, and taken out again.

Weights of the peer become ours by rules that are linear but for a constant, so a change of the peer's weights becomes a
change of ours by the same rules: rule(change) - rule(0).  Stacked queries, keys and values, permuted rows and fused
layers need nothing of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.interop.lora.file import Factors, Lora
from fromnoise.interop.lora.places import Place, located
from fromnoise.interop.rules import Rule
from fromnoise.types import UserError


@dataclass
class Merged:
    """A LoRA in the weights of a model.  Several may be there at once; each goes by itself, in any order.

    where: the file it is from;  sha256: of what that says.  ``scale`` may be changed by ``rescale``.  Nothing is kept
    beside the factors: what was added is computed again and subtracted, so weights come back to the rounding of their
    numbers.  As a context manager it leaves at the end.
    """

    places: Mapping[str, Place]
    factors: Mapping[str, Mapping[str, Factors]]
    where: str = ""
    sha256: str = ""
    scale: float = 0.0

    def rescale(self, scale: float) -> None:
        """Have it in the weights with this scale."""
        for component, factors in self.factors.items() if scale != self.scale else ():
            for weight, change in changes(self.places[component], factors):
                weight.add_(change, alpha=scale - self.scale)
        self.scale = scale

    def remove(self) -> None:
        """Take it out of the weights."""
        self.rescale(0.0)

    def __enter__(self) -> Merged:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


def apply_lora(places: Mapping[str, Place], lora: Lora, scale: float = 1.0) -> Merged:
    """Add ``scale`` times a LoRA to the weights, in place, and say how to take it out again.

    places: the network under ``NETWORK`` and the text encoders under their names.  UserError, with the weights as they
    were, where a layer of the file has no place or another shape.
    """
    found = located(places, lora)
    for component, factors in found.items():
        for rule in touched(places[component], factors):
            check(places[component], rule, factors, lora.where)
    merged = Merged(places, found, lora.where, lora.sha256)
    merged.rescale(scale)
    return merged


def touched(place: Place, factors: Mapping[str, Factors]) -> Iterator[Rule]:
    """The rules through which a LoRA goes."""
    return (rule for rule in place.rules if any(name in factors for name in rule.theirs))


def their_shapes(place: Place, rule: Rule) -> list[torch.Size]:
    """The shapes of the peer's weights in a rule."""
    ours = [place.module.get_parameter(name).detach().to("meta") for name in rule.ours]
    return [tensor.shape for tensor in rule.give(ours)]


def check(place: Place, rule: Rule, factors: Mapping[str, Factors], where: str) -> None:
    """UserError where factors do not have the shape of the peer's weight, or copies of one weight are adapted apart."""
    shapes = their_shapes(place, rule)
    for name, shape in zip(rule.theirs, shapes, strict=True):
        if name in factors and not factors[name].fits(shape):
            rows, columns = list(factors[name].up.shape[:1]), list(factors[name].down.shape[1:])
            raise UserError(f"{where} is for another size of model: its {name.removesuffix('.weight')} is "
                            f"{rows + columns}, and the weight here is {list(shape)}.")
    if len(rule.theirs) > len(rule.ours) == 1:
        change(place, rule, factors)  # where ours is one for several copies of theirs, these must agree


def changes(place: Place, factors: Mapping[str, Factors]) -> Iterator[tuple[Tensor, Tensor]]:
    """Our weights that a LoRA changes, and by how much; one after another, since they are as large as the network."""
    for rule in touched(place, factors):
        for name, difference in change(place, rule, factors).items():
            yield place.module.get_parameter(name).detach(), difference


@torch.no_grad()
def change(place: Place, rule: Rule, factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    """The change of our weights that come from a rule, in float32 or wider."""
    if not rule.ours:
        return {}
    like = place.module.get_parameter(rule.ours[0])
    dtype = torch.promote_types(like.dtype, torch.float32)
    zeros = [torch.zeros(shape, dtype=dtype, device=like.device) for shape in their_shapes(place, rule)]
    theirs = [factors[name].delta(zero) if name in factors else zero
              for name, zero in zip(rule.theirs, zeros, strict=True)]
    ours = [new - still for new, still in zip(rule.take(theirs), rule.take(zeros), strict=True)]
    return dict(zip(rule.ours, ours, strict=True))
