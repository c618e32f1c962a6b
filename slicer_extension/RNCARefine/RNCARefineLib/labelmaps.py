"""Changing voxels of one segment in its labelmap, which other segments may share; on the labelmap's own grid.

Slicer's merge (SetBinaryLabelmapToSegment) goes over whole labelmaps several times where segments touch, a quarter of a
second for a large volume, in which the window stands still. What has to be done is less: write where that disturbs
nobody, make the labelmap larger where the change leaves it, and give the segment a labelmap of its own, as Slicer
does, where it gets voxels that another segment has.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import nodes
from .boxes import Box, around, on_box, overlap, slices, union

Mask = NDArray[np.bool_]


def write(segment: Any, added: Mask, removed: Mask, place: Box) -> None:
    """Add and remove voxels of a segment; every other segment keeps all of its own.

    Args:
        segment: the vtkSegment; it has a binary labelmap. A closed surface that it has besides is given up.
        added, removed: bool, of the shape of `place`, a box in the indices of the labelmap.
    """
    labelmap, value = segment.GetRepresentation(nodes.LABELMAP), int(segment.GetLabelValue())
    found = around(added)
    if found is not None:
        grown = nodes.moved(found, tuple(start for start, _ in place))
        if _taken(labelmap, value, added[slices(found)], grown):
            labelmap, value = _part_from_others(segment, labelmap, value, grown), 1
        else:
            _extend(labelmap, grown)
    extent = nodes.box_of(labelmap)
    common = overlap(place, extent)
    if common is None:
        return
    voxels, part = nodes.voxels_of(labelmap)[slices(common, extent)], slices(common, place)
    voxels[removed[part] & (voxels == value)] = 0
    voxels[added[part]] = value
    _changed(labelmap)


def _taken(labelmap: Any, value: int, added: Mask, place: Box) -> bool:
    """Whether the labelmap has another segment's value where voxels are to be added."""
    extent = nodes.box_of(labelmap)
    common = overlap(place, extent)
    if common is None:
        return False
    there = nodes.voxels_of(labelmap)[slices(common, extent)]
    return bool(np.any(added[slices(common, place)] & (there != 0) & (there != value)))


def _part_from_others(segment: Any, labelmap: Any, value: int, place: Box) -> Any:
    """Move a segment out of a shared labelmap into one of its own, which has room for `place`; the new one."""
    voxels, extent = nodes.voxels_of(labelmap), nodes.box_of(labelmap)
    mine = voxels == value
    tight = around(mine)
    where = None if tight is None else nodes.moved(tight, tuple(start for start, _ in extent))
    own = _like(labelmap, place if where is None else union(where, place))
    if tight is not None and where is not None:
        nodes.voxels_of(own)[...] = on_box(mine[slices(tight)], where, nodes.box_of(own))
        voxels[slices(tight)][mine[slices(tight)]] = 0
    segment.AddRepresentation(nodes.LABELMAP, own)
    segment.SetLabelValue(1)
    _changed(labelmap)
    return own


def _extend(labelmap: Any, place: Box) -> None:
    """Make a labelmap large enough for `place`, for all segments that share it."""
    extent = nodes.box_of(labelmap)
    wanted = union(extent, place)
    if wanted != extent:
        larger = _like(labelmap, wanted)
        nodes.voxels_of(larger)[slices(extent, wanted)] = nodes.voxels_of(labelmap)
        labelmap.ShallowCopy(larger)


def _like(labelmap: Any, extent: Box) -> Any:
    """An empty labelmap on the same grid and of the same type."""
    import slicer

    found = slicer.vtkOrientedImageData()
    found.SetSpacing(labelmap.GetSpacing())
    found.SetOrigin(labelmap.GetOrigin())
    found.CopyDirections(labelmap)
    (k0, k1), (j0, j1), (i0, i1) = extent
    found.SetExtent(i0, i1 - 1, j0, j1 - 1, k0, k1 - 1)
    found.AllocateScalars(labelmap.GetScalarType(), 1)
    nodes.voxels_of(found)[...] = 0
    return found


def _changed(labelmap: Any) -> None:
    labelmap.GetPointData().GetScalars().Modified()
    labelmap.Modified()
