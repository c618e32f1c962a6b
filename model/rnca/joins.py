"""What a repair left almost joined: pieces that a few voxels part."""

from collections.abc import Iterator
from functools import partial
from itertools import product

import numpy as np
import scipy  # loads its parts on first use
from numpy.typing import NDArray

from .changes import Labels, Mask, each_slice
from .geometry import bounding_box
from .topology import betti_numbers, label_foreground


def join_pieces(before: Mask, after: Mask, gap: int, tolerance: float = 0.0, axis: int | None = None) -> Mask:
    """The mask after a repair with pieces joined that only a few voxels part, where growth came to rest too soon.

    The nearest pieces come first, each pair by the shortest line of voxels between them. A line that would make
    a hole, tunnel or cavity with what is beside it is not drawn; nor is any where the repair hardly touched the mask:
    what is apart in a right mask is meant to be.

    Args:
        before, after: (*S) bool, 2-D or 3-D.
        gap: voxels of such a line, at most.
        tolerance: share of the voxels before up to which they are hardly touched.
        axis: as for `tidy`; each slice is looked at alone.

    Returns:
        (*S) bool; `after` itself if nothing is joined.
    """
    if axis is not None:
        return each_slice(partial(join_pieces, gap=gap, tolerance=tolerance), axis, before, after)
    used = bounding_box(after)
    if used is None or np.count_nonzero(before ^ after) <= tolerance * np.count_nonzero(before):
        return after
    pieces, count = label_foreground(np.pad(after[used], gap + 1))
    group = np.arange(count + 1)  # of each piece
    for one, ends in _near_pairs(pieces.copy(), gap):
        places = np.rint(np.linspace(ends[0], ends[1], gap + 2)).astype(int)
        low, high = places.min(0) - 1, places.max(0) + 2
        around = pieces[tuple(map(slice, low, high))]
        line = np.zeros(around.shape, bool)
        line[tuple((places - low).T)] = True
        joined = np.unique(group[around[(around > 0) & scipy.ndimage.binary_dilation(line, np.ones((3,) * line.ndim))]])
        old, new = betti_numbers(around > 0), betti_numbers((around > 0) | line)
        # no way around it inside of the box (holes do not rise), nor outside (what it joins was apart everywhere)
        if old[0] - new[0] == len(joined) - 1 > 0 and all(n <= o for o, n in zip(old[1:], new[1:], strict=True)):
            around[line & (around == 0)] = one
            group[np.isin(group, joined)] = joined[0]
    out = after.copy()
    out[used] = pieces[(slice(gap + 1, -gap - 1),) * after.ndim] > 0
    return out


def _near_pairs(pieces: Labels, gap: int) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """For each two numbered pieces with up to `gap` voxels between them, the nearest first: one of them, and where.

    The pieces keep `gap` + 1 voxels from the border of the array. The places, (2, axes), are a voxel of each.
    """
    offsets = np.array(list(product(range(-gap - 1, gap + 2), repeat=pieces.ndim)))
    offsets = offsets[len(offsets) // 2 + 1 :]  # of two opposite ones the later
    strides = np.array(pieces.strides) // pieces.itemsize
    flat, at = pieces.ravel(), np.flatnonzero(pieces)
    seen: set[tuple[int, int]] = set()
    for offset in offsets[np.argsort((offsets**2).sum(1), kind="stable")]:
        there = at + offset @ strides
        hits = np.flatnonzero((flat[there] > 0) & (flat[there] != flat[at]))
        pairs = np.sort(np.stack([flat[at[hits]], flat[there[hits]]], 1), 1)
        found, firsts = np.unique(pairs, axis=0, return_index=True)
        for (one, other), hit in zip(found.tolist(), hits[firsts], strict=True):
            if (one, other) not in seen:
                seen.add((one, other))
                yield one, np.stack(np.unravel_index([at[hit], there[hit]], pieces.shape), 1)
