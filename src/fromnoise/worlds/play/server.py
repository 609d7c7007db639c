"""The server of the page: a session for each socket, all model work in one thread beside the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fastapi import FastAPI, Response, WebSocket
from starlette.websockets import WebSocketDisconnect

from fromnoise.studio import page_style
from fromnoise.types import UserError
from fromnoise.worlds.play.mailbox import Mailbox
from fromnoise.worlds.play.messages import LARGEST, hello, read
from fromnoise.worlds.play.player import Player
from fromnoise.worlds.play.session import Session

T = TypeVar("T")
log = logging.getLogger("fromnoise.play")
TOO_LARGE, NOT_HERE, BROKEN, LATER = 1009, 1008, 1011, 1013  # why a socket is closed (RFC 6455, section 7.4.1)
FULL_SPEED = 200  # messages a second that a socket may send; more are read more slowly
POLICY = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Serving:
    """What is served.

    open: a new session;  run, note: what the page is told of the world, and why nothing real stands beside it;
    sessions: how many at once;  idle: seconds after which one that nobody plays is dropped.
    """

    open: Callable[[], Session]
    run: str
    note: str = ""
    sessions: int = 4
    idle: float = 600.0


class Server:
    """The sessions of one app, and the thread that works for all of them."""

    def __init__(self, serving: Serving):
        self.serving, self.playing = serving, 0
        self.worker = ThreadPoolExecutor(1, "world")  # a network is asked by one session at a time
        self.films: dict[str, bytes] = {}

    async def work(self, task: Callable[..., T], *args: Any) -> T:
        """The task done beside the event loop, which goes on with the sockets of others."""
        return await asyncio.get_running_loop().run_in_executor(self.worker, task, *args)

    async def serve(self, socket: WebSocket) -> None:
        """One socket, from its opening to its end."""
        if not _from_here(socket):
            return await socket.close(NOT_HERE)
        await socket.accept()
        if self.playing >= self.serving.sessions:
            return await _end(socket, f"All {self.serving.sessions} places are taken: try again when someone has left.",
                              LATER)
        self.playing += 1
        session, films = None, []
        try:
            session = await self.work(self.serving.open)
            await socket.send_json(hello(session, self.serving.run, self.serving.note))
            await self._played(socket, session, films)
        except (WebSocketDisconnect, TimeoutError):
            pass  # the other side has left, or does not listen any more
        except UserError as error:
            await _end(socket, str(error), BROKEN)
        except Exception:
            log.exception("a session failed")
            await _end(socket, "Something went wrong in this session, and it was ended: load the page again.", BROKEN)
        finally:
            self.playing -= 1
            for name in films:
                self.films.pop(name, None)
            if session is not None:
                await self.work(session.close)

    async def _played(self, socket: WebSocket, session: Session, films: list[str]) -> None:
        """Read and play at once until one of both has come to its end."""
        mailbox = Mailbox()

        def keep(film: bytes) -> str:
            films.append(secrets.token_urlsafe(12))
            for old in films[:-1]:
                self.films.pop(old, None)  # one film a session
            self.films[films[-1]] = film
            return f"film/{films[-1]}.mp4"

        player = Player(socket, session, mailbox, self.work, keep, self.serving.idle)
        seed = socket.query_params.get("seed", "")
        tasks = [asyncio.create_task(_receive(socket, mailbox)),
                 asyncio.create_task(player.play(int(seed) if seed.isdecimal() and len(seed) < 10 else None))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            ends = [task.result() for task in done]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if why := next(filter(None, ends), None):
            await _end(socket, *why)


def app_of(serving: Serving) -> FastAPI:
    """The page, its socket and its films."""
    server = Server(serving)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        server.worker.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.server = server
    app.add_api_websocket_route("/socket", server.serve)
    files = {"/": ("index.html", "text/html"), "/play.css": ("play.css", "text/css"),
             "/play.js": ("play.js", "text/javascript")}
    for path, (name, kind) in files.items():
        app.add_api_route(path, _answer(_file(name), kind))
    app.add_api_route("/look.css", _answer(page_style(), "text/css"))

    @app.get("/film/{name}.mp4")
    def film(name: str) -> Response:
        if name not in server.films:
            return Response("This film is not kept any more.", 404, media_type="text/plain")
        return Response(server.films[name], media_type="video/mp4")

    return app


async def _receive(socket: WebSocket, mailbox: Mailbox) -> tuple[str, int] | None:
    """Messages into the mailbox until the socket closes; why it has to be closed, where it has."""
    since, count = time.monotonic(), 0
    while True:
        got = await socket.receive()
        if got["type"] == "websocket.disconnect":
            return None
        text = got.get("text")
        if len(text or got.get("bytes") or "") > LARGEST:
            return f"A message of more than {LARGEST} letters came, and the session was ended.", TOO_LARGE
        try:
            if text is None:
                raise UserError("That message was not understood: it is no text.")
            mailbox.put(read(text))
        except UserError as error:
            mailbox.complain(str(error))
        now = time.monotonic()
        since, count = (now, 1) if now - since > 1 else (since, count + 1)
        await asyncio.sleep(0 if count < FULL_SPEED else 0.02)  # a flood waits in its own pipe


async def _end(socket: WebSocket, why: str, code: int) -> None:
    """Say why, and close; a socket that is gone already is let go."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        await asyncio.wait_for(socket.send_json({"type": "end", "why": why}), 2)
        await socket.close(code)


def _from_here(socket: WebSocket) -> bool:
    """Whether the page that opened the socket is our own: other sites may not play here through a visitor's browser."""
    origin = socket.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == socket.headers.get("host")


def _file(name: str) -> str:
    return resources.files("fromnoise.worlds.play").joinpath("page", name).read_text(encoding="utf-8")


def _answer(text: str, kind: str) -> Callable[[], Response]:
    def answer() -> Response:
        return Response(text, media_type=kind, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"})

    return answer
