"""What a refinement is asked for, and what may end it: the same for a server and for this computer."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .boxes import Box, slices
from .events import Event


@dataclass(frozen=True)
class Image:
    """A volume of the scene.

    Attributes:
        voxels: (k, j, i) or (k, j, i, 3), any number type; a view is fine, nobody writes to it.
        ijk_to_ras: 4×4, voxel indices (i, j, k) to millimetres in RAS, without parent transforms.
        key: tells one content of one volume from every other: same key, same voxels.
        name: for messages.
    """

    voxels: NDArray[Any]
    ijk_to_ras: NDArray[np.float64]
    key: str
    name: str = "image"

    @property
    def shape(self) -> tuple[int, ...]:
        """(k, j, i)"""
        return tuple(self.voxels.shape[:3])


Within = tuple[NDArray[np.bool_], Box]
"""A mask and the box of the image's grid that it fills."""


@dataclass(frozen=True)
class Request:
    """One segment to refine. `mask` (bool) fills `box` of the image's grid; all around it is background.

    Nothing changes outside of the box `roi`; and of what changes in it, only what lies in `within` is used.
    """

    image: Image
    mask: NDArray[np.bool_]
    box: Box
    model: str = ""  # '' is the default; NAME or NAME@VERSION
    steps: int | None = None  # None is the model's own
    roi: Box | None = None
    label: str = "segment"  # for messages and records
    within: Within | None = None

    def whole_mask(self) -> NDArray[np.uint8]:
        """0 and 1 on the image's whole grid."""
        found = np.zeros(self.image.shape, np.uint8)
        found[slices(self.box)] = self.mask
        return found


@dataclass(frozen=True)
class Noted:
    """Something to tell the user while there are no steps yet; `fraction` of the wait, 0..1, where it is known."""

    text: str
    fraction: float | None = None


class Control:
    """How the main thread ends what a worker thread does; both methods return at once."""

    def __init__(self) -> None:
        self.abandoned = threading.Event()
        self._on_abandon: Callable[[], None] | None = None

    def when_abandoned(self, action: Callable[[], None]) -> None:
        """Call `action` when nobody waits any more, to cut off what the worker waits for; at once if that is so."""
        self._on_abandon = action
        if self.abandoned.is_set():
            action()

    def abandon(self) -> None:
        """End; nobody looks at what would still come."""
        self.abandoned.set()
        if self._on_abandon:
            self._on_abandon()


class Backend(Protocol):
    """Whoever refines: a server, or this computer."""

    def refine(self, request: Request, control: Control) -> Iterator[Event | Noted]:
        """Events until `Finished`; called in a worker thread.

        Raises:
            RefineError: a sentence for the user.
        """
        ...
