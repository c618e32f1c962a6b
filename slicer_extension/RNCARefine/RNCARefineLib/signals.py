"""Signals without Qt: custom `qt.Signal`s crash under PythonQt, and the library also runs where there is no Qt."""

from collections.abc import Callable
from typing import Any


class Signal:
    """Calls what was connected, in the order of connecting, in the thread that emits."""

    def __init__(self) -> None:
        self._slots: list[Callable[..., Any]] = []

    def connect(self, slot: Callable[..., Any]) -> None:
        """From now on `slot` is called with what is emitted; a second time changes nothing."""
        if slot not in self._slots:
            self._slots.append(slot)

    def disconnect(self, slot: Callable[..., Any]) -> None:
        """`slot` is called no more; nothing happens if it was not connected."""
        if slot in self._slots:
            self._slots.remove(slot)

    def emit(self, *values: Any) -> None:
        """Call every slot; one that connects or disconnects takes effect from the next time."""
        for slot in list(self._slots):
            slot(*values)
