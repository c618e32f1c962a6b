"""Whole segmentations as label maps for the server's datastore, and images of the datastore in the scene."""

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import nodes
from .boxes import slices
from .errors import RefineError
from .logic import Kept
from .request import Image
from .segments import read_segment

SERVER, IMAGE_ID = "rNCA.server", "rNCA.image"
"""Attributes of a volume node that came from a server's datastore."""


def image_id(volume: Any, image: Image, address: str) -> str:
    """The image's id in the datastore: where it came from, else one made of its voxels (names can be patients')."""
    if volume.GetAttribute(SERVER) == address and volume.GetAttribute(IMAGE_ID):
        return str(volume.GetAttribute(IMAGE_ID))
    digest = hashlib.sha256(np.ascontiguousarray(image.voxels).tobytes())
    digest.update(image.ijk_to_ras.tobytes())
    return f"case-{digest.hexdigest()[:16]}"


def mark(volume: Any, address: str, image: str) -> None:
    """Remember which image of which server a volume is."""
    volume.SetAttribute(SERVER, address)
    volume.SetAttribute(IMAGE_ID, image)


def values_of(segmentation: Any) -> dict[str, int]:
    """A value of its own for each segment: the one it has, as loaded from a label map, if that is nobody else's."""
    found: dict[str, int] = {}
    inside = segmentation.GetSegmentation()
    ids = [inside.GetNthSegmentID(n) for n in range(inside.GetNumberOfSegments())]
    for segment in ids:
        value = int(inside.GetSegment(segment).GetLabelValue())
        found[segment] = value if value > 0 and value not in found.values() else 0
    free = (n for n in range(1, len(ids) + max(found.values(), default=0) + 2) if n not in found.values())
    return {segment: value or next(free) for segment, value in found.items()}


def label_map(segmentation: Any, volume: Any, above: str) -> NDArray[np.uint16]:
    """Every segment on the volume's grid by its value; where segments overlap, `above` is on top."""
    image = nodes.image_of(volume)
    found = np.zeros(image.shape, np.uint16)
    values = values_of(segmentation)
    for segment in sorted(values, key=lambda name: name == above):
        try:
            mask, box = read_segment(segmentation, segment, volume)
        except RefineError:  # empty
            continue
        found[slices(box)][mask] = values[segment]
    return found


def with_mask(labels: NDArray[np.uint16], value: int, kept: Kept, mask: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """A label map with one segment as it was at a refinement: `mask` fills the refinement's box."""
    found = labels.copy()
    found[found == value] = 0
    found[slices(kept.box)][mask] = value
    return found


def load(name: str, content: bytes, image: str, address: str) -> Any:
    """A downloaded image as a volume node of the scene."""
    import slicer

    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        volume = slicer.util.loadVolume(str(path), {"name": image})
    mark(volume, address, image)
    return volume


def load_mask(name: str, content: bytes, volume: Any) -> Any:
    """A downloaded mask as a segmentation node on a volume's geometry, with its values as label values."""
    import slicer

    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        labelmap = slicer.util.loadLabelVolume(str(path))
    try:
        segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{volume.GetName()} segmentation")
        segmentation.CreateDefaultDisplayNodes()
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labelmap, segmentation)
    finally:
        slicer.mrmlScene.RemoveNode(labelmap)
    return segmentation
