"""Between MRML nodes and numpy: volumes, oriented labelmaps and the transforms between them.

Arrays are (k, j, i); matrices are 4×4 and take (i, j, k) to millimetres. All of it runs in the main thread.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .boxes import Box, size
from .errors import RefineError
from .request import Image

LABELMAP = "Binary labelmap"
SURFACE = "Closed surface"


def array_of(matrix: Any) -> NDArray[np.float64]:
    """A vtkMatrix4x4 as an array."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def matrix_of(values: NDArray[np.float64]) -> Any:
    """An array as a vtkMatrix4x4."""
    import vtk

    found = vtk.vtkMatrix4x4()
    for row in range(4):
        for column in range(4):
            found.SetElement(row, column, float(values[row, column]))
    return found


def voxels_of(data: Any) -> NDArray[Any]:
    """A view of the voxels of a vtkImageData: (k, j, i), or (k, j, i, components)."""
    from vtk.util.numpy_support import vtk_to_numpy

    i, j, k = data.GetDimensions()
    found = vtk_to_numpy(data.GetPointData().GetScalars())
    shape = (k, j, i) if found.ndim == 1 else (k, j, i, found.shape[1])
    view: NDArray[Any] = found.reshape(shape)
    return view


def ijk_to_ras(volume: Any) -> NDArray[np.float64]:
    """Of a volume node, without its parent transforms."""
    import vtk

    found = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(found)
    return array_of(found)


def image_of(volume: Any) -> Image:
    """A volume node as an `Image`; its voxels are a view.

    Raises:
        RefineError: no volume, or one without voxels.
    """
    data = volume.GetImageData() if volume is not None else None
    if data is None or not data.GetNumberOfPoints():
        raise RefineError("There is no image: choose a source volume that is loaded.")
    scene = volume.GetScene()
    key = f"{id(scene)} {volume.GetID()} {data.GetMTime()} {data.GetPointData().GetScalars().GetMTime()}"
    return Image(voxels_of(data), ijk_to_ras(volume), key, volume.GetName() or "image")


def oriented(mask: NDArray[np.bool_], box: Box, image_to_world: NDArray[np.float64]) -> Any:
    """A new vtkOrientedImageData (uint8, 0 and 1) of a mask that fills `box` of a grid."""
    import slicer
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    found = slicer.vtkOrientedImageData()
    found.SetImageToWorldMatrix(matrix_of(image_to_world))
    (k0, k1), (j0, j1), (i0, i1) = box
    found.SetExtent(i0, i1 - 1, j0, j1 - 1, k0, k1 - 1)
    assert mask.shape == size(box)
    scalars = numpy_to_vtk(np.ascontiguousarray(mask, np.uint8).ravel(), deep=True, array_type=vtk.VTK_UNSIGNED_CHAR)
    found.GetPointData().SetScalars(scalars)
    return found


def box_of(data: Any) -> Box:
    """The extent of a vtkImageData as a box."""
    i0, i1, j0, j1, k0, k1 = data.GetExtent()
    return (k0, k1 + 1), (j0, j1 + 1), (i0, i1 + 1)


def image_to_world(data: Any) -> NDArray[np.float64]:
    """Of a vtkOrientedImageData: indices of its extent to its node's own RAS."""
    import vtk

    found = vtk.vtkMatrix4x4()
    data.GetImageToWorldMatrix(found)
    return array_of(found)


def transform_between(source: Any, target: Any) -> Any:
    """vtkGeneralTransform from one transformable node's own coordinates to another's, whatever their parents are."""
    import slicer
    import vtk

    found = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
        source.GetParentTransformNode(), target.GetParentTransformNode(), found
    )
    return found


def linear_between(source: Any, target: Any) -> NDArray[np.float64] | None:
    """`transform_between` as a matrix; None if it is not linear."""
    import slicer
    import vtk

    first, second = source.GetParentTransformNode(), target.GetParentTransformNode()
    if first is second:
        return np.eye(4)
    if any(node is not None and not node.IsTransformToWorldLinear() for node in (first, second)):
        return None
    found = vtk.vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(first, second, found)
    return array_of(found)


def shift_of(matrix: NDArray[np.float64], extent: int) -> tuple[int, ...] | None:
    """The whole-voxel shift (k, j, i) that an index-to-index matrix is; None if it is anything else.

    `extent` is the largest index: a rotation so small that no voxel of it moves by a hundredth is none.
    """
    offset = np.rint(matrix[:3, 3])
    off = np.abs(matrix[:3, :3] - np.eye(3)).max() * max(extent, 1)
    if off > 0.01 or np.abs(matrix[:3, 3] - offset).max() > 0.01:
        return None
    return tuple(int(n) for n in offset[::-1])


def moved(box: Box, shift: tuple[int, ...]) -> Box:
    """A box some voxels further."""
    return tuple((start + s, stop + s) for (start, stop), s in zip(box, shift, strict=True))


def resampled(data: Any, reference: Any, transform: Any) -> Any:
    """A labelmap (vtkOrientedImageData) on another one's grid and extent, nearest neighbour, moved by a transform."""
    import slicer

    found = slicer.vtkOrientedImageData()
    done = slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
        data, reference, found, False, False, transform
    )
    if not done:
        raise RefineError("The segment could not be brought to the image's grid: check its transforms.")
    return found
