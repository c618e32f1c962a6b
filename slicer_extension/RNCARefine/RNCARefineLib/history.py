"""Every step that was seen, small enough to keep: what flipped, with a whole mask every so many steps."""

import threading
import zlib
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .boxes import Box, around, overlap, size, slices, union
from .events import Stepped

KEY = 32
"""Steps between two whole masks: to go back costs at most so many flips."""

FEW = 4096
"""Voxels that are kept as a list of places; more are kept as packed bits."""

Places = NDArray[np.intp]


@dataclass(frozen=True)
class Kept:
    """A mask in a box: the places of its voxels, flat, where they are few, and else its bits, packed and compressed."""

    box: Box
    few: Places | None
    bits: bytes

    @classmethod
    def of(cls, mask: NDArray[np.bool_], box: Box) -> "Kept":
        """Keep a mask (bool, of the box's shape)."""
        if np.count_nonzero(mask) <= FEW:
            return cls(box, np.flatnonzero(mask), b"")
        return cls(box, None, zlib.compress(np.packbits(mask.ravel()).tobytes(), 1))

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return len(self.bits) if self.few is None else self.few.nbytes

    def places(self) -> Places:
        """Of its true voxels: flat indices into the box."""
        if self.few is not None:
            return self.few
        packed = np.frombuffer(zlib.decompress(self.bits), np.uint8)
        filled = np.flatnonzero(packed)  # most bytes of a change are empty
        row, column = np.nonzero(np.unpackbits(packed[filled, None], axis=1))
        return filled[row] * 8 + column

    def flip(self, mask: NDArray[np.bool_]) -> None:
        """Flip its voxels in a mask of the box's shape."""
        if self.few is not None:
            mask[np.unravel_index(self.few, mask.shape)] ^= True
            return
        packed = np.frombuffer(zlib.decompress(self.bits), np.uint8)
        mask ^= np.unpackbits(packed, count=mask.size).reshape(mask.shape).view(np.bool_)


class History:
    """The masks of one refinement inside `box`, by step.

    Written by the worker thread with `add` and `finish`, read by the main thread with `at` and `flips`: entries are
    only ever appended, and a step is listed in `steps` after its data is there.

    Attributes:
        box: everything that can change.
        touched: the box of what did change so far; None if nothing.
        steps: the numbers of the steps that were seen, ascending, from 0.
        ended: whether `finish` gave a mask that the steps had not told.
    """

    def __init__(self, start: NDArray[np.bool_], box: Box) -> None:
        """`start`: bool, of `box`'s shape, the mask before the first step."""
        self.box = box
        self.touched: Box | None = None
        self.steps = [0]
        self.ended = False
        self._now = start.copy()
        self._lock = threading.Lock()
        self._keys = {0: Kept.of(start, box)}
        self._flips: dict[int, Kept | None] = {}

    @property
    def last(self) -> int:
        """The newest step."""
        return self.steps[-1]

    @property
    def bytes(self) -> int:
        """Memory that the steps take."""
        return sum(kept.bytes for kept in (*self._keys.values(), *self._flips.values()) if kept)

    def add(self, event: Stepped) -> None:
        """One more step; its number must be larger than the last one's."""
        kept = None
        if event.box is not None and event.flips is not None:
            kept = Kept.of(event.flips, event.box)
        with self._lock:
            self._flips[event.step] = kept
            if kept is not None:
                kept.flip(self._now[slices(kept.box, self.box)])
                self._touch(kept.box)
            if len(self.steps) % KEY == 0:
                self._keys[event.step] = Kept.of(self._now, self.box)
            self.steps.append(event.step)

    def finish(self, step: int, mask: NDArray[np.bool_]) -> None:
        """The result (bool, of `box`'s shape): steps that were left out end here."""
        with self._lock:
            if step == self.last and np.array_equal(mask, self._now):
                return
            if step in self.steps:  # its flips were told, and yet it is another: the whole mask is right
                self.steps.remove(step)
            changed = around(mask ^ self._now)
            if changed is not None:
                self._touch(tuple((a + c, b + c) for (a, b), (c, _) in zip(changed, self.box, strict=True)))
            self._now = mask.copy()
            self._keys[step], self._flips[step] = Kept.of(mask, self.box), None
            self.steps.append(step)
            self.ended = True

    def at(self, step: int, within: Box | None = None) -> NDArray[np.bool_]:
        """The mask after `step` updates, or after the last one before it that was seen.

        Returns:
            A new array: the whole `box`, or the part of it that lies in `within`, which must overlap it.
        """
        part = self.box if within is None else overlap(self.box, within)
        assert part is not None
        with self._lock:
            if step >= self.last:
                return self._now[slices(part, self.box)].copy()
            place = bisect_right(self.steps, max(step, 0)) - 1
            first = place
            while self.steps[first] not in self._keys:
                first -= 1
            mask = np.zeros(size(self.box), np.bool_)
            self._keys[self.steps[first]].flip(mask)
            for number in self.steps[first + 1 : place + 1]:
                flips = self._flips[number]
                if flips is not None:
                    flips.flip(mask[slices(flips.box, self.box)])
        return mask[slices(part, self.box)]

    def flips(self, first: int, last: int) -> list[Kept] | None:
        """What flipped on the way from the mask after one step to the mask after another, forwards or back.

        Returns:
            A list to flip one after the other; None where that is not known, or more work than the whole mask.
        """
        low, high = sorted((first, last))
        with self._lock:
            between = self.steps[bisect_right(self.steps, low) : bisect_right(self.steps, high)]
            if len(between) > KEY or (self.ended and self.steps[-1] in (*between, low)):
                return None
            return [kept for kept in (self._flips[number] for number in between) if kept is not None]

    def _touch(self, box: Box) -> None:
        self.touched = box if self.touched is None else union(self.touched, box)
