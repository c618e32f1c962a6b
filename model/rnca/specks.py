"""Specks of a repair: changes of a few voxels that mend nothing. They are noise, and are not kept."""

import numpy as np
import scipy  # loads its parts on first use
from numpy.typing import NDArray

from .geometry import bounding_box, grow_box
from .topology import betti_numbers, label_foreground

Mask = NDArray[np.bool_]


def without_specks(before: Mask, after: Mask, size: int, axis: int | None = None) -> Mask:
    """The mask after a repair, less its specks.

    A speck is a change in one piece (pixels that were added, or that were removed; 8- or 26-connected) of at most
    `size` voxels that mends nothing. It would mend something if, made alone, it joined pieces, took a whole piece away,
    or filled a hole or a tunnel: if a Betti number of the mask within a voxel around it fell.

    Args:
        before, after: (*S) bool, 2-D or 3-D.
        size: voxels; 0 for no specks.
        axis: of a volume that was repaired slice by slice, the axis from slice to slice; each is looked at alone.

    Returns:
        (*S) bool; `after` itself where nothing is a speck.
    """
    changes = bounding_box(before ^ after) if size else None
    if changes is None:
        return after
    box = grow_box(changes, 1, before.shape)
    out = after.copy()
    old, new = before[box], out[box]
    if axis is None:
        _undo_specks(old, new, size)
    else:
        for old_slice, new_slice in zip(np.moveaxis(old, axis, 0), np.moveaxis(new, axis, 0), strict=True):
            _undo_specks(old_slice, new_slice, size)
    return out


def _undo_specks(before: Mask, after: Mask, size: int) -> None:
    """Write the values before over the specks in `after`."""
    for changed in (after & ~before, before & ~after):
        if not changed.any():
            continue
        pieces, count = label_foreground(changed)
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)
        boxes = scipy.ndimage.find_objects(pieces)
        for number in np.flatnonzero(sizes[1:] <= size) + 1:
            around = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in boxes[number - 1])
            piece = pieces[around] == number
            if not _mends(before[around], piece):
                after[around][piece] = before[around][piece]


def _mends(before: Mask, change: Mask) -> bool:
    """Whether a Betti number falls if this alone changes."""
    return any(new < old for old, new in zip(betti_numbers(before), betti_numbers(before ^ change), strict=True))
