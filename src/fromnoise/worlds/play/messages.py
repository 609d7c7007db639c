"""What goes over the socket: commands from the page as JSON, frames to it as bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from fromnoise.config import spec
from fromnoise.types import UserError
from fromnoise.worlds.play.beside import Scene
from fromnoise.worlds.play.session import Seen, Session

LARGEST = 2048  # bytes of a message from a page; theirs have less than 200
Number = Annotated[int, Field(ge=0, lt=2**53)]
Name = Annotated[str, Field(max_length=40)]


@spec
class Press:
    """The buttons that are held now, in the order in which they were pressed."""

    type: Literal["press"] = "press"
    buttons: Annotated[tuple[Name, ...], Field(max_length=16)]


@spec
class Pause:
    """Stand still, or go on."""

    type: Literal["pause"] = "pause"
    on: bool


@spec
class Step:
    """One frame on, under the buttons that are held."""

    type: Literal["step"] = "step"


@spec
class Reset:
    """Begin anew; without a seed anywhere."""

    type: Literal["reset"] = "reset"
    seed: Number | None = None


@spec
class Rewind:
    """Back to a frame."""

    type: Literal["rewind"] = "rewind"
    to: Number


@spec
class Branch:
    """Keep this moment, come back to one that was kept, or forget it."""

    type: Literal["branch"] = "branch"
    do: Literal["keep", "go", "forget"]
    branch: Number = 0


@spec
class Record:
    """Begin to record, or stop and make a film of it."""

    type: Literal["record"] = "record"
    on: bool


Command = Pause | Step | Reset | Rewind | Branch | Record
_Message = Annotated[Press | Pause | Step | Reset | Rewind | Branch | Record, Field(discriminator="type")]
_MESSAGE: TypeAdapter[Press | Command] = TypeAdapter(_Message)  # type: ignore[arg-type]


def read(text: str) -> Press | Command:
    """A message of the page.  UserError for anything else."""
    try:
        return _MESSAGE.validate_json(text)
    except (ValidationError, RecursionError) as error:
        why = error.errors(include_url=False, include_input=False)[0] if isinstance(error, ValidationError) else None
        where = ".".join(map(str, why["loc"][1:])) if why else ""
        said = why["msg"] if why else "it is nested too deeply"
        raise UserError(f"That message was not understood{f' at {where}' if where else ''}: {said[:200]}.") from None


@dataclass(frozen=True)
class Manner:
    """How a session stands: whether it is paused, waits for a first key, or is recorded; and under which seed."""

    paused: bool
    fresh: bool
    recording: bool
    seed: int


def packed(seen: Seen, session: Session, manner: Manner) -> bytes:
    """A frame: the length of its facts (4 bytes, little end first), the facts as JSON, and RGB pixels of the world and
    after them of the real environment."""
    facts = {"number": seen.number, "ms": round(session.ms, 2), "world": _told(seen.world),
             "real": None if seen.real is None else _told(seen.real), "oldest": session.oldest,
             "branches": [{"id": key, "number": mark.seen.number} for key, mark in session.branches.items()],
             **vars(manner)}
    text = json.dumps(facts).encode()
    pixels = [scene.frame.tobytes() for scene in (seen.world, seen.real) if scene is not None]
    return b"".join([len(text).to_bytes(4, "little"), text, *pixels])


def unpacked(data: bytes) -> tuple[dict[str, Any], bytes]:
    """(facts, pixels) of a frame."""
    length = int.from_bytes(data[:4], "little")
    return json.loads(data[4 : 4 + length]), data[4 + length :]


def hello(session: Session, run: str, note: str) -> dict[str, Any]:
    """What the page is told first: sizes, keys, and what there is.  note: why nothing real stands beside the world."""
    dream, controls = session.dream, session.controls
    return {"type": "hello", "run": run, "fps": session.fps, "height": dream.size[0], "width": dream.size[1],
            "beside": session.beside.screen.world.id if session.beside else None, "note": note,
            "waits": controls.idle is None, "anew": session.anew,
            "buttons": [vars(button) for button in controls.buttons]}


def _told(scene: Scene) -> dict[str, Any]:
    return {"reward": scene.reward, "score": scene.score, "ended": scene.ended}
