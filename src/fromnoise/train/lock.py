"""One process a run folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from fromnoise.files import disk_errors
from fromnoise.types import UserError

try:
    import fcntl
except ImportError:  # Windows has no flock; there the folder is not guarded
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def locked(run: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the run folder; UserError when another process has it.  The system frees the lock of a killed process.

    waiting: called where another process has it, which is then waited for.
    """
    with disk_errors(run):
        new = not run.exists()
        run.mkdir(parents=True, exist_ok=True)
        handle = os.open(run / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if waiting is not None:
                    waiting()
                    fcntl.flock(handle, fcntl.LOCK_EX)
                else:
                    raise UserError(f"Another process is training into {run}: wait for it, stop it, or choose "
                                    "another folder with --out.") from None
        yield
        new = False
    finally:
        os.close(handle)
        if new and os.listdir(run) == [".lock"]:  # refused before anything was made
            (run / ".lock").unlink()
            run.rmdir()
