"""Patches to train on, drawn from cases: here, or ahead of time by worker processes."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor

import numpy as np
from numpy.typing import NDArray

from .cases import Case, Starts, draw_patch

Patch = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
"""image (C, *size), start (*size) and target (*size), as `draw_patch` returns them."""

Zoom = tuple[float, float]
"""Smallest and largest factor by which a case is enlarged."""

AHEAD = 8
"""Tasks each worker has waiting."""

TOGETHER = 4
"""Patches of a task."""


class Patches:
    """Draws patches of these cases; a case's chance goes with the square root of its size.

    So large cases, which hold more to learn, are drawn more often, and small ones are not forgotten.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        size: Sequence[int],
        starts: Starts,
        noise: float = 0.0,
        zoom: Zoom = (1.0, 1.0),
        neighbours: float = 0.0,
    ) -> None:
        self.cases, self.size, self.starts = cases, size, starts
        self.noise, self.zoom, self.neighbours = noise, zoom, neighbours
        weights = np.sqrt([max(case.label.sum(), 1) for case in cases])
        self.weights = weights / weights.sum()

    def draw(self, rng: np.random.Generator) -> Patch:
        """One patch."""
        case = self.cases[rng.choice(len(self.cases), p=self.weights)]
        return draw_patch(case, self.size, self.starts, rng, self.noise, self.zoom, self.neighbours)


class PatchesAhead:
    """The same by worker processes, for training that is faster than one process can damage masks (a GPU's).

    Patch n of a seed is always the same, however many workers there are; `draw` ignores the generator it is given.
    Close it, or use it in a `with` statement.
    """

    def __init__(self, patches: Patches, *, workers: int, seed: int = 0) -> None:
        self._seed, self._next = seed, 0
        self._ready: deque[Patch] = deque()
        self._executor = ProcessPoolExecutor(workers, initializer=_begin, initargs=(patches,))
        self._waiting: deque[Future[list[Patch]]] = deque()
        for _ in range(workers * AHEAD):
            self._ask()

    def _ask(self) -> None:
        self._waiting.append(self._executor.submit(_draw, self._seed, self._next))
        self._next += 1

    def draw(self, rng: np.random.Generator) -> Patch:
        """The next patch."""
        if not self._ready:
            self._ask()
            self._ready.extend(self._waiting.popleft().result())
        return self._ready.popleft()

    def __enter__(self) -> "PatchesAhead":
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)


_patches: Patches


def _begin(patches: Patches) -> None:
    global _patches
    _patches = patches


def _draw(seed: int, number: int) -> list[Patch]:
    rng = np.random.default_rng((seed, number))
    return [_patches.draw(rng) for _ in range(TOGETHER)]
