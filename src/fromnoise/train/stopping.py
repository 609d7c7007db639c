"""Stopping a run: on request, with its state saved, and at numbers that are not finite."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fromnoise.types import UserError


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop (Ctrl-C or SIGTERM) and has saved its state."""


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Set when Ctrl-C or SIGTERM asks for a stop; a second Ctrl-C stops at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def ask(number, frame):
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def not_finite(what: str, step: int, saved: int) -> UserError:
    """What to do about numbers that are not finite; ``saved``: the step of the last checkpoint, 0 for none."""
    kept = f"the last good checkpoint (step {saved}) is kept and gone on from" if saved else "nothing was saved yet"
    return UserError(
        f"{what} not finite at step {step}; {kept}. Try a lower --train.optimizer.lr (and "
        "--train.optimizer.muon-lr), a smaller --train.optimizer.clip, or a longer --train.optimizer.warmup.")
