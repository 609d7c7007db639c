"""Freed memory is kept for the next step instead of going back to the system."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h of the GNU C library


def keep_freed_memory() -> None:
    """Let malloc keep what is freed, where it is the GNU C library's; elsewhere nothing.

    A training step on the CPU frees and asks again for the same few megabytes hundreds of times.  By default
    each such block is mapped anew and every page of it faulted in: a twelfth of a step of ``shapes``, and more of its
    sampling (docs/log.md).
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 32 * 2**20)  # the most that is allowed
        mallopt(_TRIM_THRESHOLD, 2**30)
        mallopt(_TOP_PAD, 64 * 2**20)
