"""Undo whose buttons know whether there is anything to take back."""

from RNCARefineLib.undo import SegmentationUndo


class CountedUndo(SegmentationUndo):
    """Slicer's own history of a segmentation, and what it holds."""

    @property
    def can_undo(self) -> bool:
        """Whether there is an action to take back."""
        return bool(self._history.IsRestorePreviousStateAvailable())

    @property
    def can_redo(self) -> bool:
        """Whether there is one to bring back."""
        return bool(self._history.IsRestoreNextStateAvailable())
