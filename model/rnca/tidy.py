"""The last touch of a repair: noise of the rule is undone, what it left half done is done, growth into background and
into what lies beside an object is undone, a right outline is left alone, what almost touches is joined, and one object
stays one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import scipy  # loads its parts on first use
from numpy.typing import NDArray

from .changes import Labels, Mask, each_change, each_slice
from .errors import InputError
from .geometry import Box, bounding_box, grow_box
from .joins import join_pieces
from .looks import NEAR, fill_bays, without_background
from .mending import effect, holes, mends, numbered, pieces_around
from .shape import is_compact
from .topology import betti_numbers, label_foreground

LOST = 0.1
"""A remnant lost at least this share of what is left of it: a border voxel fewer takes no piece away."""

LEFT = 0.25
"""An object of which less than this share is left was not repaired but lost."""

BULGE = 0.25
"""Growth by more than this share of a mask is no bulge: so much was missing."""

CRUMBS = 4
"""Holes and loose pieces, at most, that a right volume may hold, and voxels of such a piece: more are noise."""


@dataclass(frozen=True)
class Tidying:
    """What is done to a mask after the last step, as a model's metadata say.

    Attributes:
        speck_size: voxels up to which specks are undone and remnants completed (`without_specks`).
        nibble_size: voxels up to which nibbles are undone.
        bite_size: voxels up to which nibbles that take something away are undone in the end (`without_bites`).
        look_size: voxels from which on what is added must look like the mask (`without_background`). 0: never.
        bulge_ratio: of the outline that a change takes away to the one that it makes; below it, what mends nothing is
            undone (`without_bulges`). 0: never.
        object_betti: Betti numbers of the one object that a mask holds, each slice of a stack that is repaired slice by
            slice (`one_object`); None if nothing like that is known.
        keep_holes: whether holes, tunnels and cavities are the objects' own: filling a small one mends nothing, and
            closing a loop does not either.
        tolerance: share of the voxels within which a mask's outline counts as right (`keep_outline`).
        gap_size: voxels between pieces up to which they are joined, if there was something to repair (`join_pieces`).
        bay_width: voxels up to which bays that were left half filled are filled (`fill_bays`). 0: never.
    """

    speck_size: int = 0
    nibble_size: int = 0
    object_betti: list[int] | None = None
    keep_holes: bool = False
    tolerance: float = 0.0
    gap_size: int = 0
    bite_size: int = 0
    bulge_ratio: float = 0.0
    look_size: int = 0
    bay_width: int = 0

    @property
    def reach(self) -> int:
        """Voxels from a change within which its surroundings decide about it, in a region: what only whole masks are
        asked for and an object's numbers are left out."""
        return 2 * (max(self.largest, self.bite_size, self.bay_width) + 1)

    @property
    def sight(self) -> int:
        """Voxels around the mask, beyond what a repair can reach, that grey values are looked at."""
        return NEAR if self.look_size or self.bay_width else 0

    @property
    def largest(self) -> int:
        """Voxels of the largest speck or nibble."""
        return max(self.speck_size, self.nibble_size)

    def for_shape(self, mask: Mask, axis: int | None = None) -> "Tidying":
        """These rules for a mask (*S), as `tidy` has them: in a volume that is not compact holes are the objects' own,
        and there are no bulges."""
        if self and not self.keep_holes and mask.ndim == 3 and axis is None and mask.any() and not is_compact(mask):
            return replace(self, keep_holes=True, bulge_ratio=0.0)
        return self

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return self != Tidying(keep_holes=self.keep_holes)


NOTHING = Tidying()


def object_betti(text: str) -> list[int] | None:
    """The numbers of an object as typed, "1,1"; "none" is none.

    Raises:
        InputError: it is neither two nor three numbers.
    """
    if text == "none":
        return None
    numbers = text.split(",")
    if len(numbers) not in (2, 3) or not all(number.strip().isdecimal() for number in numbers):
        raise InputError(f"Betti numbers are given as '1,1' (2-D), '1,0,0' (3-D) or 'none', not as {text!r}.")
    return [int(number) for number in numbers]


