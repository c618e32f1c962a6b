"""Every step that was seen, small enough to keep: flips as packed bits, with a whole mask every few steps."""

import threading
import zlib
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .boxes import Box, around, overlap, size, slices, union
from .events import Stepped

KEY = 8
"""Steps between two whole masks: to go back costs at most so many flips."""


@dataclass(frozen=True)
class _Packed:
    box: Box
    bits: bytes

    @classmethod
    def of(cls, mask: NDArray[np.bool_], box: Box) -> "_Packed":
        return cls(box, zlib.compress(np.packbits(mask.ravel()).tobytes(), 1))

    def mask(self) -> NDArray[np.bool_]:
        shape = size(self.box)
        bits = np.frombuffer(zlib.decompress(self.bits), np.uint8)
        return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)


class History:
    """The masks of one refinement inside `box`, by step.

    Written by the worker thread with `add` and `finish`, read by the main thread with `at`: entries are only ever
    appended, and a step is listed in `steps` after its data is there.

    Attributes:
        box: everything that can change.
        touched: the box of what did change so far; None if nothing.
        steps: the numbers of the steps that were seen, ascending, from 0.
    """

    def __init__(self, start: NDArray[np.bool_], box: Box) -> None:
        """`start`: bool, of `box`'s shape, the mask before the first step."""
        self.box = box
        self.touched: Box | None = None
        self.steps = [0]
        self._now = start.copy()
        self._lock = threading.Lock()
        self._keys = {0: _Packed.of(start, box)}
        self._flips: dict[int, _Packed | None] = {}

    @property
    def last(self) -> int:
        """The newest step."""
        return self.steps[-1]

    @property
    def bytes(self) -> int:
        """Memory that the steps take."""
        return sum(len(p.bits) for p in (*self._keys.values(), *self._flips.values()) if p)

    def add(self, event: Stepped) -> None:
        """One more step; its number must be larger than the last one's."""
        with self._lock:
            self._flips[event.step] = None
            if event.box is not None and event.flips is not None:
                self._now[slices(event.box, self.box)] ^= event.flips
                self._flips[event.step] = _Packed.of(event.flips, event.box)
                self._touch(event.box)
            if len(self.steps) % KEY == 0:
                self._keys[event.step] = _Packed.of(self._now, self.box)
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
            self._keys[step], self._flips[step] = _Packed.of(mask, self.box), None
            self.steps.append(step)

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
            mask = self._keys[self.steps[first]].mask()
            for number in self.steps[first + 1 : place + 1]:
                flips = self._flips[number]
                if flips is not None:
                    mask[slices(flips.box, self.box)] ^= flips.mask()
        return mask[slices(part, self.box)]

    def _touch(self, box: Box) -> None:
        self.touched = box if self.touched is None else union(self.touched, box)
