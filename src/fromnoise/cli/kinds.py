"""Choosing the kind of a part on the command line: ``--net unet``, ``--objective.times uniform``.

This is done before any other option is read, so that those are the options of the kind chosen.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from fromnoise.cli.fields import Values, defaults, hints, kinds, names, part
from fromnoise.config import Chooses, nearest
from fromnoise.types import UserError


def choose_kinds(cls: Any, values: Values, args: list[str]) -> tuple[Values, list[str]]:
    """Apply ``--part kind`` arguments, outer parts first, and return the values and the arguments left.

    A path in place of a kind is short for the kind that needs one thing to be said, with that thing said:
    ``--data ./photos`` is ``--data folder --data.root ./photos``.
    """
    for depth in range(1, 1 + max([a.count(".") + 1 for a in args if a.startswith("--")], default=0)):
        rest: list[str] = []
        queue = list(args)
        while queue:
            token = queue.pop(0)
            name, equals, value = token.partition("=")
            path = name[2:].replace("-", "_").removesuffix(".kind").split(".")
            choice = _choice(cls, values, path) if name.startswith("--") and len(path) == depth else {}
            if not choice:
                rest.append(token)
                continue
            if not equals:
                value = queue.pop(0) if queue and not queue[0].startswith("--") else ""
            kind, given = _kind(name, value, choice)
            values = _with_kind(values, path, kind, choice[kind], given)
        args = rest
    return values, args


def _choice(cls: Any, values: Values, path: list[str]) -> dict[str, type]:
    """The kinds of the part at a path, as the values stand; nothing where there is no choice."""
    annotation = hints(cls).get(path[0])
    if annotation is None:
        return {}
    if len(path) == 1:
        return kinds(annotation)
    inner = part(annotation, values.get(path[0]))
    return {} if inner is None else _choice(inner, values[path[0]], path[1:])


def _kind(name: str, value: str, choice: dict[str, type]) -> tuple[str, Values]:
    """(kind, values it is given) that an argument asks for."""
    if value in choice:
        return value, {}
    if named := [(kind, field) for kind, spec in choice.items() for field in chooses(spec, value)]:
        kind, field = named[0]
        return kind, {field: value}
    if not value:
        raise UserError(f"{name} needs a value: one of {', '.join(choice)}.")
    if (short := shorthand(choice)) and looks_like_a_path(value):
        return short[0], {short[1]: value}
    raise UserError(f'{name} cannot be "{value}". {nearest(value, choice)}')


def shorthand(choice: dict[str, type]) -> tuple[str, str] | None:
    """(kind, field) where one of the kinds needs one thing to be said, and so can be chosen by saying it."""
    for kind, spec in choice.items():
        needed = [f.name for f in dataclasses.fields(spec) if f.name not in defaults(spec)]  # type: ignore[arg-type]
        if len(needed) == 1:
            return kind, needed[0]
    return None


def chooses(spec: type, value: str) -> list[str]:
    """The fields of a spec by whose value the kind is chosen too."""
    return [name for name, annotation in hints(spec).items()
            if any(isinstance(m, Chooses) for m in getattr(annotation, "__metadata__", ()))
            and value in names(annotation)]


def looks_like_a_path(text: str) -> bool:
    return bool(re.search(r"[/\\.~]", text)) or Path(text).is_dir()


def _with_kind(values: Values, path: list[str], kind: str, spec: type, given: Values) -> Values:
    """``values`` with the part at a path of that kind, at its defaults unless it was of that kind already."""
    first, rest = path[0], path[1:]
    if rest:
        return values | {first: _with_kind(values[first], rest, kind, spec, given)}
    old = values[first]
    return values | {first: (old if old["kind"] == kind else defaults(spec)) | given}
