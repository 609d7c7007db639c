"""What a spec consists of: its fields, the kinds a field may choose from, and what each field means.

A *part* is a field that holds a spec.  Where its annotation is a union of specs the part comes in *kinds*.
``Values`` are a spec as plain data, as in JSON.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Annotated, Any

from pydantic.fields import FieldInfo

from fromnoise.config import Named, Short, to_dict

Values = dict[str, Any]


@cache
def hints(cls: type) -> dict[str, Any]:
    """Field name to annotation, in order."""
    found = typing.get_type_hints(cls, include_extras=True)
    return {f.name: found[f.name] for f in dataclasses.fields(cls)}  # type: ignore[arg-type]


def bare(annotation: Any) -> Any:
    """The annotation without ``Annotated``."""
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is Annotated else annotation


def members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union; of anything else, itself."""
    inner = bare(annotation)
    return typing.get_args(inner) if typing.get_origin(inner) in (typing.Union, types.UnionType) else (inner,)


def names(annotation: Any) -> tuple[Any, ...]:
    """The values of a literal, or of a union of literals."""
    return tuple(value for member in members(annotation) for value in typing.get_args(member))


def kinds(annotation: Any) -> dict[str, type]:
    """{kind: spec} where the annotation is a choice of several specs, else nothing."""
    specs = [m for m in members(annotation) if dataclasses.is_dataclass(m) and "kind" in hints(m)]  # type: ignore
    named: dict[str, Any] = {typing.get_args(hints(m)["kind"])[0]: m for m in specs}
    return named if len(named) > 1 else {}


def named(annotation: Any) -> dict[str, Named]:
    """The functions that make a part, by their names."""
    return {m.name: m for m in getattr(annotation, "__metadata__", ()) if isinstance(m, Named)}


def part(annotation: Any, value: Any) -> Any:
    """The spec class that a field holds now, or None where it is not a part but a plain value."""
    if choice := kinds(annotation):
        return choice[value["kind"]]
    inner = bare(annotation)
    return inner if dataclasses.is_dataclass(inner) else None


def short(annotation: Any) -> str:
    """The field by which alone the part may be said, or an empty string."""
    return next((m.field for m in getattr(annotation, "__metadata__", ()) if isinstance(m, Short)), "")


@cache
def meanings(cls: type) -> dict[str, str]:
    """Field name to the string that stands under it in the source."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for field, text in pairwise(body):
            if (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
                    and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)):
                found[field.target.id] = inspect.cleandoc(str(text.value.value))
    return found


def options(cls: Any, values: Values, prefix: str = "") -> Iterator[str]:
    """Dotted names of everything that can be set."""
    for name, annotation in hints(cls).items():
        inner = part(annotation, values.get(name))
        if inner is None and name != "kind":
            yield prefix + name
            if bare(annotation) is bool:
                yield f"{prefix}no_{name}"
        if kinds(annotation) or short(annotation):
            yield prefix + name
        if inner is not None:
            yield from options(inner, values[name], f"{prefix}{name}.")


def defaults(cls: Any) -> Values:
    """The fields of a spec that have a default."""
    found = {}
    for f in dataclasses.fields(cls):
        if isinstance(f.default, FieldInfo):  # pydantic's own way to say it
            if not f.default.is_required():
                found[f.name] = f.default.get_default(call_default_factory=True)
        elif f.default is not dataclasses.MISSING:
            found[f.name] = to_dict(f.default) if dataclasses.is_dataclass(f.default) else f.default
        elif f.default_factory is not dataclasses.MISSING:
            found[f.name] = f.default_factory()
    return found
