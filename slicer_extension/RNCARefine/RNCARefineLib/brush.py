"""A brush that says where a repair may change anything: what is painted becomes a mask on the volume's grid."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import nodes
from .boxes import Box, on_box, overlap, size, slices, union, whole
from .errors import RefineError
from .request import Within

Point = tuple[float, float, float]


class Brush:
    """One stroke, or several, on one volume.

    Args:
        volume: the source volume node; its parent transforms are followed.
        radius: in mm.

    Raises:
        RefineError: no volume, or one without voxels.
    """

    def __init__(self, volume: Any, radius: float) -> None:
        import slicer
        import vtk

        self._shape = nodes.image_of(volume).shape
        self._matrix = nodes.ijk_to_ras(volume)
        self._to_volume = vtk.vtkGeneralTransform()
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, volume.GetParentTransformNode(), self._to_volume)
        self.radius = radius
        self._last: Point | None = None
        self._painted: Within | None = None

    @property
    def painted(self) -> Within | None:
        """(mask, the box of the volume's grid that it fills); None before anything of the volume was touched."""
        return self._painted

    def paint(self, ras: Point, normal: Point | None = None) -> None:
        """Touch a place, and what lies between it and the last one.

        Args:
            ras: in world RAS, mm.
            normal: of the slice that is painted on, in world RAS: a disc as thick as a voxel is there. None: a ball.
        """
        here = np.array(self._to_volume.TransformPoint(ras))
        across = None
        if normal is not None:
            tip = np.array(self._to_volume.TransformPoint(np.array(ras) + np.array(normal)))
            across = (tip - here) / max(float(np.linalg.norm(tip - here)), 1e-12)
        before = here if self._last is None else np.array(self._last)
        steps = max(1, int(np.ceil(np.linalg.norm(here - before) / max(self.radius / 2, 1e-3))))
        for step in range(1, steps + 1):
            self._touch(before + (here - before) * step / steps, across)
        self._last = here[0], here[1], here[2]

    def lift(self) -> None:
        """The next touch begins a new stroke."""
        self._last = None

    def _touch(self, centre: NDArray[np.float64], across: NDArray[np.float64] | None) -> None:
        axes = self._matrix[:3, :3]
        inverse = np.linalg.inv(self._matrix)
        middle = (inverse @ [*centre, 1.0])[:3]
        thick = float(np.abs(across @ axes).sum()) / 2 if across is not None else 0.0  # half of a voxel, across
        reach = np.linalg.norm(inverse[:3, :3], axis=1) * (self.radius + thick)
        low, high = np.floor(middle - reach).astype(int), np.ceil(middle + reach).astype(int) + 1
        box: Box = tuple((int(a), int(b)) for a, b in zip(low[::-1], high[::-1], strict=True))
        inside = overlap(box, whole(self._shape))
        if inside is None:
            return
        k, j, i = np.meshgrid(*(np.arange(a, b) for a, b in inside), indexing="ij")
        offsets = np.stack([i, j, k], -1).astype(float) - middle
        offsets = offsets @ axes.T
        if across is None:
            mask = np.linalg.norm(offsets, axis=-1) <= self.radius
        else:
            depth = offsets @ across
            flat = np.linalg.norm(offsets - depth[..., None] * across, axis=-1)
            mask = (flat <= self.radius) & (np.abs(depth) <= thick * (1 + 1e-6))
        if mask.any():
            self._add(mask, inside)

    def _add(self, mask: NDArray[np.bool_], box: Box) -> None:
        if self._painted is None:
            self._painted = mask, box
            return
        old, place = self._painted
        both = union(place, box)
        total = old if both == place else on_box(old, place, both)
        total[slices(box, both)] |= mask
        assert total.shape == size(both)
        self._painted = total, both


def reachable(within: Within, shape: tuple[int, ...]) -> Box:
    """The region that a repair inside of a painted mask needs: its box, cut to the volume.

    Raises:
        RefineError: nothing of the volume was painted.
    """
    found = overlap(within[1], whole(shape)) if within[0].any() else None
    if found is None:
        raise RefineError("Nothing of the image was painted: paint over what is to be repaired.")
    return found
