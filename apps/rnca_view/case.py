"""One image and its mask: from files into the scene, and the mask back into a file.

Files are read and written by the package `rnca`, so that what can be opened, what is refused and in which words is the
same as on the command line.
"""

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from rnca.errors import InputError
from rnca.files import WRITABLE, read_image, read_mask, stem_of, suffix_of, write_image
from rnca.geometry import Grid, check_same_grid
from rnca.labels import check_mask, present_labels
from RNCARefineLib import nodes
from RNCARefineLib.boxes import around, slices
from RNCARefineLib.errors import RefineError
from RNCARefineLib.segments import read_segment

COLOURS = (
    (0.30, 0.62, 1.00),
    (0.98, 0.74, 0.25),
    (0.80, 0.52, 0.98),
    (0.25, 0.80, 0.85),
    (0.98, 0.55, 0.70),
    (0.72, 0.78, 0.86),
)
"""Of segments, in turn: none of them is the green and red in which changes are shown."""

MOST_LABELS = 64


@dataclass
class Case:
    """What is open.

    Attributes:
        image, mask: as read; `mask` is None until one is opened.
        volume, segmentation: their nodes; `values` is the value in the mask's file of each segment id.
        name: of the case; `mask_name` is that of the mask's file.
    """

    name: str
    image: sitk.Image
    volume: Any
    mask: sitk.Image | None = None
    mask_name: str = ""
    segmentation: Any = None
    values: dict[str, float] = field(default_factory=dict)

    @property
    def flat(self) -> bool:
        """Whether it is a picture, or a volume of one slice."""
        return min(self.volume.GetImageData().GetDimensions()) == 1

    @property
    def size(self) -> str:
        """As a person reads it: '96 × 96 × 16', and the spacing where it is known."""
        text = " × ".join(str(n) for n in self.image.GetSize())
        spacing = self.image.GetSpacing()
        return text if set(spacing) == {1.0} else f"{text}, {' × '.join(f'{s:.3g}' for s in spacing)} mm"

    def repaired(self) -> sitk.Image:
        """The mask as the segments are now, with the grid, type and values of the one that was opened."""
        assert self.mask is not None
        given = sitk.GetArrayViewFromImage(self.mask)
        found = np.zeros(nodes.image_of(self.volume).shape, given.dtype)
        for segment, value in self.values.items():
            try:
                mask, box = read_segment(self.segmentation, segment, self.volume)
            except RefineError:  # nothing of it is left
                continue
            found[slices(box)][mask] = value
        wrapped = Grid.of(self.mask).wrap(found.reshape(given.shape))
        assert isinstance(wrapped, sitk.Image)
        return wrapped

    @property
    def save_name(self) -> str:
        """The name of a file to save the mask in, in the format of the one that was opened."""
        if self.mask is None:
            return ""
        suffix = suffix_of(self.mask_name)
        return f"{stem_of(self.mask_name)}-repaired{suffix if suffix in WRITABLE else '.nii.gz'}"

    def saved(self) -> bytes:
        """The content of that file."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / self.save_name
            write_image(self.repaired(), path)
            return path.read_bytes()


def open_image(scene: Any, path: Path) -> Case:
    """Read an image into the scene.

    Raises:
        InputError: it cannot be read.
    """
    image = read_image(path)
    name = stem_of(path) if path.is_file() else path.name
    return Case(name, image, _volume(scene, image, name))


def open_mask(scene: Any, case: Case, path: Path) -> None:
    """Read a mask onto the case's image: each of its values becomes a segment; one that was there is replaced.

    Raises:
        InputError: it cannot be read, is on another grid, or is no label map; the case is as it was.
    """
    mask = read_mask(path)
    check_same_grid(case.image, mask)
    array = sitk.GetArrayViewFromImage(mask)
    check_mask(array)
    present = present_labels(array)
    if not present:
        raise InputError(
            f"{path.name} is empty: a repair grows from what is there, so open a mask that holds something"
        )
    if len(present) > MOST_LABELS:
        raise InputError(
            f"{path.name} holds {len(present)} values, as a network's probabilities do: save it as a label map, or use"
            " rnca refine --soft"
        )
    close_mask(scene, case)
    case.mask, case.mask_name = mask, path.name
    case.segmentation, case.values = _segmentation(scene, case, array, present)


def close_mask(scene: Any, case: Case) -> None:
    """Take the case's mask out of the scene."""
    if case.segmentation is not None:
        _remove(scene, case.segmentation)
    case.mask, case.mask_name, case.segmentation, case.values = None, "", None, {}


def close(scene: Any, case: Case) -> None:
    """Take a case out of the scene."""
    close_mask(scene, case)
    _remove(scene, case.volume)


def _remove(scene: Any, node: Any) -> None:
    for number in reversed(range(node.GetNumberOfDisplayNodes())):
        scene.RemoveNode(node.GetNthDisplayNode(number))
    scene.RemoveNode(node)


def _volume(scene: Any, image: sitk.Image, name: str) -> Any:
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    solid = image if image.GetDimension() == 3 else sitk.JoinSeries(image)
    voxels = sitk.GetArrayFromImage(solid)
    if voxels.dtype.itemsize == 8:
        voxels = voxels.astype(np.float32) if voxels.dtype.kind == "f" else voxels.astype(np.int32)
    data = vtk.vtkImageData()
    data.SetDimensions(*voxels.shape[2::-1])
    flat = voxels.reshape(-1, voxels.shape[3]) if voxels.ndim == 4 else voxels.ravel()
    data.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))
    kind = "vtkMRMLVectorVolumeNode" if voxels.ndim == 4 else "vtkMRMLScalarVolumeNode"
    volume = scene.AddNewNodeByClass(kind, name)
    volume.SetIJKToRASMatrix(nodes.matrix_of(ijk_to_ras(solid)))
    volume.SetAndObserveImageData(data)
    volume.CreateDefaultDisplayNodes()
    return volume


def ijk_to_ras(image: sitk.Image) -> NDArray[np.float64]:
    """4×4, of a 3-D image: ITK is in LPS."""
    found = np.eye(4)
    found[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    found[:3, 3] = image.GetOrigin()
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ found


def _segmentation(scene: Any, case: Case, array: NDArray[Any], present: list[float]) -> tuple[Any, dict[str, float]]:
    import slicer

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{case.name} mask")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(case.volume)
    logic, matrix = slicer.vtkSlicerSegmentationsModuleLogic, nodes.ijk_to_ras(case.volume)
    solid = array.reshape(nodes.image_of(case.volume).shape)
    values = {}
    for number, value in enumerate(present):
        mask = solid == value
        box = around(mask)
        assert box is not None
        name = "Mask" if len(present) == 1 else f"Label {value:g}"
        segment = node.GetSegmentation().AddEmptySegment("", name, COLOURS[number % len(COLOURS)])
        part = nodes.oriented(mask[slices(box)], box, matrix)
        logic.SetBinaryLabelmapToSegment(part, node, segment, logic.MODE_REPLACE)
        values[str(segment)] = value
    display = node.GetDisplayNode()
    display.SetOpacity2DFill(0.30)
    display.SetOpacity2DOutline(0.9)
    if not case.flat:
        node.CreateClosedSurfaceRepresentation()
    return node, values
