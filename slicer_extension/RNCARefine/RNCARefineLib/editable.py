"""Where the Segment Editor's masking lets a user change a segment: editable area and intensity range."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import nodes
from .boxes import Box, size, slices
from .segments import read_box

Mask = NDArray[np.bool_]


def editable_area(settings: Any, segmentation: Any, segment: str, volume: Any, box: Box) -> Mask | None:
    """The voxels of a box of the volume's grid that may change; None for all of them.

    Args:
        settings: a vtkMRMLSegmentEditorNode, whose mask mode, mask segment and intensity range count, as in Slicer's
            own effects. None: there is no limit.
        segment: the one that is edited; "outside all segments" does not mean itself.
    """
    if settings is None:
        return None
    found = _inside_segments(settings, segmentation, segment, volume, box)
    if settings.GetSourceVolumeIntensityMask():
        low, high = settings.GetSourceVolumeIntensityMaskRange()
        voxels = nodes.image_of(volume).voxels[slices(box)]
        if voxels.ndim == 3:  # a colour image has no intensity
            within = (voxels >= low) & (voxels <= high)
            found = within if found is None else found & within
    return found


def _inside_segments(settings: Any, segmentation: Any, segment: str, volume: Any, box: Box) -> Mask | None:
    import slicer

    modes = slicer.vtkMRMLSegmentationNode
    mode = settings.GetMaskMode()
    inside = segmentation.GetSegmentation()
    everything = [inside.GetNthSegmentID(n) for n in range(inside.GetNumberOfSegments())]
    display = segmentation.GetDisplayNode()
    visible = [s for s in everything if display is None or display.GetSegmentVisibility(s)]
    if mode == modes.EditAllowedInsideAllSegments:
        return _union(segmentation, everything, volume, box)
    if mode == modes.EditAllowedInsideVisibleSegments:
        return _union(segmentation, visible, volume, box)
    if mode == modes.EditAllowedInsideSingleSegment and settings.GetMaskSegmentID():
        return _union(segmentation, [settings.GetMaskSegmentID()], volume, box)
    if mode == modes.EditAllowedOutsideAllSegments:
        return ~_union(segmentation, [s for s in everything if s != segment], volume, box)
    if mode == modes.EditAllowedOutsideVisibleSegments:
        return ~_union(segmentation, [s for s in visible if s != segment], volume, box)
    return None


def _union(segmentation: Any, segments: list[str], volume: Any, box: Box) -> Mask:
    found = np.zeros(size(box), np.bool_)
    for segment in segments:
        found |= read_box(segmentation, segment, volume, box)
    return found
