"""The live result, in a segmentation node of its own over the untouched original; it goes when it is not needed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import nodes
from .boxes import Box, size
from .drawn import Drawn
from .runs import Run

ADDED, REMOVED, UNSURE = "added", "removed", "unsure"
COLOURS = {ADDED: (0.2, 0.9, 0.3), REMOVED: (0.95, 0.25, 0.2), UNSURE: (1.0, 0.8, 0.1)}
NODE_NAME = "rNCA preview"


class Preview:
    """A preview of the runs of one refinement, on the volume's grid and under its transforms.

    Args:
        scene: the vtkMRMLScene.
        volume: the source volume node.
        colours: of the refined segments, one a run, RGB 0..1.
    """

    def __init__(self, scene: Any, volume: Any, colours: list[tuple[float, float, float]]) -> None:
        import slicer

        self._scene = scene
        self._matrix = nodes.ijk_to_ras(volume)
        self.node = slicer.vtkMRMLSegmentationNode()
        self.node.SetName(NODE_NAME)
        self.node.SetSaveWithScene(False)
        self.node.SetHideFromEditors(True)  # not among the segmentations that can be chosen
        scene.AddNode(self.node)
        self.node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        self.node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        self.node.CreateDefaultDisplayNodes()
        self._segments = [self._add(f"refined {number + 1}", colour) for number, colour in enumerate(colours)]
        self._drawn = Drawn(self._segments, ADDED, REMOVED, self._canvas)
        for name, colour in COLOURS.items():
            self._add(name, colour)
        self._show(ADDED, True)
        self._show(REMOVED, True)
        self._show(UNSURE, False)
        display = self.node.GetDisplayNode()
        display.SetOpacity2DFill(0.35)
        display.SetOpacity2DOutline(1.0)

    def _add(self, name: str, colour: tuple[float, float, float]) -> str:
        found = str(self.node.GetSegmentation().AddEmptySegment(name, name, colour))
        segment = self.node.GetSegmentation().GetSegment(found)
        segment.SetLabelValue(1)
        nothing = nodes.oriented(np.zeros((1, 1, 1), np.bool_), ((0, 1), (0, 1), (0, 1)), self._matrix)
        segment.AddRepresentation(nodes.LABELMAP, nothing)  # its own, not one that is shared
        return found

    def _show(self, segment: str, shown: bool) -> None:
        self.node.GetDisplayNode().SetSegmentVisibility(segment, shown)

    def show_changes(self, shown: bool) -> None:
        """Show what was added and removed in colours of their own, or not."""
        self._show(ADDED, shown)
        self._show(REMOVED, shown)

    def update(self, runs: list[Run], step: int | None) -> None:
        """Show the masks after `step` updates (None: the newest), and what differs from the start."""
        changed = self._drawn.draw(runs, step)
        for name in changed:
            self._modified(name)
        if changed:
            self._redraw()

    def counts(self, number: int) -> tuple[int, int, int]:
        """Of a run, as it is shown: (step, voxels added, voxels removed)."""
        return self._drawn.counts(number)

    def show_unsure(self, unsure: NDArray[np.bool_] | None, box: Box) -> None:
        """Mark the voxels that the model is unsure of; None takes the marks away."""
        self._show(UNSURE, unsure is not None)
        if unsure is not None:
            self._write(UNSURE, unsure, box)
            self._redraw()

    def _labelmap(self, segment: str) -> Any:
        return self.node.GetSegmentation().GetSegment(segment).GetRepresentation(nodes.LABELMAP)

    def _write(self, segment: str, mask: NDArray[np.bool_], box: Box) -> None:
        self._labelmap(segment).ShallowCopy(nodes.oriented(mask, box, self._matrix))
        self._modified(segment)

    def _canvas(self, segment: str, box: Box) -> NDArray[np.uint8]:
        """The voxels of a segment's labelmap, which becomes an empty one that fills `box`."""
        labelmap = self._labelmap(segment)
        if nodes.box_of(labelmap) != box:
            labelmap.ShallowCopy(nodes.oriented(np.zeros(size(box), np.bool_), box, self._matrix))
        found: NDArray[np.uint8] = nodes.voxels_of(labelmap)
        found[...] = 0
        return found

    def _modified(self, segment: str) -> None:
        labelmap = self._labelmap(segment)
        labelmap.GetPointData().GetScalars().Modified()
        labelmap.Modified()

    def _redraw(self) -> None:
        """Slice views look at the voxels again only when the display node says so."""
        self.node.GetDisplayNode().Modified()

    def show_surface(self) -> None:
        """Show the result in 3D views, as the original is shown there."""
        self.node.CreateClosedSurfaceRepresentation()

    def remove(self) -> None:
        """Take the preview out of the scene; a second time is fine."""
        if self.node is not None and self._scene.IsNodePresent(self.node):
            display = self.node.GetDisplayNode()
            self._scene.RemoveNode(self.node)
            if display is not None and self._scene.IsNodePresent(display):
                self._scene.RemoveNode(display)
        self.node = None
