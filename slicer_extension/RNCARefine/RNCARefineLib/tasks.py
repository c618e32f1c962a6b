"""Blocking work in threads, its outcome in the main thread."""

import queue
import threading
from collections.abc import Callable
from typing import Any

from .errors import RefineError


class Tasks:
    """Runs functions in threads; `tick`, from a timer of the main thread, hands over what they gave."""

    def __init__(self) -> None:
        self._done: queue.SimpleQueue[tuple[Callable[[Any], None] | None, Any]] = queue.SimpleQueue()
        self._waiting = 0
        self._round = 0

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return self._waiting > 0

    def run(self, work: Callable[[], Any], then: Callable[[Any], None], failed: Callable[[RefineError], None]) -> None:
        """Call `work` in a thread; later `then` with its result, or `failed` with what it raised, in the main one."""
        number = self._round
        self._waiting += 1

        def call() -> None:
            found: tuple[Callable[[Any], None], Any]
            try:
                found = (then, work())
            except RefineError as error:
                found = (failed, error)
            except Exception as error:
                found = (failed, RefineError(f"This did not work ({type(error).__name__}: {error})."))
            self._done.put((found[0] if number == self._round else None, found[1]))

        threading.Thread(target=call, name="rNCA task", daemon=True).start()

    def forget(self) -> None:
        """What is under way ends in silence."""
        self._round += 1

    def tick(self) -> None:
        """Hand over what is finished."""
        while True:
            try:
                then, found = self._done.get_nowait()
            except queue.Empty:
                return
            self._waiting -= 1
            if then is not None:
                then(found)
