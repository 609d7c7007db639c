"""The player: makes frame after frame of a session at its rate, and does between them what the page asks for."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import WebSocket

from fromnoise.types import UserError
from fromnoise.worlds.play.mailbox import Mailbox
from fromnoise.worlds.play.messages import Branch, Command, Manner, Pause, Record, Reset, Rewind, Step, packed
from fromnoise.worlds.play.session import Seen, Session

PATIENCE = 10.0  # seconds that a page may take for one frame
OVER = 1000  # why the socket of a session that nobody plays is closed: it is done


class Player:
    """Plays one session on one socket, to which nobody else sends.

    work: does something beside the event loop;  keep: takes a film and returns its address.
    """

    def __init__(self, socket: WebSocket, session: Session, mailbox: Mailbox, work: Callable[..., Awaitable[Any]],
                 keep: Callable[[bytes], str], idle: float):
        self.socket, self.session, self.mailbox = socket, session, mailbox
        self.work, self.keep, self.idle = work, keep, idle
        self.paused, self.fresh = False, True  # a fresh world waits for the first key
        self.waits = session.controls.idle is None

    async def play(self, seed: int | None) -> tuple[str, int]:
        """Until nobody has played for ``idle`` seconds: (a sentence on that, the code of the socket's end)."""
        await self._begin(seed)
        due = 0.0
        while (quiet := time.monotonic() - self.mailbox.last) < self.idle:
            if self.mailbox.fault:
                await self._say({"type": "error", "what": self.mailbox.fault})
                self.mailbox.fault = ""
            if self.mailbox.commands:
                await self._do(self.mailbox.commands.popleft())
            elif not self._moving():
                await self._sleep(self.idle - quiet)
            elif (left := due - time.monotonic()) > 0:
                await asyncio.sleep(left)
            else:
                due = max(due + 1 / self.session.fps, time.monotonic() - 1 / self.session.fps)
                await self._step()
        return f"Nobody has played for {self.idle:g} seconds, and the session was ended: load the page again.", OVER

    def _moving(self) -> bool:
        """Whether the next frame is made now."""
        self.fresh = self.fresh and not self.mailbox.pressed
        if self.fresh or self.paused or self.session.over:
            return False
        return bool(self.mailbox.pressed) or not self.waits

    async def _sleep(self, seconds: float) -> None:
        """Until something comes."""
        self.mailbox.wake.clear()
        try:
            await asyncio.wait_for(self.mailbox.wake.wait(), max(0.01, seconds))
        except TimeoutError:
            return

    async def _do(self, command: Command) -> None:
        """What the page asks for; where that cannot be, it is told so."""
        try:
            await self._done(command)
        except UserError as error:
            await self._say({"type": "error", "what": str(error)})

    async def _done(self, command: Command) -> None:
        session = self.session
        if isinstance(command, Reset):
            return await self._begin(command.seed)
        if isinstance(command, Pause):
            self.paused = command.on
            self.fresh = self.fresh and command.on
        elif isinstance(command, Step):
            self.paused, self.fresh = True, False
            return await self._step()
        elif isinstance(command, Rewind):
            await self.work(session.rewind, command.to)
        elif isinstance(command, Branch) and command.do == "keep":
            session.branch()
        elif isinstance(command, Branch):
            await self.work(session.go if command.do == "go" else session.forget, command.branch)
        elif isinstance(command, Record) and command.on:
            session.record()
        elif isinstance(command, Record):
            await self._film()
        await self._show(session.seen)

    async def _begin(self, seed: int | None) -> None:
        self.seed = secrets.randbelow(10**6) if seed is None else seed
        self.paused, self.fresh = False, True
        self.mailbox.tapped = ()  # a key that was let go before is not the first one
        await self._show(await self.work(self.session.reset, self.seed))

    async def _step(self) -> None:
        """One frame, under what is pressed now."""
        await self._show(await self.work(self.session.step, self.mailbox.take(once=self.waits)))
        if self.session.film_full:
            await self._do(Record(on=False))

    async def _film(self) -> None:
        address = self.keep(await self.work(self.session.film))
        await self._say({"type": "film", "at": address})

    async def _show(self, seen: Seen) -> None:
        manner = Manner(self.paused, self.fresh, self.session.filmed is not None, self.seed)
        await asyncio.wait_for(self.socket.send_bytes(packed(seen, self.session, manner)), PATIENCE)

    async def _say(self, what: dict[str, Any]) -> None:
        await asyncio.wait_for(self.socket.send_json(what), PATIENCE)
