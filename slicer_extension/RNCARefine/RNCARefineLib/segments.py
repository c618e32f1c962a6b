"""Reading a segment onto a volume's grid, and writing back what changed and nothing else.

What is written are the changes: voxels to add and voxels to remove. A segment on a finer grid than the volume, or on a
rotated one, keeps every voxel that the repair did not touch, other segments keep all of theirs, in a shared labelmap
too, and what lies outside of the volume stays.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import labelmaps, nodes
from .boxes import Box, around, on_box, overlap, size, slices, whole
from .errors import RefineError

Mask = NDArray[np.bool_]


def labelmap_of(segmentation: Any, segment: str) -> tuple[Any, int]:
    """(vtkOrientedImageData, value) of a segment; the labelmap may be shared with other segments.

    Raises:
        RefineError: no such segment, or one that is not edited as a labelmap.
    """
    found = segmentation.GetSegmentation().GetSegment(segment) if segmentation is not None else None
    if found is None:
        raise RefineError("There is no segment to refine: choose one.")
    if segmentation.GetSegmentation().GetSourceRepresentationName() != nodes.LABELMAP:
        raise RefineError(
            f"The segment {found.GetName()} is kept as a surface: open it in the Segment Editor, which makes it a"
            " labelmap, and refine it then."
        )
    return found.GetRepresentation(nodes.LABELMAP), int(found.GetLabelValue())


def read_segment(segmentation: Any, segment: str, volume: Any) -> tuple[Mask, Box]:
    """A segment on a volume's grid: (mask, the box of the grid that it fills), cut to what is in the volume.

    Raises:
        RefineError: no such segment, an empty one, or one that lies outside of the volume.
    """
    labelmap, value = labelmap_of(segmentation, segment)
    name = segmentation.GetSegmentation().GetSegment(segment).GetName()
    empty = RefineError(f"The segment {name} is empty: there is nothing that a repair could grow from.")
    if labelmap is None or labelmap.IsEmpty() or not labelmap.GetNumberOfPoints():
        raise empty
    shape = nodes.image_of(volume).shape
    mask, box = _on_grid(labelmap, value, segmentation, volume, shape)
    inside = overlap(box, whole(shape))
    part = None if inside is None else mask[slices(inside, box)]
    tight = None if part is None else around(part)
    if inside is None or part is None or tight is None:
        if not np.any(nodes.voxels_of(labelmap) == value):  # of a labelmap that others fill
            raise empty
        raise RefineError(
            f"The segment {name} has no voxel inside of the source volume: choose the volume it belongs to."
        )
    corner = tuple(start for start, _ in inside)
    return part[slices(tight)].copy(), nodes.moved(tight, corner)


def _on_grid(labelmap: Any, value: int, segmentation: Any, volume: Any, shape: tuple[int, ...]) -> tuple[Mask, Box]:
    shift = _shift(labelmap, segmentation, volume, shape)
    box = nodes.box_of(labelmap)
    if shift is not None:
        return nodes.voxels_of(labelmap) == value, nodes.moved(box, shift)
    everywhere = whole(shape)
    reference = nodes.oriented(np.zeros(shape, np.bool_), everywhere, nodes.ijk_to_ras(volume))
    found = nodes.resampled(labelmap, reference, nodes.transform_between(segmentation, volume))
    return nodes.voxels_of(found) == value, nodes.box_of(found)


def _shift(labelmap: Any, segmentation: Any, volume: Any, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Whole voxels from a labelmap's indices to the volume's; None if their grids are not the same."""
    between = nodes.linear_between(segmentation, volume)
    if between is None:
        return None
    matrix = np.linalg.inv(nodes.ijk_to_ras(volume)) @ between @ nodes.image_to_world(labelmap)
    return nodes.shift_of(matrix, max(max(shape), max(max(map(abs, b)) for b in nodes.box_of(labelmap))))


