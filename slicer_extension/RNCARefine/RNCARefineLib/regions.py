"""Where a refinement may change anything: a box on the volume's grid, from a ROI node or around the cursor."""

from typing import Any

import numpy as np

from . import nodes
from .boxes import Box, overlap, whole
from .errors import RefineError


def of_roi(roi: Any, volume: Any) -> Box:
    """The smallest box of the volume's grid that holds a Markups ROI, which may be rotated and transformed.

    Raises:
        RefineError: no ROI, or none of the volume in it.
    """
    import vtk

    if roi is None:
        raise RefineError("There is no region: choose or draw a ROI, or refine everywhere.")
    half = np.array(roi.GetSize()) / 2
    to_local = vtk.vtkMatrix4x4()
    to_local.DeepCopy(roi.GetObjectToNodeMatrix())
    matrix = nodes.array_of(to_local)
    transform = nodes.transform_between(roi, volume)
    corners = [transform.TransformPoint((matrix @ [*(half * s), 1.0])[:3]) for s in _signs()]
    return _holding(corners, volume, "The region")


def around_point(ras: tuple[float, float, float], volume: Any, edge: float) -> Box:
    """A cube of `edge` mm around a point in world RAS, as a box of the volume's grid."""
    import slicer
    import vtk

    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, volume.GetParentTransformNode(), transform)
    corners = [transform.TransformPoint([p + d for p, d in zip(ras, s * edge / 2, strict=True)]) for s in _signs()]
    return _holding(corners, volume, "The cursor's surroundings")


def _signs() -> list[Any]:
    return [np.array([a, b, c], float) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]


def _holding(corners: list[Any], volume: Any, what: str) -> Box:
    """The voxels whose centres lie within the corners' bounds on the grid."""
    to_index = np.linalg.inv(nodes.ijk_to_ras(volume))
    found = np.array([(to_index @ [*corner, 1.0])[:3] for corner in corners])
    low, high = np.ceil(found.min(0) - 1e-6).astype(int), np.floor(found.max(0) + 1e-6).astype(int) + 1
    box = tuple((int(a), int(b)) for a, b in zip(low[::-1], high[::-1], strict=True))
    inside = overlap(box, whole(nodes.image_of(volume).shape))
    if inside is None:
        raise RefineError(f"{what} lies outside of the source volume: move it.")
    return inside