def tidy(before: Mask, after: Mask, rules: Tidying, axis: int | None = None, image: NDArray[Any] | None = None) -> Mask:
    """The mask after a repair, tidied.

    In turn `without_specks`, `without_background`, `without_bulges`, `keep_outline`, `fill_bays`, `join_pieces`,
    `without_bites`, `one_object`. A volume that is not compact is a tree or a wall: there holes are kept, and bulges,
    as the ends of branches would be, are not looked for.

    Args:
        before, after: (*S) bool, 2-D or 3-D.
        axis: of a volume that was repaired slice by slice, the axis from slice to slice.
        image: (C, *S), any numbers; needed where the rules have a `look_size` or a `bay_width`.

    Returns:
        (*S) bool; `after` itself if there is nothing to do.
    """
    rules = rules.for_shape(after, axis)
    out = without_specks(before, after, rules, axis)
    if rules.look_size:
        assert image is not None, "growth is judged by the image"
        out = without_background(before, out, image, rules.look_size, axis)
    if rules.bulge_ratio:
        out = without_bulges(before, out, rules.bulge_ratio, axis)
    if rules.tolerance:
        out = keep_outline(before, out, rules.tolerance, axis, rules.keep_holes)
    if rules.bay_width:
        assert image is not None, "bays are judged by the image"
        out = fill_bays(before, out, image, rules.bay_width, axis)
    if rules.gap_size:
        out = join_pieces(before, out, rules.gap_size, rules.tolerance, axis)
    if rules.bite_size:
        out = without_bites(before, out, rules.bite_size, axis)
    return one_object(before, out, rules.object_betti, axis) if rules.object_betti else out


def one_object(before: Mask, after: Mask, betti: Sequence[int], axis: int | None = None) -> Mask:
    """The mask after a repair of one object whose Betti numbers are known.

    Where the largest piece alone has these numbers, and holds half of the mask before or more, the object is whole, and
    other pieces are no part of it: they go. Where less than a quarter of the voxels is left, the object was lost, and
    the mask is as it was before.

    Args:
        before, after: (*S) bool, 2-D or 3-D.
        betti: (b0, b1) or (b0, b1, b2) of the object.
        axis: as for `tidy`; each slice holds one object or none.

    Returns:
        (*S) bool, a new array.
    """
    if axis is not None:
        return each_slice(partial(one_object, betti=betti), axis, before, after)
    pieces, count = label_foreground(after)
    largest = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax() if count else after
    mostly = 2 * np.count_nonzero(largest & before) >= np.count_nonzero(before)
    out = largest if mostly and betti_numbers(largest) == tuple(betti) else after
    lost = np.count_nonzero(out) < LEFT * np.count_nonzero(before)
    return (before if lost else out).copy()


def without_bulges(before: Mask, after: Mask, ratio: float, axis: int | None = None) -> Mask:
    """The mask after a repair of compact objects, less its bulges and dents.

    A chunk that was missing makes the outline shorter when it is filled: it touches the mask along more than it shows
    to the background. Growth into a neighbour as bright as the object makes it longer. So does a dent, removed from the
    inside. Undone is each change in one piece, of up to a quarter of the mask (`BULGE`), that takes less than `ratio`
    of the outline away that it makes, unless it mends something: joins pieces that hang together nowhere, takes a whole
    one away, fills a hole or tunnel, or, in 2-D, closes a ring (`RING`).

    Args:
        before, after: (*S) bool, 2-D or 3-D.
        ratio: of the lengths (areas) of the outlines, counted in faces between voxels; 1 undoes all that makes an
            outline longer.
        axis: as for `tidy`; each slice is looked at alone.

    Returns:
        (*S) bool; `after` itself if all is kept.
    """
    if axis is not None:
        return each_slice(partial(without_bulges, ratio=ratio), axis, before, after)
    longer = [
        (around, piece)
        for around, piece, _ in each_change(before, after, BULGE * np.count_nonzero(before))
        if _lengthens(before[around], piece, ratio)
    ]
    if not longer:
        return after
    out, pieces = after.copy(), numbered(before)  # the whole mask is numbered only where it must be
    for around, piece in longer:
        if not mends(before, piece, around, pieces):
            out[around][piece] = before[around][piece]
    return out


