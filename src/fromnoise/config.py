"""Specs: frozen, validated dataclasses that say what to build, and their JSON.

A *spec* is a choice of a recipe written down.  Specs that are alternatives of each other (two paths,
two networks, two data sets) carry a ``kind`` literal, which tells them apart in JSON and on the
command line.  A spec is data: it is cheap to make, compare, print and save; its methods build things.

    @spec
    class Flow:
        kind: Literal["flow"] = "flow"
"""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, GetCoreSchemaHandler, TypeAdapter, ValidationError, validate_call
from pydantic.dataclasses import dataclass as _dataclass
from pydantic_core import core_schema

from fromnoise.types import UserError

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def spec(cls: type[T]) -> type[T]:
    """A frozen, keyword-only dataclass that validates types and ranges and refuses unknown fields."""
    return _dataclass(cls, frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))  # type: ignore[return-value]


@dataclass(frozen=True)
class Short:
    """Marks a part that may be said by one of its fields alone, in Python, in JSON and on the command line.

    With ``guidance: Annotated[Guidance, Short("scale")]`` a 3 is ``{"scale": 3}``, and ``--guidance`` is
    ``--guidance.scale``.
    """

    field: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self.full, handler(source))

    def full(self, value: Any) -> Any:
        """What a value alone stands for."""
        return value if isinstance(value, dict) or is_dataclass(value) else {self.field: value}


@dataclass(frozen=True)
class Chooses:
    """Marks a field whose values stand for the kind as well: ``--text sd3`` is ``--text frozen --text.family sd3``."""


@dataclass(frozen=True)
class Named:
    """Marks a part that may be said by the name of a function which makes it.

    With ``net: Annotated[Trunk | UNet, Named("transformer", house)]`` the part ``{"kind": "transformer", "depth": 3}``
    is ``house(depth=3)``, in Python and in JSON; on the command line it is ``--net transformer --net.depth 3``.
    """

    name: str
    make: Callable[..., Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self.full, handler(source))

    @property
    def arguments(self) -> dict[str, Any]:
        """What may be said beside the name, and what it is by default."""
        return {name: argument.default for name, argument in inspect.signature(self.make).parameters.items()}

    def full(self, value: Any) -> Any:
        """What a name and the arguments beside it stand for."""
        if not isinstance(value, dict) or value.get("kind") != self.name:
            return value
        given = {key: said for key, said in value.items() if key != "kind"}
        try:
            return validate_call(self.make)(**given)
        except ValidationError as error:
            raise ValueError(f"{self.name}: {explain(error, given)}") from None


def to_dict(value: Any) -> dict[str, Any]:
    """A spec as plain JSON types, every field resolved."""
    return TypeAdapter(type(value)).dump_python(value, mode="json")


def from_dict(cls: type[T], data: Any, where: str = "") -> T:
    """A spec from plain JSON types.

    Raises UserError naming every fault at once by its dotted path ("net.width: ... (got -1)").
    """
    try:
        return TypeAdapter(cls).validate_python(data)
    except ValidationError as error:
        raise UserError(f"{where + ': ' if where else ''}{explain(error, data)}") from None


def explain(error: ValidationError, data: Any) -> str:
    """All faults of ``data`` in one line: ``train.batch: Input should be greater than 0 (got -3)``."""
    faults = []
    for e in error.errors(include_url=False):
        path = ".".join(field_path(e["loc"], data))
        got = "" if e["type"] in ("missing", "unexpected_keyword_argument") else f" (got {e['input']!r:.60})"
        message = e["msg"].removeprefix("Value error, ")
        if e["type"] == "unexpected_keyword_argument":
            message = "is not a field"
        faults.append(f"{path}: {message}{got}" if path else message)  # of the whole, which is not shown
    return "; ".join(faults)


def field_path(loc: Iterable[str | int], data: Any) -> list[str]:
    """The names of the fields that lead to a fault; pydantic puts the kind of a part among them, which is none."""
    path, here = [], data
    for key in loc:
        if isinstance(here, dict) and here.get("kind") == key and key not in here:
            continue
        path.append(str(key))
        here = here.get(key) if isinstance(here, dict) else None
    return path


def read_json(path: Path) -> Any:
    """The JSON in a file; UserError when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no file {path}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path} is not valid JSON ({e}).") from None
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}.") from None


def nearest(name: str, options: Iterable[str]) -> str:
    """``Did you mean "digits"?`` for a name that is almost one of the options, else the options."""
    options = sorted(options)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    return f'Did you mean "{close[0]}"?' if close else f"Choose one of: {', '.join(options)}."