def write_changes(
    segmentation: Any, segment: str, volume: Any, before: Mask, after: Mask, box: Box, editable: Mask | None = None
) -> int:
    """Make of a segment what a repair made of it; no undo state is saved here.

    Args:
        volume: the volume node on whose grid the masks are.
        before, after: what `box` of that grid held and what it shall hold.
        editable: of the box's shape, where anything may change; None is everywhere.

    Returns:
        Voxels of the volume's grid that were to change and may not.
    """
    change = after ^ before
    wanted = int(np.count_nonzero(change))
    if editable is not None:
        change &= editable
    left = wanted - int(np.count_nonzero(change))
    tight = around(change)
    if tight is None:
        return left
    change, after = change[slices(tight)], after[slices(tight)]
    place = nodes.moved(tight, tuple(start for start, _ in box))
    labelmap, _ = labelmap_of(segmentation, segment)
    shift = _shift(labelmap, segmentation, volume, nodes.image_of(volume).shape)
    added, removed = change & after, change & ~after
    if shift is None or segmentation.GetSegmentation().ContainsRepresentation(nodes.SURFACE):
        _merge(segmentation, segment, volume, added, removed, place)
    else:
        there = nodes.moved(place, tuple(-s for s in shift))
        labelmaps.write(segmentation.GetSegmentation().GetSegment(segment), added, removed, there)
    return left


def _merge(segmentation: Any, segment: str, volume: Any, added: Mask, removed: Mask, place: Box) -> None:
    """By Slicer's own merge: on any grid, and what is shown in 3-D stays shown and follows."""
    import slicer

    logic = slicer.vtkSlicerSegmentationsModuleLogic
    for part, add in ((added, True), (removed, False)):
        modifier = _on_labelmap(segmentation, segment, volume, part, place, outside=not add)
        if modifier is not None:
            mode = logic.MODE_MERGE_MAX if add else logic.MODE_MERGE_MIN
            logic.SetBinaryLabelmapToSegment(modifier, segmentation, segment, mode, modifier.GetExtent())


def _on_labelmap(segmentation: Any, segment: str, volume: Any, change: Mask, box: Box, outside: bool) -> Any:
    """Voxels to change as a vtkOrientedImageData on the segment's own grid; None if there are none.

    Inverted if `outside`: 0 in the voxels, 1 around them, as a minimum wants it.
    """
    tight = around(change)
    if tight is None:
        return None
    part, place = change[slices(tight)], nodes.moved(tight, tuple(start for start, _ in box))
    labelmap, _ = labelmap_of(segmentation, segment)
    matrix = nodes.image_to_world(labelmap)
    shift = _shift(labelmap, segmentation, volume, nodes.image_of(volume).shape)
    if shift is not None:
        place = nodes.moved(place, tuple(-s for s in shift))
    else:
        found = _brought(part, place, volume, segmentation, labelmap)
        part, place = nodes.voxels_of(found) != 0, nodes.box_of(found)
    return nodes.oriented(~part if outside else part, place, matrix)


def _brought(part: Mask, place: Box, volume: Any, segmentation: Any, labelmap: Any) -> Any:
    """Changes on the volume's grid, brought to the labelmap's: nearest neighbour, in an extent that holds them."""
    source = nodes.oriented(part, place, nodes.ijk_to_ras(volume))
    transform = nodes.transform_between(volume, segmentation)
    corners = [(i, j, k, 1.0) for k in _ends(place[0]) for j in _ends(place[1]) for i in _ends(place[2])]
    to_index = np.linalg.inv(nodes.image_to_world(labelmap))
    found = []
    for corner in corners:
        point = transform.TransformPoint((nodes.ijk_to_ras(volume) @ np.array(corner))[:3])
        found.append((to_index @ np.array([*point, 1.0]))[:3])
    low, high = np.floor(np.min(found, 0)).astype(int) - 2, np.ceil(np.max(found, 0)).astype(int) + 3
    target = tuple((int(a), int(b)) for a, b in zip(low[::-1], high[::-1], strict=True))
    reference = nodes.oriented(np.zeros(size(target), np.bool_), target, nodes.image_to_world(labelmap))
    return nodes.resampled(source, reference, transform)


def _ends(pair: tuple[int, int]) -> tuple[float, float]:
    return pair[0] - 0.5, pair[1] - 0.5


def read_box(segmentation: Any, segment: str, volume: Any, box: Box) -> Mask:
    """What a segment has in a box of a volume's grid; nothing, if it is empty or lies elsewhere."""
    try:
        return on_box(*read_segment(segmentation, segment, volume), box)
    except RefineError:
        return np.zeros(size(box), np.bool_)