def _lengthens(before: Mask, change: Mask, ratio: float) -> bool:
    """Whether a change takes less than a ratio of the outline away that it makes; both in the box around it."""
    removed = before[change].any()
    alike, other = (before, ~before) if removed else (~before, before)
    return _shared(change, other) < ratio * _shared(change, alike & ~change)


def _shared(one: Mask, other: Mask) -> int:
    """The faces between the voxels of two masks."""
    count = 0
    for axis in range(one.ndim):
        a, b = np.moveaxis(one, axis, 0), np.moveaxis(other, axis, 0)
        count += np.count_nonzero(a[1:] & b[:-1]) + np.count_nonzero(a[:-1] & b[1:])
    return count


def keep_outline(
    before: Mask, after: Mask, tolerance: float, axis: int | None = None, keep_holes: bool = False
) -> Mask:
    """The mask after a repair, with the outline before where that was hardly touched.

    A mask that needs no repair is moved a little all the same, as two readers differ. If no change in one piece has
    more than a share of the mask's voxels, and all that mend nothing (see `without_specks`) have no more together,
    those that mend nothing are undone. In a volume, where all that the others mend is a few holes of a voxel
    and loose pieces of a few (`CRUMBS`), so are they: right masks have such.

    Args:
        before, after: (*S) bool, 2-D or 3-D.
        tolerance: the share, 0 to 1, of the voxels before.
        axis: as for `tidy`; each slice is looked at alone.
        keep_holes: as for `without_specks`.

    Returns:
        (*S) bool; `after` itself if all is kept.
    """
    if axis is not None:
        rule = partial(keep_outline, tolerance=tolerance, keep_holes=keep_holes)
        return each_slice(rule, axis, before, after)
    changes = bounding_box(before ^ after)
    if changes is None:
        return after
    box, most, total = grow_box(changes, 1, before.shape), tolerance * np.count_nonzero(before), 0
    out, pieces = after.copy(), pieces_around(before, box, keep_holes)
    old, new, mended = before[box], out[box], []
    for around, piece, voxels in each_change(old, after[box]):
        if voxels <= most and mends(old, piece, around, pieces, keep_holes):
            mended.append((around, piece, voxels))
            continue
        total += voxels
        if total > most:
            return after
        new[around][piece] = old[around][piece]
    if before.ndim == 3 and len(mended) <= CRUMBS and all(_is_crumb(old, *change, pieces) for change in mended):
        for around, piece, _ in mended:
            new[around][piece] = old[around][piece]
    return out


def _is_crumb(before: Mask, around: Box, change: Mask, voxels: int, pieces: Labels | None) -> bool:
    """Whether a change that mends, (*around), takes a few voxels away, or fills a hole of one and joins nothing."""
    if before[around][change].any():
        return voxels <= CRUMBS
    return voxels == 1 and not mends(before, change, around, pieces, keep_holes=True)


def without_bites(before: Mask, after: Mask, size: int, axis: int | None = None) -> Mask:
    """The mask after a repair, less the small bites that it took out of the border.

    A bite is a nibble (see `without_specks`) of voxels that were removed. This comes after all else that looks at what
    was removed: of an island on its way out the bites are the beginning.

    Args:
        before, after: (*S) bool, 2-D or 3-D.
        size: voxels of a bite, at most.
        axis: as for `tidy`; each slice is looked at alone.

    Returns:
        (*S) bool, a new array.
    """
    if axis is not None:
        return each_slice(partial(without_bites, size=size), axis, before, after)
    out = after.copy()
    for around, piece, _ in each_change(before, before & after, size):
        if effect(before, piece, around) == "none":
            out[around][piece] = True
    return out


