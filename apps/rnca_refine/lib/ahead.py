"""A rollout in a thread of its own, up to two steps ahead of whoever looks at it."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnca.geometry import Box, box_inside
from rnca.window import Window

AHEAD = 2
"""Steps that may be under way or done before they are asked for: threads need not wait for each other at every step."""

Change = tuple[Box, NDArray[np.bool_]] | None
"""A box of the whole mask, and what is in it now; None where nothing changed."""


class Rollout:
    """The steps of one window; `next` gives what each changed.

    Args:
        window: it was not unrolled yet; nobody else unrolls it.
        module: the engine.
        steps: how often `next` may be called.
    """

    def __init__(self, window: Window, module: Any, steps: int) -> None:
        self._window, self._left = window, steps
        self._steps = window.unroll(module, steps, once=True)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="rollout")
        self._asked: deque[Future[Change]] = deque()
        self._ask()

    def next(self) -> Change:
        """The next step; one that was not begun yet is."""
        found = self._asked.popleft().result()
        self._ask()
        return found

    def end(self) -> None:
        """Begin no step any more, and wait for the one that is under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _ask(self) -> None:
        while self._left and len(self._asked) < AHEAD:
            self._asked.append(self._pool.submit(self._step))
            self._left -= 1

    def _step(self) -> Change:
        _, box = next(self._steps)
        if box is None:
            return None
        now = self._window.now[box_inside(box, self._window.box)]
        return box, now.copy()  # the next step may be under way before anybody looks


@contextmanager
def rollouts(windows: list[Window], module: Any, steps: int) -> Iterator[list[Rollout]]:
    """A rollout of each window; they have ended when the block has."""
    found = [Rollout(window, module, steps) for window in windows]
    try:
        yield found
    finally:
        for rollout in found:
            rollout.end()
