"""From a run to a page that is served: what stands beside the world, which port, how many threads."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fromnoise.types import UserError
from fromnoise.worlds.opening import Opened, open_world

if TYPE_CHECKING:
    from fromnoise.worlds.dream import Dream
    from fromnoise.worlds.play.server import Serving


def serving_of(run: str | None, real: bool = True, sessions: int = 4, idle: float = 600.0, fps: float = 0.0,
               device: str = "auto", **choices: Any) -> Serving:
    """What is served of a run.  choices: those of ``Dream``.  UserError where it cannot be played."""
    need_web()
    from fromnoise.worlds.play.server import Serving
    from fromnoise.worlds.play.session import Session

    opened = open_world(run, device)
    dream = opened.dream(**choices)
    settle_threads(opened, dream)
    note = why_not_beside(opened) if real else ""

    def session() -> Session:
        real_one = beside(opened) if real and not note else None
        return Session(dream, opened.beginnings, real_one, fps, opened.data.restarts)

    session().close()  # what cannot be played is told before the page opens
    if note or not real:
        opened.beginnings()
    return Serving(session, opened.model.recipe.name if run is None else run, note, sessions, idle)


def need_web() -> None:
    """UserError naming the extra where the web server is not installed."""
    for module in ("fastapi", "uvicorn", "websockets"):
        try:
            import_module(module)
        except ImportError as error:
            raise UserError(f"Playing in the browser needs {module} ({error}): pip install "
                            "'fromnoise[play]'.") from None


def beside(opened: Opened) -> Any:
    """The real environment of a world.  UserError where it cannot be made here."""
    from fromnoise.worlds.play.beside import Beside

    assert opened.data.world is not None
    return Beside(opened.data.world, opened.data.actions, opened.data.restarts)  # type: ignore[arg-type]


def why_not_beside(opened: Opened) -> str:
    """Why the real environment cannot stand beside the world, in a sentence; "" where it can."""
    if opened.data.world is None:
        return "The recording does not say how its environment is made: the world stands alone."
    try:
        beside(opened).close()
    except UserError as error:
        return str(error)
    return ""


def settle_threads(opened: Opened, dream: Dream) -> None:
    """As many CPU threads as make a frame fastest: of small networks often one."""
    import torch

    from fromnoise.train.memory import keep_freed_memory
    from fromnoise.train.threads import fastest_threads

    if opened.model.system.device.type != "cpu":
        return
    keep_freed_memory()
    height, width = dream.size
    state = dream.begin(torch.zeros(1, 1, dream.channels, height, width), None, [0])
    torch.set_num_threads(fastest_threads(lambda: dream.step(state, None)))


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[list[socket.socket]]:
    """A socket that listens.  UserError for a port that is taken and a host that is not of this machine."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        opened = socket.create_server((host, port), family=family, backlog=64)
    except OSError as error:
        raise UserError(f"Cannot listen at {host}:{port} ({error.strerror or error}): choose another --port, or "
                        "--port 0 for any that is free.") from None
    with opened:
        yield [opened]


def address(listener: socket.socket) -> str:
    """Where the page is."""
    host, port = listener.getsockname()[:2]
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{host}:{port}/"


def serve(serving: Serving, sockets: list[socket.socket], browser: bool = False) -> None:
    """Serve until Ctrl-C."""
    import webbrowser

    import uvicorn

    from fromnoise.worlds.play.messages import LARGEST
    from fromnoise.worlds.play.server import app_of

    url = address(sockets[0])
    print(f"Play {serving.run} at {url} (Ctrl-C ends it)", flush=True)
    if browser:
        webbrowser.open(url)  # the socket listens already: the page comes as soon as the server runs
    config = uvicorn.Config(app_of(serving), log_level="warning", ws="websockets-sansio", ws_max_size=8 * LARGEST,
                            ws_per_message_deflate=False, timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=sockets)
