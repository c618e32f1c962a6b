"""Whether a change mends a mask: joins pieces, takes one away, fills a hole or a tunnel, or closes a ring."""

from functools import partial
from typing import Literal

import numpy as np
import scipy  # loads its parts on first use

from .changes import Labels, Mask, each_change, each_slice
from .geometry import Box, bounding_box, grow_box
from .topology import betti_numbers, label_foreground

RING = 0.25
"""A loop around at least this share of a mask's pixels is a ring, around less the mouth of a bay."""


def only_mending(before: Mask, after: Mask, axis: int | None = None, keep_holes: bool = False) -> Mask:
    """The mask before, with those changes alone that mend something (see `mends`).

    Args:
        before, after: (*S) bool, 2-D or 3-D.
        axis: of a volume that was repaired slice by slice, the axis from slice to slice; each is looked at alone.
        keep_holes: as for `mends`.

    Returns:
        (*S) bool, a new array.
    """
    if axis is not None:
        return each_slice(partial(only_mending, keep_holes=keep_holes), axis, before, after)
    out, changes = before.copy(), bounding_box(before ^ after)
    if changes is not None:
        box = grow_box(changes, 1, before.shape)
        pieces = pieces_around(before, box, keep_holes)
        for around, piece, _ in each_change(before[box], after[box]):
            if mends(before[box], piece, around, pieces, keep_holes):
                out[box][around] ^= piece
    return out


def effect(
    before: Mask, change: Mask, around: Box, pieces: Labels | None = None, keep_holes: bool = False
) -> Literal["mends", "breaks", "none"]:
    """What a change, (*around), does to the topology of the mask around it; arguments as for `mends`."""
    if mends(before, change, around, pieces, keep_holes):
        return "mends"
    return "none" if betti_numbers(before[around]) == betti_numbers(before[around] ^ change) else "breaks"


def mends(before: Mask, change: Mask, around: Box, pieces: Labels | None, keep_holes: bool = False) -> bool:
    """Whether a change, (*around), lowers a Betti number of the mask a voxel around it.

    Given the numbers of all pieces of the whole mask before, what hangs together elsewhere is one: joining its parts
    closes a loop and mends nothing, but for a ring in a picture. With `keep_holes` neither that nor filling a hole,
    tunnel or cavity mends anything.
    """
    old, new = betti_numbers(before[around]), betti_numbers(before[around] ^ change)
    if not keep_holes and any(n < o for o, n in zip(old[1:], new[1:], strict=True)):
        return True
    if new[0] >= old[0]:
        return False
    if pieces is None or before[around][change].any() or _touched(pieces[around], change) > 1:
        return True
    return before.ndim == 2 and not keep_holes and _closes_ring(before, change, around)


def holes(mask: Mask) -> Labels:
    """Number the regions of the background that do not reach the border, from 1."""
    regions, _ = scipy.ndimage.label(~np.pad(mask, 1))
    outside = regions.flat[0]
    regions = regions[(slice(1, -1),) * mask.ndim]
    regions[regions == outside] = 0
    return regions


def numbered(mask: Mask, axis: int | None = None) -> Labels:
    """The pieces of a mask, or those of each slice, numbered from 1."""
    if axis is None:
        return label_foreground(mask)[0]
    return np.moveaxis(np.stack([label_foreground(part)[0] for part in np.moveaxis(mask, axis, 0)]), 0, axis)


def pieces_around(mask: Mask, box: Box, keep_holes: bool, axis: int | None = None) -> Labels | None:
    """In a box, the pieces of the whole mask by which `mends` tells a join from a loop.

    None in pictures, where closing a loop may close a ring, unless holes are kept.
    """
    return numbered(mask, axis)[box] if keep_holes or (mask.ndim == 3 and axis is None) else None


def _touched(pieces: Labels, change: Mask) -> int:
    """How many of the numbered pieces a change touches."""
    beside = scipy.ndimage.binary_dilation(change, np.ones((3,) * change.ndim))
    return len(np.setdiff1d(pieces[beside], [0]))


def _closes_ring(before: Mask, change: Mask, around: Box) -> bool:
    """Whether what a change encloses, in a slice, is as large as the lumen of a ring."""
    closed = before.copy()
    closed[around] |= change
    enclosed = np.count_nonzero(holes(closed)) - np.count_nonzero((holes(before) > 0) & ~closed)
    return enclosed >= RING * np.count_nonzero(before)
