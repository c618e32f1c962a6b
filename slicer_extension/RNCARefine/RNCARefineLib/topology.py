"""Pieces, holes and cavities of a mask, in numpy alone: counted while the repair is watched.

Conventions as in the package `rnca` (foreground 8/26 neighbours, background 4/6), which the tests compare with; it is
not imported because Slicer's Python need not have it. Components are those of runs of voxels along the last axis; holes
follow from the Euler characteristic of the closed cubical complex (Kovalevsky, Computer Vision, Graphics, and Image
Processing 46:141-161, 1989): chi = b0 - b1 + b2.
"""

from itertools import product

import numpy as np
from numpy.typing import NDArray


def betti(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    """(pieces, holes) of a 2-D mask, (pieces, tunnels, cavities) of a 3-D one; an axis of size 1 makes it 2-D."""
    flat = np.squeeze(mask)
    if flat.ndim < 2:
        pieces = _pieces(np.atleast_2d(flat), True)
        return (pieces, 0) + (0,) * (mask.ndim - 2)
    pieces = _pieces(flat, True)
    if flat.ndim == 2:
        return (pieces, pieces - euler(flat)) + (0,) * (mask.ndim - 2)
    cavities = _pieces(np.pad(~flat, 1, constant_values=True), False) - 1
    return pieces, pieces + cavities - euler(flat), cavities


def euler(mask: NDArray[np.bool_]) -> int:
    """Euler characteristic of the union of the closed cubes of the true voxels."""
    padded = np.pad(mask, 1)
    total = 0
    for kind in product((False, True), repeat=mask.ndim):  # along which axes a cell of the complex is open
        cells = padded
        for axis, extended in enumerate(kind):
            if not extended:  # the cell lies between two voxels of this axis: it is there if either of them is
                low = tuple(slice(0, -1) if a == axis else slice(None) for a in range(mask.ndim))
                high = tuple(slice(1, None) if a == axis else slice(None) for a in range(mask.ndim))
                cells = cells[low] | cells[high]
        total += (-1) ** sum(kind) * int(np.count_nonzero(cells))
    return total


def _pieces(mask: NDArray[np.bool_], diagonal: bool) -> int:
    """Connected components: with diagonal neighbours, or only those that share a side."""
    rows = mask.reshape(-1, mask.shape[-1])
    edges = np.diff(np.pad(rows, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, start = np.nonzero(edges == 1)
    stop = np.nonzero(edges == -1)[1]  # one past the end
    if not row.size:
        return 0
    pairs = [
        found
        for shift in _before(mask.shape[:-1], diagonal)
        for found in [_touching(row, start, stop, shift, diagonal)]
    ]
    return _components(row.size, np.concatenate(pairs, axis=1) if pairs else np.empty((2, 0), np.int64))


def _before(shape: tuple[int, ...], diagonal: bool) -> list[NDArray[np.int64]]:
    """For each direction to a neighbouring row: the number of that row for every row, -1 where there is none."""
    count = int(np.prod(shape))
    index = np.arange(count).reshape(shape)
    found = []
    for step in product((-1, 0, 1), repeat=len(shape)):
        if step >= (0,) * len(shape) or (not diagonal and sum(map(abs, step)) != 1):
            continue
        other = np.full(shape, -1, np.int64)
        here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, shape, strict=True))
        there = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(step, shape, strict=True))
        other[here] = index[there]
        found.append(other.ravel())
    return found


def _touching(
    row: NDArray[np.int64], start: NDArray[np.int64], stop: NDArray[np.int64], other: NDArray[np.int64], diagonal: bool
) -> NDArray[np.int64]:
    """Pairs (2, n) of runs that touch: each run with those of the neighbouring row `other[row]`."""
    reach = 1 if diagonal else 0
    width = int(stop.max()) + 2
    beside = other[row]
    runs = np.flatnonzero(beside >= 0)
    place = beside[runs] * width
    # The runs of a row lie apart, sorted by start and by stop: those that touch are neighbours in that order.
    first = np.searchsorted(row * width + stop, place + start[runs] - reach, side="right")
    last = np.searchsorted(row * width + start, place + stop[runs] + reach, side="left")
    counts = np.maximum(last - first, 0)
    left = np.repeat(runs, counts)
    offset = np.arange(left.size) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([left, np.repeat(first, counts) + offset])


def _components(count: int, pairs: NDArray[np.int64]) -> int:
    """Components of a graph: every node takes the smallest name around until nothing changes, with shortcuts."""
    name = np.arange(count)
    left, right = pairs
    while True:
        low = np.minimum(name[left], name[right])
        before = name.copy()
        np.minimum.at(name, name[left], low)
        np.minimum.at(name, name[right], low)
        np.minimum.at(name, left, low)
        np.minimum.at(name, right, low)
        while True:  # follow names of names to their end
            short = name[name]
            if np.array_equal(short, name):
                break
            name = short
        if np.array_equal(before, name):
            return int(np.unique(name).size)