def without_specks(before: Mask, after: Mask, rules: Tidying, axis: int | None = None) -> Mask:
    """The mask after a repair, less its specks, nibbles and remnants.

    Looked at is each change in one piece (pixels that were added, or that were removed; 8- or 26-connected), as if it
    were made alone, and the Betti numbers of the mask within a voxel around it. If one falls, it mends something: it
    joins pieces, takes a whole one away, or fills a hole or a tunnel. If none falls and one rises, it is a speck: a dot
    beside the mask, a pinhole in it, a cut. If all stay, it is a nibble at the border. Each kind is undone up to its
    size; with `keep_holes` only joining pieces that hang together nowhere and taking one away mends: filling a hole or
    a tunnel is a speck, and so is closing a loop.

    Then remnants, of a speck's size: a piece that voxels were taken from, and a hole or cavity (background, 4- or
    6-connected, that does not reach the border of the array) that voxels were added to, if those are a tenth of it or
    more. They are what is left of something on its way out, or a chip of something larger: the piece goes, the hole is
    filled. A mask that would be empty then stays as it came: there was nothing larger.

    Args:
        before, after: (*S) bool, 2-D or 3-D.
        rules: the sizes, and `keep_holes`; the others are not looked at.
        axis: of a volume that was repaired slice by slice, the axis from slice to slice; each is looked at alone, and
            no piece is a remnant, as it may be a section of a larger one.

    Returns:
        (*S) bool; `after` itself if nothing changed or all is kept.
    """
    changes = bounding_box(before ^ after) if rules.largest else None
    if changes is None:
        return after
    box = grow_box(changes, rules.largest + 1, before.shape)  # so far a remnant that touches a change can reach
    out = after.copy()
    old, new, pieces = before[box], out[box], pieces_around(before, box, rules.keep_holes, axis)
    if axis is None:
        _touch_up(old, new, rules, pieces, whole=True)
    else:
        for number in range(old.shape[axis]):
            old_slice, new_slice = (np.moveaxis(part, axis, 0)[number] for part in (old, new))
            numbers = None if pieces is None else np.moveaxis(pieces, axis, 0)[number]
            _touch_up(old_slice, new_slice, rules, numbers, whole=False)
    return out if out.any() else after


def _touch_up(before: Mask, after: Mask, rules: Tidying, pieces: Labels | None, *, whole: bool) -> None:
    """Do it in `after`; not `whole`: what looks small may be a section of something large; `pieces`: see `mends`."""
    _undo(before, after, rules, pieces)
    size, taken = rules.speck_size, before & ~after
    if whole and size and taken.any():
        _complete(label_foreground(after)[0], taken, np.ones((3,) * after.ndim), size, after)
    added = after & ~before
    if size and added.any():
        _complete(holes(after), added, None, size, after)


def _undo(before: Mask, after: Mask, rules: Tidying, pieces: Labels | None) -> None:
    """Write the values before over specks and nibbles in `after`."""
    for around, piece, voxels in each_change(before, after, rules.largest):
        sizes = {"mends": 0, "breaks": rules.speck_size, "none": rules.nibble_size}
        if voxels <= sizes[effect(before, piece, around, pieces, rules.keep_holes)]:
            after[around][piece] = before[around][piece]


def _complete(regions: Labels, changed: Mask, neighbours: NDArray[np.float64] | None, size: int, mask: Mask) -> None:
    """Flip in `mask` those of the numbered regions of up to `size` voxels that lost enough of themselves."""
    voxels = np.bincount(regions.ravel())
    boxes = scipy.ndimage.find_objects(regions)
    for number in np.flatnonzero((voxels[1:] > 0) & (voxels[1:] <= size)) + 1:
        around = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in boxes[number - 1])
        region = regions[around] == number
        lost = np.count_nonzero(scipy.ndimage.binary_dilation(region, neighbours) & changed[around])
        if lost and lost >= LOST * voxels[number]:
            mask[around] ^= region
