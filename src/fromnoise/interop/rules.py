"""How the weights of a foreign network become those of ours, and back.

A foreign layout is a list of rules.  Each says which tensors of ours come from which of theirs, and how; read
forwards they import a state dict, backwards they export one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.types import UserError

Change = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Rule:
    """Tensors ``ours`` made from ``theirs`` by ``take``, and ``theirs`` from ``ours`` by ``give``."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    take: Change
    give: Change


def same(ours: str, theirs: str, *kinds: str) -> list[Rule]:
    """A layer with the same tensors; ``kinds``: which it has ("weight", "bias"), by default the name is a tensor."""
    names = [f".{kind}" for kind in kinds] or [""]
    return [Rule((ours + n,), (theirs + n,), lambda x: x, lambda x: x) for n in names]


def stacked(ours: str, theirs: Sequence[str], bias: bool) -> list[Rule]:
    """Linear maps of theirs that are one ``Stack`` of ours."""
    n = len(theirs)
    rules = [Rule((f"{ours}.weight",), tuple(f"{name}.weight" for name in theirs),
                  lambda x: [torch.stack(x)], lambda x: list(x[0].unbind()))]
    if bias:
        rules.append(Rule((f"{ours}.bias",), tuple(f"{name}.bias" for name in theirs),
                          lambda x: [torch.cat(x)], lambda x: list(x[0].chunk(n))))
    return rules


def split(ours: Sequence[tuple[str, int]], theirs: str, dim: int = 0) -> list[Rule]:
    """One tensor of theirs that is several of ours, ``(name, size)`` along ``dim``."""
    names, sizes = zip(*ours, strict=True)
    return [Rule(names, (theirs,), lambda x: list(x[0].split(sizes, dim)), lambda x: [torch.cat(x, dim)])]


def fused(ours: Sequence[tuple[str, tuple[int, ...]]], theirs: str) -> list[Rule]:
    """One matrix of theirs whose rows are several tensors of ours, ``(name, shape)``, one after another."""
    names, shapes = zip(*ours, strict=True)
    rows = [math.prod(shape[:-1]) for shape in shapes]
    return [Rule(names, (theirs,),
                 lambda x: [part.reshape(shape) for part, shape in zip(x[0].split(rows), shapes, strict=True)],
                 lambda x: [torch.cat([part.flatten(0, -2) for part in x])])]


def reordered(ours: str, theirs: str, order: Sequence[int], bias: bool = True) -> list[Rule]:
    """A linear map (or table) to several vectors, of which our i-th is their ``order[i]``-th."""
    back = [order.index(i) for i in range(len(order))]

    def by(order: Sequence[int]) -> Change:
        return lambda x: [torch.cat([x[0].chunk(len(order))[i] for i in order])]

    return [Rule((ours + kind,), (theirs + kind,), by(order), by(back)) for kind in (".weight", ".bias")[: 1 + bias]]


def shaped(ours: str, theirs: str, shape: Sequence[int], other: Sequence[int]) -> list[Rule]:
    """The same numbers in another shape: ``shape`` here, ``other`` there."""
    return [Rule((ours,), (theirs,), lambda x: [x[0].reshape(tuple(shape))], lambda x: [x[0].reshape(tuple(other))])]


def patch_rows(ours: str, theirs: str, channels: int, p: int, bias: bool = True, sign: int = 1) -> list[Rule]:
    """The last map: our rows are (channel, row, column) of a patch, theirs (row, column, channel).

    sign: -1 where theirs predicts data minus noise.
    """
    def take(x: list[Tensor]) -> list[Tensor]:
        return [sign * x[0].unflatten(0, (p, p, channels)).movedim(2, 0).flatten(0, 2)]

    def give(x: list[Tensor]) -> list[Tensor]:
        return [sign * x[0].unflatten(0, (channels, p, p)).movedim(0, 2).flatten(0, 2)]

    return [Rule((ours + kind,), (theirs + kind,), take, give) for kind in (".weight", ".bias")[: 1 + bias]]


def patch_columns(ours: str, theirs: str, channels: int, p: int) -> list[Rule]:
    """The first map: our columns are (channel, row, column) of a patch, theirs (row, column, channel)."""
    return [Rule((ours,), (theirs,),
                 lambda x: [x[0].unflatten(1, (p, p, channels)).movedim(3, 1).flatten(1)],
                 lambda x: [x[0].unflatten(1, (channels, p, p)).movedim(1, 3).flatten(1)])]


def changed(ours: str, theirs: str, take: Callable[[Tensor], Tensor], give: Callable[[Tensor], Tensor]) -> list[Rule]:
    """One tensor with its values changed (a sign, a gain stored around zero)."""
    return [Rule((ours,), (theirs,), lambda x: [take(x[0])], lambda x: [give(x[0])])]


def idle(theirs: str, *shape: int) -> list[Rule]:
    """A tensor of theirs that does nothing: it is passed over, and zeros are given for it."""
    return [Rule((), (theirs,), lambda x: [], lambda x: [torch.zeros(shape)])]


def copies(ours: str, theirs: Sequence[str]) -> list[Rule]:
    """One tensor of ours that they hold several times.  UserError where the copies differ."""
    def first(x: list[Tensor]) -> list[Tensor]:
        if any(not torch.equal(x[0], other) for other in x[1:]):
            raise UserError(f"The weights hold {listed(theirs)}, which are copies of one tensor here, but they differ: "
                            "they were trained apart, and this architecture has no place for that.")
        return x[:1]

    return [Rule((ours,), tuple(theirs), first, lambda x: x * len(theirs))]


def take(state: dict[str, Tensor], rules: Iterable[Rule], ignore: Sequence[str] = ()) -> dict[str, Tensor]:
    """Our state dict from theirs.  UserError naming what is missing, left over, or of a wrong shape.

    ignore: beginnings of their names that carry nothing.
    """
    ours, used = {}, set()
    rules = list(rules)
    missing = [name for rule in rules for name in rule.theirs if name not in state]
    if missing:
        raise UserError(f"The weights lack {listed(missing)}: they are not those of this architecture, or incomplete.")
    for rule in rules:
        try:
            ours |= dict(zip(rule.ours, rule.take([state[name] for name in rule.theirs]), strict=True))
        except RuntimeError:
            shapes = ", ".join(f"{name} {list(state[name].shape)}" for name in rule.theirs)
            raise UserError(f"The weights {shapes} do not have the shapes that the configuration says.") from None
        used |= set(rule.theirs)
    left = [name for name in state if name not in used and not name.startswith(tuple(ignore))]
    if left:
        raise UserError(f"The weights hold {listed(left)}, which this architecture has no place for.")
    return ours


def give(state: dict[str, Tensor], rules: Iterable[Rule]) -> dict[str, Tensor]:
    """Their state dict from ours."""
    theirs = {}
    for rule in rules:
        theirs |= dict(zip(rule.theirs, (x.contiguous() for x in rule.give([state[name] for name in rule.ours])),
                           strict=True))
    return theirs


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first few names."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
