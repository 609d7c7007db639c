"""What the machine has."""

from __future__ import annotations

import os
from pathlib import Path

LIMITS = "memory.max", "memory/memory.limit_in_bytes"  # of a container: cgroups of version 2, and of version 1


def memory(groups: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes of memory of this machine, or of the container in it; without end where neither says."""
    try:
        found = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        found = float("inf")
    for name in LIMITS:
        try:
            said = (groups / name).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        if said.isdecimal():  # else it is "max"
            found = min(found, float(said))
    return found
