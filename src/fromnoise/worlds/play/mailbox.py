"""What came over a socket and is not done yet: bounded, and of presses the newest wins."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from fromnoise.worlds.play.messages import Command, Press

ROOM = 16  # commands that wait at most


class Mailbox:
    """Filled by the socket, emptied by the player.

    A button that was pressed and let go between two frames counts for the next one.
    """

    def __init__(self) -> None:
        self.held: tuple[str, ...] = ()
        self.tapped: tuple[str, ...] = ()
        self.commands: deque[Command] = deque()
        self.fault = ""  # the newest sentence that the page is to be told
        self.wake = asyncio.Event()
        self.last = time.monotonic()  # when something came

    def put(self, message: Press | Command) -> None:
        """Take a message in; where there are too many, that is told and the message is lost."""
        self.last = time.monotonic()
        if isinstance(message, Press):
            self.held = message.buttons
            self.tapped = message.buttons or self.tapped
        elif len(self.commands) < ROOM:
            self.commands.append(message)
        else:
            self.fault = f"{ROOM} commands are waiting already: this one was left out."
        self.wake.set()

    def complain(self, sentence: str) -> None:
        """Something came that is no message."""
        self.fault = sentence
        self.wake.set()

    @property
    def pressed(self) -> tuple[str, ...]:
        """The buttons for the next frame."""
        return self.held or self.tapped

    def take(self, once: bool) -> tuple[str, ...]:
        """The buttons for the next frame, which is made now.  once: those held count for one frame only."""
        pressed, self.tapped = self.pressed, ()
        if once:
            self.held = ()
        return pressed
