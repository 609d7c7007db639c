"""Setting fields of a recipe from the command line.

tyro turns the recipe into options, with this recipe's values as defaults.  Choosing another kind of a part
(``--path cosine``, ``--net unet``) is done first, so that the options that follow are those of the new part.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import typing
from typing import Annotated, Any

from fromnoise.config import from_dict, nearest, to_dict
from fromnoise.recipe import Recipe
from fromnoise.types import UserError


def parse_recipe(recipe: Recipe, args: list[str], prog: str) -> Recipe:
    """``recipe`` with the fields that ``args`` set.  UserError for a field or value that cannot be."""
    recipe, rest = choose_kinds(recipe, args)
    return parse(Recipe, recipe, rest, prog)


def parse(cls: Any, default: Any, args: list[str], prog: str) -> Any:
    """``args`` read by tyro over ``default``; faults as one sentence, help as tyro prints it."""
    import tyro

    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            return tyro.cli(tyro.conf.configure(
                tyro.conf.AvoidSubcommands, tyro.conf.SuppressFixed)(cls), default=default, args=args, prog=prog,
                console_outputs=True)
    except SystemExit as e:
        if e.code in (0, None):
            raise
        raise UserError(first_fault(output.getvalue(), prog)) from None
    except Exception as e:  # pydantic's validation of a whole recipe
        from pydantic import ValidationError

        if isinstance(e, ValidationError):
            from fromnoise.config import explain

            raise UserError(explain(e)) from None
        raise


def first_fault(text: str, prog: str) -> str:
    """tyro's boxed message as one sentence."""
    words = re.sub(r"[│╭╮╰╯─]+", " ", text)
    words = re.sub(r"\s+", " ", words).strip()
    more = f"(`{prog} --help` lists every field.)"
    if unknown := re.search(r"Unrecognized options: (--?[\w.=-]+|\S+)", words):
        close = re.search(r"Perhaps you meant:? (--[\w.-]+)", words)
        hint = f" Did you mean {close[1]}?" if close else ""
        return f"{unknown[1]} is not an option.{hint} {more}"
    if invalid := re.search(r"Error parsing ([\w.-]+): 1 validation errors? for \w+ (\w+) (.*?) \[type=.*?input_value=(.*?),", words):
        return f"{invalid[1].lstrip('-')}.{invalid[2]}: {invalid[3]} (got {invalid[4]}). {more}"
    if wrong := re.search(r"Error parsing (--[\w.-]+): (.*?) Argument helptext", words):
        return f"{wrong[1]}: {wrong[2]}. {more}"
    words = re.sub(r"For full helptext.*|Argument helptext.*", "", words).strip()
    return f"{words} {more}"


def kinds_of(annotation: Any) -> dict[str, type]:
    """{kind: class} of a field whose annotation is a union of specs, else nothing."""
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    members = typing.get_args(annotation) if typing.get_origin(annotation) is not None or hasattr(
        annotation, "__args__") else (annotation,)
    return {m.__dataclass_fields__["kind"].default: m for m in members
            if hasattr(m, "__dataclass_fields__") and "kind" in m.__dataclass_fields__}


def choose_kinds(recipe: Recipe, args: list[str]) -> tuple[Recipe, list[str]]:
    """Apply ``--part kind`` arguments, and return what is left."""
    rest, i = [], 0
    values = to_dict(recipe)
    while i < len(args):
        name, _, value = args[i].partition("=")
        spec = field_of(Recipe, name[2:].split(".")) if name.startswith("--") else None
        kinds = kinds_of(spec) if spec is not None else {}
        if not kinds:
            rest.append(args[i])
            i += 1
            continue
        if not value:
            i += 1
            value = args[i] if i < len(args) else ""
        path = name[2:].replace("-", "_").split(".")
        if path == ["data"] and value not in kinds and "folder" in kinds:
            rest += ["--data.root", value]  # a folder of the user's own pictures
            value = "folder"
        if value not in kinds:
            raise UserError(f'{name[2:]} cannot be "{value}". {nearest(value, kinds)}')
        parent = values
        for part in path[:-1]:
            parent = parent[part]
        if parent[path[-1]]["kind"] != value:
            parent[path[-1]] = _defaults(kinds[value])
        i += 1
    return from_dict(Recipe, values), rest


def _defaults(cls: type) -> dict[str, Any]:
    """A kind with its defaults; a folder's root is set by the argument that follows."""
    required = {f.name: "." for f in dataclasses.fields(cls)
                if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING}
    return to_dict(cls(**required))


def field_of(cls: Any, path: list[str]) -> Any:
    """The annotation of a dotted field, or None."""
    hints = typing.get_type_hints(cls, include_extras=True)
    annotation = hints.get(path[0].replace("-", "_"))
    if annotation is None or len(path) == 1:
        return annotation
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    return field_of(annotation, path[1:]) if hasattr(annotation, "__dataclass_fields__") else None
