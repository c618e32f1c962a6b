"""What grey values tell about a repair: growth into background is undone, bays that it left half filled are filled."""

from functools import partial
from typing import Any

import numpy as np
import scipy  # loads its parts on first use
from numpy.typing import NDArray

from .changes import Mask, each_change, each_slice
from .geometry import Box, grow_box
from .shape import close_gaps, is_compact
from .topology import label_foreground

NEAR = 5
"""Voxels around a place that its grey values are compared with."""

ENOUGH = 20
"""Voxels at least, of a bay and of the mask and the background near a place, or their grey values say nothing."""

ALIKE = 0.5
"""Share of the way from the background's grey values to the mask's from which on something looks like the mask."""

VISIBLE = 0.3
"""Deviations within mask and background by which their medians differ, or the difference is noise."""

BROKEN = 0.1
"""Growth by this share of a mask or more shows that it was broken, and may be broken elsewhere."""

ROOM = 0.25
"""A bay of this share of a mask's voxels or more is a room of its own, as the lumen of a ring is."""


def without_background(before: Mask, after: Mask, image: NDArray[Any], size: int, axis: int | None = None) -> Mask:
    """The mask after a repair, less growth into background.

    Each change in one piece that adds `size` voxels or more is compared with the mask and with the background up to
    five voxels (`NEAR`) around it, by the medians of the grey values. Where it is nearer to the background's it is
    undone, whatever it mends: what lies between two vessels looks otherwise than a vessel's missing piece. Where there
    is hardly any mask or background around it (`ENOUGH`), as in a hole, or both look alike (`VISIBLE`), it stays.

    Args:
        before, after: (*S) bool, 2-D or 3-D.
        image: (C, *S), any numbers; with several channels the nearer is along the line between both medians.
        size: voxels; what is smaller is too small for a median in a noisy image.
        axis: as for `tidy`; each slice is looked at alone.

    Returns:
        (*S) bool; `after` itself if all is kept.
    """
    if axis is not None:
        return each_slice(partial(without_background, size=size), axis, before, after, image)
    wrong = []
    for around, piece, voxels in each_change(before, after | before):
        share = _likeness(before, piece, around, image)[0] if voxels >= size else None
        if share is not None and share < ALIKE:
            wrong.append((around, piece))
    if not wrong:
        return after
    out = after.copy()
    for around, piece in wrong:
        out[around][piece] = False
    return out


def fill_bays(before: Mask, after: Mask, image: NDArray[Any], width: int, axis: int | None = None) -> Mask:
    """The mask after a repair, with the bays and holes filled that it left half done.

    A missing chunk is filled from its sides, and where that comes to rest too soon a bay is left, or a hole. A bay is
    what a closing with a disk or ball of the diameter `width` adds to the mask, with what it encloses. Filled is each
    one in one piece beside which at least as many voxels grew, and that looks like the mask. In a compact mask, which
    has no gaps between branches that growth passes by, any growth beside it is enough for a bay of less than a quarter
    of the mask (`ROOM`), and none is needed where a tenth of the mask grew altogether (`BROKEN`), but for notches of
    the outline that are too small for a look. By the medians of the grey values a bay is nearer to the mask up to five
    voxels (`NEAR`) around it than to the background, and no more than that far beyond, as a bright gall bladder in the
    bay of a liver is, or within a deviation of the mask; where there is hardly any background, or both look alike
    (`VISIBLE`), the deviation decides. Fewer than twenty voxels (`ENOUGH`) have no look of their own.

    Args:
        before, after: (*S) bool, 2-D or 3-D.
        image: (C, *S), any numbers.
        width: voxels of a bay's mouth, at most.
        axis: as for `tidy`; each slice is looked at alone.

    Returns:
        (*S) bool; `after` itself if none is filled.
    """
    if axis is not None:
        return each_slice(partial(fill_bays, width=width), axis, before, after, image)
    grown = after & ~before
    if not grown.any():
        return after
    closed = scipy.ndimage.binary_fill_holes(close_gaps(after, width))
    numbered, _ = label_foreground(grown)
    amounts = np.bincount(numbered.ravel())
    out, size = after.copy(), np.count_nonzero(after)
    compact = is_compact(after)
    broken = np.count_nonzero(grown) >= BROKEN * size
    for around, bay, voxels in each_change(after, closed):
        beside = numbered[around][scipy.ndimage.binary_dilation(bay, np.ones((3,) * bay.ndim))]
        growth = amounts[np.setdiff1d(beside, [0])].sum()
        likely = growth or (broken and (voxels >= ENOUGH or _is_hole(after, bay, around)))
        if growth < voxels and not (compact and voxels < ROOM * size and likely):
            continue
        share, alike = _likeness(after, bay, around, image) if voxels >= ENOUGH else (None, True)
        if alike if share is None else share >= ALIKE and (alike or share <= 2 - ALIKE):
            out[around][bay] = True
    return out


def _is_hole(mask: Mask, place: Mask, around: Box) -> bool:
    """Whether a place, (*around), outside of a mask has nothing but the mask beside it, 4- or 6-connected."""
    beside = scipy.ndimage.binary_dilation(np.pad(place, 1)) & ~np.pad(place, 1)
    return bool(np.pad(mask[around], 1)[beside].all())


def _likeness(mask: Mask, place: Mask, around: Box, image: NDArray[Any]) -> tuple[float | None, bool]:
    """What the medians of the grey values of a place, (*around), outside of a mask say.

    The share of the way from the background near it to the mask near it, None where these do not differ or one is not
    there; and whether it is within a deviation of the mask near it.
    """
    near = grow_box(around, NEAR, mask.shape)
    here = np.zeros([side.stop - side.start for side in near], bool)
    here[tuple(slice(s.start - n.start, s.stop - n.start) for s, n in zip(around, near, strict=True))] = place
    ring = scipy.ndimage.binary_dilation(here, iterations=NEAR) & ~here
    places = [here, ring & mask[near], ring & ~mask[near]]
    found, own, other = (image[(slice(None), *near)][:, part] for part in places)
    if own.shape[1] < ENOUGH:
        return None, False
    level, target = np.median(found, 1), np.median(own, 1)
    alike = bool((np.abs(level - target) <= np.std(own, 1)).all())
    if other.shape[1] < ENOUGH:
        return None, alike
    background = np.median(other, 1)
    contrast = target - background
    spread = np.mean([np.std(contrast @ part) for part in (own, other)])
    if not contrast @ contrast > VISIBLE * spread:
        return None, alike
    return float((level - background) @ contrast / (contrast @ contrast)), alike
