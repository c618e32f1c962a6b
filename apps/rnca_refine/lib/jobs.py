"""Refinements run in a few threads beside the event loop, and only so many may wait for one.

The arithmetic of torch, NumPy and ITK releases Python's lock, so threads are enough to keep every other request
answered, and images need not be copied between processes.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from .refusals import Refusal

T = TypeVar("T")


class Workers:
    """A thread pool with a bounded queue: what does not fit is refused at once with 429, not kept."""

    def __init__(self, workers: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="refine")
        self._lock = threading.Lock()
        self._workers, self._places, self._taken, self._usual = workers, workers + waiting, 0, 2.0

    def submit(self, task: Callable[..., T], *args: Any) -> "Future[T]":
        """Run a task as soon as a worker is free; Refusal 429 where too many wait already."""
        with self._lock:
            if self._taken >= self._places:
                wait = max(1, min(60, round(self._usual * self._taken / self._workers)))
                raise Refusal(429, f"the server is busy with {self._taken} refinements: try again in {wait} s.", wait)
            self._taken += 1
        try:
            future = self._pool.submit(self._timed, task, *args)
        except BaseException:
            self._free()
            raise
        future.add_done_callback(lambda _: self._free())
        return future

    @property
    def load(self) -> dict[str, int]:
        """How many refinements run or wait, and how many may."""
        return {"taken": self._taken, "workers": self._workers, "places": self._places}

    def _timed(self, task: Callable[..., T], *args: Any) -> T:
        started = time.monotonic()
        try:
            return task(*args)
        finally:
            with self._lock:
                self._usual += 0.2 * (time.monotonic() - started - self._usual)

    def _free(self) -> None:
        with self._lock:
            self._taken -= 1
