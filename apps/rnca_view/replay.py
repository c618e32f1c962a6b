"""Play the steps again that were seen: a repair of a small image is over before anybody has watched it."""

import time
from collections.abc import Callable

PER_SECOND = 24.0
"""Steps shown a second, at least."""

LONGEST = 4.0
"""Seconds that a replay may take: of many steps some are left out."""


class Replay:
    """Shows step after step by a clock; `tick` it some 60 times a second.

    Args:
        show: called with the step to show.
    """

    def __init__(self, show: Callable[[int], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._show, self._clock = show, clock
        self._began: float | None = None
        self._last = 0
        self._shown = -1

    @property
    def playing(self) -> bool:
        """Whether it is under way."""
        return self._began is not None

    def start(self, last: int) -> None:
        """Play from the beginning to step `last`."""
        self._began, self._last, self._shown = self._clock(), last, -1

    def cancel(self) -> None:
        """End where it is."""
        self._began = None

    def tick(self) -> None:
        """Show what is due."""
        if self._began is None:
            return
        rate = max(PER_SECOND, self._last / LONGEST)
        step = min(int((self._clock() - self._began) * rate), self._last)
        if step != self._shown:
            self._shown = step
            self._show(step)
        if step >= self._last:
            self._began = None
