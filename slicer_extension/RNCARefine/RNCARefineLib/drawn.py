"""The masks of a refinement as they are shown: on one box for all runs, brought up to date by what flipped.

A step changes some hundred voxels of a mask of some hundred thousand: following it costs those hundred, and the whole
is drawn anew only where the box grows or the way from one step to another is long.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .boxes import Box, on_box, size, union
from .history import Places
from .runs import Run

ROOM = 8
"""Voxels around what changed so far: the box need not grow with every step."""

Canvas = Callable[[str, Box], NDArray[np.uint8]]
"""Gives the array (0 everywhere, of the box's shape) in which a mask of this name is drawn from now on."""


@dataclass
class _Shown:
    """One run, all arrays flat: `now` is the canvas's, after `step` updates; `before` is the mask as it was sent."""

    now: NDArray[np.uint8]
    before: NDArray[np.bool_]
    within: NDArray[np.bool_] | None
    step: int
    added: int
    removed: int


class Drawn:
    """What is drawn of the runs of one refinement.

    Args:
        names: of the runs' masks on the canvas; what they added and removed, all together, is drawn under `added` and
            `removed`.
        canvas: where to draw.
    """

    def __init__(self, names: list[str], added: str, removed: str, canvas: Canvas) -> None:
        self._names, self._added, self._removed, self._canvas = names, added, removed, canvas
        self._box: Box | None = None
        self._runs: dict[int, _Shown] = {}
        self._more = self._less = np.zeros(0, np.uint8)

    def counts(self, number: int) -> tuple[int, int, int]:
        """Of a run: (step that is shown, voxels added, voxels removed); zeros before it is drawn."""
        shown = self._runs.get(number)
        return (0, 0, 0) if shown is None else (shown.step, shown.added, shown.removed)

    def draw(self, runs: list[Run], step: int | None) -> list[str]:
        """Draw every run that has begun as it was after `step` (None: its newest); the names of what changed."""
        wanted = {
            number: run.last if step is None else min(step, run.last)
            for number, run in enumerate(runs)
            if run.began or run.history is not None or step is not None
        }
        if not wanted:
            return []
        box = self._box
        if box is None or set(wanted) != set(self._runs) or not all(_holds(box, runs[n].box) for n in wanted):
            return self._anew(runs, wanted)
        found = []
        for number, last in wanted.items():
            flips = self._flips(runs[number], self._runs[number].step, last)
            if flips is None:
                return self._anew(runs, wanted)
            found.append((number, last, flips))
        changed = []
        for number, last, flips in found:
            self._runs[number].step = last
            for places in flips:
                self._follow(self._runs[number], places)
                changed += [self._names[number], self._added, self._removed]
        return sorted(set(changed))

    def _flips(self, run: Run, first: int, last: int) -> list[Places] | None:
        """Flat places in the box that flip on the way between two steps; None if it is better drawn anew."""
        if run.history is None:
            return []
        kept = run.history.flips(first, last)
        if kept is None:
            return None
        assert self._box is not None
        shape, corner = size(self._box), [start for start, _ in self._box]
        found = []
        for flips in kept:
            places = np.unravel_index(flips.places(), size(flips.box))
            moved = [p + (start - c) for p, (start, _), c in zip(places, flips.box, corner, strict=True)]
            found.append(np.ravel_multi_index(tuple(moved), shape))
        return found

    def _follow(self, shown: _Shown, places: Places) -> None:
        if shown.within is not None:
            places = places[shown.within[places]]
        now, before = shown.now[places] ^ 1, shown.before[places]
        shown.now[places] = now
        ahead = np.where(now == before, -1, 1)  # it came to differ from the start, or ceased to
        shown.added += int(ahead[~before].sum())
        shown.removed += int(ahead[before].sum())
        self._more[places] = self._any(places, added=True)
        self._less[places] = self._any(places, added=False)

    def _any(self, places: Places | slice, added: bool) -> NDArray[np.bool_]:
        """Whether any run added (removed) these voxels."""
        parts = [
            (run.now[places] != 0) & ~run.before[places] if added else (run.now[places] == 0) & run.before[places]
            for run in self._runs.values()
        ]
        return np.logical_or.reduce(parts)

    def _anew(self, runs: list[Run], wanted: dict[int, int]) -> list[str]:
        box = None
        for number in wanted:
            box = runs[number].box if box is None else union(box, runs[number].box)
        assert box is not None
        shape = runs[0].request.image.shape
        box = tuple((max(0, a - ROOM), min(n, b + ROOM)) for (a, b), n in zip(box, shape, strict=True))
        if self._box is not None and _holds(self._box, box):
            box = self._box
        self._box, self._runs = box, {}
        for number, step in wanted.items():
            run = runs[number]
            before, after = run.before(box), run.mask_at(step, box)
            now = self._canvas(self._names[number], box)
            now[...] = after
            added, removed = int(np.count_nonzero(after & ~before)), int(np.count_nonzero(before & ~after))
            within = None if run.request.within is None else on_box(*run.request.within, box).ravel()
            self._runs[number] = _Shown(now.reshape(-1), before.ravel(), within, step, added, removed)
        self._more = self._canvas(self._added, box).reshape(-1)
        self._less = self._canvas(self._removed, box).reshape(-1)
        everywhere = slice(None)
        self._more[...] = self._any(everywhere, added=True)
        self._less[...] = self._any(everywhere, added=False)
        return [self._names[number] for number in wanted] + [self._added, self._removed]


def _holds(outer: Box, inner: Box) -> bool:
    return union(outer, inner) == outer
