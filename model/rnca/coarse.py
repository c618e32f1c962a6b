"""The grid on which an object is repaired: coarser than the mask's where the object is larger than a model knows."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import scipy  # loads its parts on first use
from numpy.typing import NDArray

from .changes import Mask
from .geometry import bounding_box, resample, show_on
from .mending import only_mending
from .topology import label_foreground

LARGER: Final = 1.05
"""An object larger by less than this is repaired on the mask's own grid: nothing is gained by another one."""

KEPT: Final = 0.96
"""The Dice that a mask must keep on the coarser grid and back: damaged organs have 0.97 or more, airways 0.95."""


def object_spacing(mask: Mask, spacing: Sequence[float], size: int, slice_axis: int | None = None) -> tuple[float, ...]:
    """The spacing at which the longest side of a mask's largest piece measures `size` voxels.

    A step reaches one voxel far, and what a model knows of objects it knows at the size it was trained on. Voxels only
    get larger, towards cubes. Where the object is hardly larger (`LARGER`), or too thin for such voxels (`KEPT`), it is
    the mask's own spacing.

    Args:
        mask: (*S) bool, 2-D or 3-D; pieces are 8- or 26-connected.
        spacing: of the mask, array order.
        size: voxels.
        slice_axis: of a volume that is repaired slice by slice, the axis from slice to slice: it keeps its spacing.

    Returns:
        The spacing, array order.
    """
    own = tuple(spacing)
    inner = bounding_box(mask)
    if inner is None:
        return own
    part = mask[inner]
    sides = [a for a in range(mask.ndim) if a != slice_axis]
    most = LARGER * size * min(own[a] for a in sides)
    if max(part.shape[a] * own[a] for a in sides) < most:  # no piece is larger than all of them together
        return own
    piece = _largest_piece(part)
    longest = max(piece[a] * own[a] for a in sides)
    if longest < most:
        return own
    wanted = tuple(s if a == slice_axis else max(s, longest / size) for a, s in enumerate(own))
    low, _ = resample(part, own, wanted)
    back = resample(low > 0.5, wanted, shape=part.shape)[0] > 0.5
    dice = 2 * np.count_nonzero(part & back) / (np.count_nonzero(part) + np.count_nonzero(back))
    return wanted if dice >= KEPT else own


def _largest_piece(mask: Mask) -> list[int]:
    """The sides of the box around the largest piece, voxels."""
    pieces, _ = label_foreground(mask)
    number = 1 + int(np.bincount(pieces.ravel())[1:].argmax())
    box = scipy.ndimage.find_objects(pieces, number)[-1]
    return [side.stop - side.start for side in box]


def complete_details(
    mask: Mask,
    low: Mask,
    centres: Sequence[NDArray[np.float64]],
    factors: Sequence[float],
    slice_axis: int | None = None,
    keep_holes: bool = False,
) -> Mask:
    """The mask after a repair on a coarser grid, with what that grid is too coarse to show.

    Slits and holes narrower than a model voxel are closed where that joins pieces or fills a hole, and pieces go that
    are smaller than a model voxel, as far as the repaired mask on the model's grid has none of them.

    Args:
        mask: (*S) bool, the repaired mask on its own grid.
        low: (*L) bool, the repaired mask on the model's grid.
        centres: where, an axis each, the voxels of the mask lie in the indices of the model's grid.
        factors: voxels of the mask in one of the model's, an axis each.
        slice_axis: as for `object_spacing`; slices are looked at alone, and no piece goes, as it may be a section of a
            larger one.
        keep_holes: only pieces are joined and taken away.

    Returns:
        (*S) bool, a new array.
    """
    solid = show_on(low, centres)
    widths = [2 * math.ceil(factor) + 1 if factor > 1 else 1 for factor in factors]
    padded = np.pad(mask, [(w, w) for w in widths]).view(np.uint8)
    closed = scipy.ndimage.grey_closing(padded, widths).view(bool)[tuple(slice(w, -w) for w in widths)]
    wanted = mask | (closed & solid)
    if slice_axis is None:
        numbers, count = label_foreground(mask)
        shown = np.zeros(count + 1, bool)
        shown[numbers[solid]] = True
        wanted &= shown[numbers] | ~mask
    return only_mending(mask, wanted, slice_axis, keep_holes)
