"""How many CPU threads: measured, because more are often slower on small networks and busy machines."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median

import torch


def available_cores() -> int:
    """Cores this process may use; OMP_NUM_THREADS, where it is set, is the user's own limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(limit)) if limit.isdigit() and int(limit) else cores


def fastest_threads(work: Callable[[], object], repeats: int = 5) -> int:
    """The thread count, of 1, 2, 4, ... up to the cores, with which ``work`` takes least time.

    The median of a few repeats counts, so that a busy machine speaks against many threads; doubling stops
    where it no longer saves a quarter of the time.
    """
    best, best_time, threads = 1, float("inf"), 1
    before = torch.get_num_threads()
    while threads <= available_cores():
        torch.set_num_threads(threads)
        work()
        seconds = median(_time(work) for _ in range(repeats))
        if seconds > best_time * 0.75:
            break
        best, best_time, threads = threads, seconds, threads * 2
    torch.set_num_threads(before)
    return best


def _time(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
