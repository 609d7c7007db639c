"""Choosing the kind of a part on the command line: ``--net unet``, ``--objective.times uniform``.

This is done before any other option is read, so that those are the options of the kind chosen.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fromnoise.cli.fields import Values, defaults, hints, kinds, named, names, part
from fromnoise.config import Chooses, Named, nearest, to_dict
from fromnoise.types import UserError


def choose_kinds(cls: Any, values: Values, args: list[str]) -> tuple[Values, list[str]]:
    """Apply ``--part kind`` arguments, outer parts first, and return the values and the arguments left.

    A path in place of a kind is short for the kind that needs one thing to be said, with that thing said:
    ``--data ./photos`` is ``--data folder --data.root ./photos``.  The name of a function (``config.Named``) stands
    for what that makes of its arguments, which are options where the part has no field of that name:
    ``--net transformer --net.depth 3``.
    """
    for depth in range(1, 1 + max([a.count(".") + 1 for a in args if a.startswith("--")], default=0)):
        rest: list[str] = []
        queue = list(args)
        while queue:
            token = queue.pop(0)
            name, equals, value = token.partition("=")
            path = name[2:].replace("-", "_").removesuffix(".kind").split(".")
            annotation = _annotation(cls, values, path) if name.startswith("--") and len(path) == depth else None
            choice = kinds(annotation)
            if not choice:
                rest.append(token)
                continue
            if not equals:
                value = queue.pop(0) if queue and not queue[0].startswith("--") else ""
            if function := named(annotation).get(value):
                new, (queue, rest) = _made(name, function, queue, rest)
                values = _with_part(values, path, new)
                continue
            kind, given = _kind(name, value, _now_first(choice, values, path), named(annotation))
            values = _with_kind(values, path, kind, choice[kind], given)
        args = rest
    return values, args


def _annotation(cls: Any, values: Values, path: list[str]) -> Any:
    """The annotation of the field at a path, as the values stand; None where there is no such field."""
    annotation = hints(cls).get(path[0])
    if annotation is None or len(path) == 1:
        return annotation
    inner = part(annotation, values.get(path[0]))
    return None if inner is None else _annotation(inner, values[path[0]], path[1:])


def _now_first(choice: dict[str, type], values: Values, path: list[str]) -> dict[str, type]:
    """The kinds with that of the part as it stands in front: a path alone is taken for that one where it can be."""
    for name in path:
        values = values[name]
    now = values["kind"]
    return {now: choice[now], **choice} if now in choice else choice


def _kind(name: str, value: str, choice: dict[str, type], names: Iterable[str]) -> tuple[str, Values]:
    """(kind, values it is given) that an argument asks for; ``names``: what else could have been said."""
    if value in choice:
        return value, {}
    if named := [(kind, field) for kind, spec in choice.items() for field in chooses(spec, value)]:
        kind, field = named[0]
        return kind, {field: value}
    if not value:
        raise UserError(f"{name} needs a value: one of {', '.join([*choice, *names])}.")
    if (short := shorthand(choice)) and looks_like_a_path(value):
        return short[0], {short[1]: value}
    raise UserError(f'{name} cannot be "{value}". {nearest(value, [*choice, *names])}')


def _made(name: str, function: Named, *parts: list[str]) -> tuple[Values, list[list[str]]]:
    """What a function makes of its arguments among the options, and the ``parts`` of the options without these."""
    own = to_dict(function.make())
    arguments = {key: default for key, default in function.arguments.items() if key not in own}
    given, left = {}, []
    for options in parts:
        found, rest = _arguments(name, arguments, list(options))
        given |= found
        left.append(rest)
    try:
        return to_dict(function.full({"kind": function.name, **given})), left
    except ValueError as error:
        raise UserError(f"{name} {error}.") from None


def _arguments(name: str, arguments: Values, queue: list[str]) -> tuple[Values, list[str]]:
    """(the values said of ``arguments``, which have these defaults, as options of ``name``; the other options)."""
    given, rest = {}, []
    flags = {f"{no}{key}": not no for key, default in arguments.items() if isinstance(default, bool)
             for no in ("", "no_")}
    while queue:
        option, equals, value = (token := queue.pop(0)).partition("=")
        key = option.removeprefix(f"{name}.").replace("-", "_") if option.startswith(f"{name}.") else ""
        if key in flags:
            given[key.removeprefix("no_")] = flags[key]
        elif key in arguments:
            given[key] = value if equals else queue.pop(0) if queue else ""
        else:
            rest.append(token)
    return given, rest


def shorthand(choice: dict[str, type]) -> tuple[str, str] | None:
    """(kind, field) where one of the kinds needs one free text to be said, and so can be chosen by saying it."""
    for kind, spec in choice.items():
        needed = [f.name for f in dataclasses.fields(spec) if f.name not in defaults(spec)]  # type: ignore[arg-type]
        if len(needed) == 1 and not names(hints(spec)[needed[0]]):
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
    old = values
    for name in path:
        old = old[name]
    return _with_part(values, path, (old if old["kind"] == kind else defaults(spec)) | given)


def _with_part(values: Values, path: list[str], new: Values) -> Values:
    """``values`` with another part at a path."""
    first, rest = path[0], path[1:]
    return values | {first: _with_part(values[first], rest, new) if rest else new}
