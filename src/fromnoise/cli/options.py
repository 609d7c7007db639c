"""A spec as command-line options: every field one option, this spec's values as defaults.

tyro lays out options and help and splits the arguments; pydantic judges the values, so that every fault is
named by its dotted path.  Between the two stands a *form*: a plain copy of the spec without kinds and
ranges, whose leaves are text.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import io
import re
import typing
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from fromnoise.cli.fields import Values, bare, defaults, hints, kinds, meanings, members, named, options, part, short
from fromnoise.cli.kinds import choose_kinds, shorthand
from fromnoise.config import field_path
from fromnoise.types import UserError

T = TypeVar("T")
SAID = {"true": True, "false": False, "True": True, "False": False}  # what a switch may be told, as other options are


def parse(cls: type[T], args: list[str], prog: str, values: Values | None = None, about: str = "") -> T:
    """``args`` over ``values`` (by default the defaults of ``cls``).

    Raises UserError for an option that is not there or a value that cannot be; SystemExit(0) after --help,
    which opens with ``about``.
    """
    values, args = choose_kinds(cls, defaults(cls) if values is None else values, args)
    form = _form(cls, values)
    answers, unknown = _read(form, _switched(args, set(options(cls, values))), prog, about)
    if unknown:
        raise UserError(_unknown(unknown, cls, values, prog))
    return build(cls, _collect(cls, values, answers))


def build(cls: type[T], values: Values) -> T:
    """The spec; all faults of the values in one sentence."""
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        raise UserError("; ".join(_fault(dict(e), values) for e in error.errors(include_url=False)) + ".") from None


def taken(args: list[str], option: str) -> tuple[list[str], str | None]:
    """The arguments without ``option value`` (or ``option=value``), and the value."""
    for i, token in enumerate(args):
        name, equals, value = token.partition("=")
        if name == option:
            if equals:
                return args[:i] + args[i + 1 :], value
            if i + 1 == len(args) or args[i + 1].startswith("-"):
                raise UserError(f"{option} needs a value.")
            return args[:i] + args[i + 2 :], args[i + 1]
    return args, None


def _switched(args: list[str], names: set[str]) -> list[str]:
    """The arguments with ``--flag true`` and ``--flag=false`` as ``--flag`` and ``--no-flag``."""
    found: list[str] = []
    rest = list(args)
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        path, _, name = option.removeprefix("--").replace("-", "_").rpartition(".")
        opposite = f"{path}.no_{name}".lstrip(".")
        if option.startswith("--") and opposite in names and (said := value if equals else (rest or [""])[0]) in SAID:
            found.append(option if SAID[said] else "--" + opposite.replace("_", "-"))
            rest = rest if equals else rest[1:]
        else:
            found.append(option + equals + value)
    return found


# ---- the form -------------------------------------------------------------------------------------------


def _form(cls: Any, values: Values, path: str = "", choice: dict[str, type] | None = None, brief: str = "") -> Any:
    """A plain dataclass of text leaves for the spec at ``path``.

    choice: the kinds it was chosen from;  brief: the field that may be said by the path alone.
    """
    fields: list[Any] = []
    if choice:
        fields.append(("kind", _kind_leaf(path, choice), values["kind"]))
    for name, annotation in hints(cls).items():
        inner = part(annotation, values.get(name))
        if inner is not None:
            nested = _form(inner, values[name], f"{path}.{name}".lstrip("."), kinds(annotation), short(annotation))
            fields.append((name, nested, dataclasses.field(default_factory=nested)))
        elif name != "kind":
            also = (f"--{path.replace('_', '-')}",) if name == brief else ()
            fields.append((name, *_leaf(cls, name, annotation, values, also)))
    form = dataclasses.make_dataclass(cls.__name__, fields, frozen=True)
    form.__doc__ = (inspect.getdoc(cls) or "").split("\n\n")[0]
    return form


def _kind_leaf(path: str, choice: dict[str, type]) -> Any:
    """The option that chooses a kind; here for the help alone, since ``choose_kinds`` has read it."""
    import tyro

    about = "Which kind; another one starts from its own defaults."
    if short := shorthand(choice):
        about += f" A path is short for {short[0]} with that {short[1]}."
    return Annotated[str, tyro.conf.arg(name=path, prefix_name=False, metavar=_braces(choice), help=about)]


def _leaf(cls: type, name: str, annotation: Any, values: Values, also: tuple[str, ...] = ()) -> tuple[Any, Any]:
    """(annotation, default) of one option of the form, which may ``also`` be called otherwise."""
    import tyro

    text, default = str, _shown(values.get(name, ""))
    if bare(annotation) is bool:
        text, default = bool, values.get(name, False)
    elif typing.get_origin(bare(annotation)) is tuple:
        inner = typing.get_args(bare(annotation))
        text = tuple[(str, ...) if inner[-1] is ... else (str,) * len(inner)]  # type: ignore[misc]
        default = tuple(_shown(v) for v in values.get(name, ()))
    if name not in values:
        hint = "(required)"
    else:
        word = " ".join(default) if isinstance(default, tuple) else default
        hint = "" if values[name] is None or word == "" else f"(default: {word})"
    markers = [m for m in getattr(annotation, "__metadata__", ()) if type(m).__module__.startswith("tyro")]
    about = tyro.conf.arg(metavar=name.upper() if markers else _metavar(annotation),
                          help=meanings(cls).get(name, ""), help_behavior_hint=hint, aliases=also or None)
    return Annotated[text, about, *markers], default  # type: ignore[valid-type]


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _metavar(annotation: Any) -> str | None:
    """INT, FLOAT, {a,b}: what a value looks like; None where tyro knows best."""
    first = bare(members(annotation)[0])
    if first is bool:
        return None
    if typing.get_origin(first) is Literal:
        return _braces(typing.get_args(first))
    if typing.get_origin(first) is tuple:
        inner = typing.get_args(first)
        return " ".join("..." if a is ... else _metavar(a) or "" for a in inner)
    return {int: "INT", float: "FLOAT"}.get(first, "TEXT")


def _braces(names: Iterable[str]) -> str:
    return "{" + ",".join(names) + "}"


def _read(form: Any, args: list[str], prog: str, about: str) -> tuple[Any, list[str]]:
    """The form filled in by tyro, and what it could not place."""
    import tyro

    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(form, args=args, prog=prog, description=about, default=form(), return_unknown_args=True)
    except SystemExit as e:
        if e.code in (0, None):
            raise
        raise UserError(_unboxed(errors.getvalue())) from None


def _unboxed(text: str) -> str:
    """The message inside tyro's box, as one line."""
    lines = [line.strip("│ ") for line in text.splitlines() if line.startswith("│")]
    body = [line for line in lines if line]
    rule = next((i for i, line in enumerate(body) if set(line) == {"─"}), len(body))
    return re.sub(r"\s+", " ", " ".join(body[:rule] or [text])).strip().replace(" Expected 1 values.", "")


