"""What is remembered while the program runs: settings, and what can be undone."""

from typing import Any

from RNCARefineLib.undo import SegmentationUndo


class Memory(dict[str, Any]):
    """Settings for as long as the program runs."""

    def value(self, key: str, default: Any = None) -> Any:
        """What is kept under a key."""
        return self.get(key, default)

    def setValue(self, key: str, value: Any) -> None:
        """Keep it."""
        self[key] = value


class CountedUndo(SegmentationUndo):
    """Slicer's own history of a segmentation, and what it holds: for the buttons."""

    @property
    def can_undo(self) -> bool:
        """Whether there is an action to take back."""
        return bool(self._history.IsRestorePreviousStateAvailable())

    @property
    def can_redo(self) -> bool:
        """Whether there is one to bring back."""
        return bool(self._history.IsRestoreNextStateAvailable())

    def forget(self) -> None:
        """Another case is open: what was done before is done."""
        self._history.RemoveAllStates()
        self._history.SetSegmentation(None)
