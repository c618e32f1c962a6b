"""Small changes of a repair that mend nothing: specks and nibbles. They are noise, and are not kept."""

import numpy as np
import scipy  # loads its parts on first use
from numpy.typing import NDArray

from .geometry import bounding_box, grow_box
from .topology import betti_numbers, label_foreground

Mask = NDArray[np.bool_]

Sizes = tuple[int, int]
"""Voxels up to which specks and up to which nibbles are not kept; (0, 0) keeps all."""


def without_specks(before: Mask, after: Mask, sizes: Sizes, axis: int | None = None) -> Mask:
    """The mask after a repair, less its specks and nibbles.

    Looked at is each change in one piece (pixels that were added, or that were removed; 8- or 26-connected), as if it
    were made alone, and the Betti numbers of the mask within a voxel around it. If one falls, it mends something: it
    joins pieces, takes a whole one away, or fills a hole or a tunnel. If none falls and one rises, it is a speck: a dot
    beside the mask, a pinhole in it, a cut. If all stay, it is a nibble at the border.

    Args:
        before, after: (*S) bool, 2-D or 3-D.
        sizes: up to how many voxels specks and nibbles are undone.
        axis: of a volume that was repaired slice by slice, the axis from slice to slice; each is looked at alone.

    Returns:
        (*S) bool; `after` itself if nothing changed or all is kept.
    """
    changes = bounding_box(before ^ after) if any(sizes) else None
    if changes is None:
        return after
    box = grow_box(changes, 1, before.shape)
    out = after.copy()
    old, new = before[box], out[box]
    if axis is None:
        _undo(old, new, sizes)
    else:
        for old_slice, new_slice in zip(np.moveaxis(old, axis, 0), np.moveaxis(new, axis, 0), strict=True):
            _undo(old_slice, new_slice, sizes)
    return out


def _undo(before: Mask, after: Mask, sizes: Sizes) -> None:
    """Write the values before over specks and nibbles in `after`."""
    for changed in (after & ~before, before & ~after):
        if not changed.any():
            continue
        pieces, count = label_foreground(changed)
        voxels = np.bincount(pieces.ravel(), minlength=count + 1)
        boxes = scipy.ndimage.find_objects(pieces)
        for number in np.flatnonzero(voxels[1:] <= max(sizes)) + 1:
            around = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in boxes[number - 1])
            piece = pieces[around] == number
            if voxels[number] <= _kept_above(before[around], piece, sizes):
                after[around][piece] = before[around][piece]


def _kept_above(before: Mask, change: Mask, sizes: Sizes) -> int:
    """The size up to which a change like this one is undone: 0 if it mends something."""
    old, new = betti_numbers(before), betti_numbers(before ^ change)
    if any(n < o for o, n in zip(old, new, strict=True)):
        return 0
    specks, nibbles = sizes
    return nibbles if old == new else specks