def _collect(cls: Any, values: Values, answers: Any) -> Values:
    """``values`` with the answers that differ from what was shown."""
    found = dict(values)
    for name, annotation in hints(cls).items():
        if name == "kind":
            continue
        answer, value = getattr(answers, name), values.get(name)
        inner = part(annotation, value)
        if inner is not None:
            found[name] = _collect(inner, values[name], answer)
        elif isinstance(answer, tuple):
            found[name] = answer if answer != tuple(map(_shown, values[name])) else value
        elif isinstance(answer, bool):
            found[name] = answer
        elif answer != _shown(values.get(name, "")):
            found[name] = None if answer.lower() == "none" and type(None) in members(annotation) else answer
    return found


# ---- faults, each one sentence --------------------------------------------------------------------------


def _fault(error: dict[str, Any], values: Values) -> str:
    """One of pydantic's errors: ``--train.batch should be greater than 0 (got 0)``."""
    path = [key for key in field_path(error["loc"], values) if not key.isdigit()]  # no place within a tuple
    name = "--" + ".".join(path).replace("_", "-")
    if error["type"] == "missing":
        return f"{name} must be given"
    message = re.sub(r"^(Input|String) should|, unable to parse.*", lambda m: "should" if m[1] else "", error["msg"])
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        return f'{name} cannot be "{error["input"]}": it {message}'
    return f"{name} {message}" if isinstance(error["input"], dict) else f"{name} {message} (got {error['input']})"


def _unknown(unknown: list[str], cls: Any, values: Values, prog: str) -> str:
    """What is wrong with arguments that tyro could not place."""
    token = next((u for u in unknown if u.startswith("--")), unknown[0])
    more = f"`{prog} --help` lists every option."
    if not token.startswith("-"):
        return f'"{token}" is not understood here: an option looks like --name value. {more}'
    name = token[2:].split("=")[0].replace("-", "_")
    if other := _of_another_kind(name.split("."), cls, values):
        return f"{token} goes with {other}. {more}"
    names = list(options(cls, values))
    if name in names:  # it is there, but as a positional one
        return f"There is no option {token}: write what it holds alone, without a name. {more}"
    same = [n for n in names if n.split(".")[-1] == name.split(".")[-1]]
    close = same or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"Did you mean {' or '.join('--' + n.replace('_', '-') for n in close[:3])}? " if close else ""
    return f"There is no option {token}. {hint}{more}"


def _of_another_kind(path: list[str], cls: Any, values: Values) -> str:
    """``--net transformer`` where that kind would have the field, else nothing."""
    for depth, name in enumerate(path[:-1]):
        annotation = hints(cls).get(name)
        if annotation is None or (inner := part(annotation, values.get(name))) is None:
            return ""
        found = [kind for kind, spec in kinds(annotation).items() if path[depth + 1] in hints(spec)]
        found += [function.name for function in named(annotation).values() if path[depth + 1] in function.arguments]
        if found and path[depth + 1] not in hints(inner):
            return f"--{'.'.join(path[:depth + 1])} {' or '.join(found)}, and this is {values[name]['kind']}"
        cls, values = inner, values[name]
    return ""
