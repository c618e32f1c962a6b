"""The changes that a repair made, one by one."""

from collections.abc import Callable, Iterator
from math import inf
from typing import Any

import numpy as np
import scipy  # loads its parts on first use
from numpy.typing import NDArray

from .geometry import Box
from .topology import label_foreground

Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]


def each_change(before: Mask, after: Mask, most: float = inf) -> Iterator[tuple[Box, Mask, int]]:
    """Each change in one piece of up to `most` voxels, the largest first of what was added, then of what was removed.

    Args:
        before, after: (*S) bool, 2-D or 3-D; pieces are 8- or 26-connected.

    Yields:
        A box with a voxel around the piece, cut at the border of the array; the piece in there, bool; its voxels.
    """
    for changed in (after & ~before, before & ~after):
        if not changed.any():
            continue
        pieces, count = label_foreground(changed)
        voxels = np.bincount(pieces.ravel(), minlength=count + 1)
        boxes = scipy.ndimage.find_objects(pieces)
        for number in (number for number in 1 + np.argsort(-voxels[1:]) if voxels[number] <= most):
            around = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in boxes[number - 1])
            yield around, pieces[around] == number, int(voxels[number])


def each_slice(rule: Callable[..., Mask], axis: int, *volumes: NDArray[Any]) -> Mask:
    """What a rule makes of volumes whose slices, across an axis, are masks of their own.

    Args:
        rule: takes a slice of each of the volumes.
        axis: from slice to slice, 0 to 2.
        volumes: (*S) bool, 3-D, or (C, *S): channels stay in front in the slices.

    Returns:
        (*S) bool, a new array.
    """
    dims = min(volume.ndim for volume in volumes)
    slices = zip(*(np.moveaxis(volume, axis - dims, 0) for volume in volumes), strict=True)
    return np.moveaxis(np.stack([rule(*parts) for parts in slices]), 0, axis)
