"""Undo of what was accepted: one state a user action, as the Segment Editor keeps them."""

from typing import Any, Protocol


class Undo(Protocol):
    """Where states are kept: here, or in the Segment Editor when its widget is there."""

    def save(self, segmentation: Any) -> None:
        """Remember a segmentation as it is now, before it is changed."""
        ...

    def undo(self) -> bool:
        """Back by one action; whether there was one."""
        ...

    def redo(self) -> bool:
        """Forward again; whether there was anything."""
        ...


class SegmentationUndo:
    """Slicer's own history of a segmentation (vtkSegmentationHistory); it forgets when another one is changed."""

    def __init__(self, states: int = 10) -> None:
        import slicer

        self._history = slicer.vtkSegmentationHistory()
        self._history.SetMaximumNumberOfStates(states)

    def save(self, segmentation: Any) -> None:
        """See `Undo`."""
        self._history.SetSegmentation(segmentation.GetSegmentation())
        self._history.SaveState()

    def undo(self) -> bool:
        """See `Undo`."""
        return bool(self._history.IsRestorePreviousStateAvailable()) and bool(self._history.RestorePreviousState())

    def redo(self) -> bool:
        """See `Undo`."""
        return bool(self._history.IsRestoreNextStateAvailable()) and bool(self._history.RestoreNextState())
