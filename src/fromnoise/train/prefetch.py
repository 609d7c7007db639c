"""Batches made one step ahead."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from fromnoise.types import Batch


class Prefetch:
    """Batches made one step ahead on a thread, so that the loader hides behind the network."""

    def __init__(self, fetch: Callable[[int], Batch], step: int):
        self.fetch, self.step = fetch, step
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="data")
        self.future = self.pool.submit(fetch, step)

    def next(self) -> Batch:
        batch = self.future.result()
        self.step += 1
        self.future = self.pool.submit(self.fetch, self.step)
        return batch

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *_) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)
