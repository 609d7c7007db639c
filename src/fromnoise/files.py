"""Files that are whole or not there: written beside, synced, and renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fromnoise.types import UserError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``; after the block it is synced and takes the place of ``path``.

    When the block fails, ``path`` is untouched and the temporary file removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        sync(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with disk_errors(path), replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Make a file or folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as e:  # some file systems cannot sync a folder
        if e.errno not in (errno.EINVAL, errno.EBADF):
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """A full disk, a missing permission and their kin as one sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as e:
        number = e.errno if isinstance(e, OSError) else _os_error(str(e))
        if number is None:
            raise
        reason = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up",
                  errno.EFBIG: "the file would be larger than allowed here",
                  errno.EACCES: "permission is denied", errno.EROFS: "the file system is read-only"}
        raise UserError(f"Could not write {path}: {reason.get(number, os.strerror(number))}. "
                        "What was saved before is intact.") from e


def _os_error(message: str) -> int | None:
    """The number in "... (os error 28)", which is how safetensors tells what the disk said."""
    found = re.search(r"os error (\d+)", message)
    return int(found[1]) if found else None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
