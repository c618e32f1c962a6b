"""MRML scenes for tests of the Slicer extension: real classes of slicer-core, small volumes and segmentations."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

slicer = pytest.importorskip("slicer", reason="needs slicer-core: install the extra `view`", exc_type=ImportError)
vtk = pytest.importorskip("vtk", reason="needs vtk: install the extra `view`", exc_type=ImportError)

from RNCARefineLib import nodes  # noqa: E402
from RNCARefineLib.boxes import whole  # noqa: E402
from RNCARefineLib.segments import read_box  # noqa: E402

Matrix = NDArray[np.float64]
PLAIN = np.diag([-1.0, -1.0, 1.0, 1.0])
"""IJK to RAS of a volume with 1 mm voxels, as ITK's identity is seen in RAS."""


def new_scene() -> Any:
    """An empty scene with the logic that segmentations need."""
    scene = slicer.vtkMRMLScene()
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(scene)
    scene.segmentations = logic  # keeps it alive
    return scene


def rotation(x: float, y: float, z: float) -> Matrix:
    """4×4, degrees about the axes."""
    found = vtk.vtkTransform()
    found.RotateX(x)
    found.RotateY(y)
    found.RotateZ(z)
    return nodes.array_of(found.GetMatrix())


def add_volume(scene: Any, voxels: NDArray[Any], ijk_to_ras: Matrix = PLAIN, name: str = "image") -> Any:
    """A scalar volume node."""
    from vtk.util.numpy_support import numpy_to_vtk

    data = vtk.vtkImageData()
    data.SetDimensions(*voxels.shape[::-1])
    data.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(voxels).ravel(), deep=True))
    volume = slicer.vtkMRMLScalarVolumeNode()
    volume.SetName(name)
    volume.SetIJKToRASMatrix(nodes.matrix_of(ijk_to_ras))
    volume.SetAndObserveImageData(data)
    scene.AddNode(volume)
    return volume


def add_segmentation(
    scene: Any, volume: Any, masks: Sequence[NDArray[np.bool_]], shared: bool = False
) -> tuple[Any, list[str]]:
    """A segmentation node with a segment a mask, on the volume's grid; `shared` puts them into one labelmap."""
    node = slicer.vtkMRMLSegmentationNode()
    scene.AddNode(node)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.CreateDefaultDisplayNodes()
    ids = []
    for number, mask in enumerate(masks):
        ids.append(node.GetSegmentation().AddEmptySegment(f"s{number}", f"segment {number}"))
        labelmap = nodes.oriented(mask, whole(mask.shape), nodes.ijk_to_ras(volume))
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        logic.SetBinaryLabelmapToSegment(labelmap, node, ids[-1], logic.MODE_REPLACE)
    if shared:
        node.GetSegmentation().CollapseBinaryLabelmaps(True)
        assert node.GetSegmentation().GetNumberOfLayers() == 1
    return node, ids


def put_under(scene: Any, matrix: Matrix, *children: Any) -> Any:
    """A linear transform node above the given nodes."""
    node = slicer.vtkMRMLLinearTransformNode()
    scene.AddNode(node)
    node.SetMatrixTransformToParent(nodes.matrix_of(matrix))
    for child in children:
        child.SetAndObserveTransformNodeID(node.GetID())
    return node


def mask_of(segmentation: Any, segment: str, volume: Any) -> NDArray[np.bool_]:
    """A segment on the volume's whole grid."""
    return read_box(segmentation, segment, volume, whole(nodes.image_of(volume).shape))


def tick_until(tick: Callable[[], None], done: Callable[[], bool], seconds: float = 60) -> None:
    """Call `tick` as a timer would until `done()`."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it does not end"
        tick()
        time.sleep(0.005)
