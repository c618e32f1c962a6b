"""The Segment Editor beside the panel: what it edits is what is offered to be refined, and its undo is used."""

from typing import Any

from .signals import Signal
from .undo import SegmentationUndo

TAG = "SegmentEditor"
"""Of the parameter node that Slicer's own Segment Editor module keeps in the scene."""


class EditorLink:
    """Follows the Segment Editor's parameter node, also when it comes later or the scene is closed.

    Attributes:
        changed: Signal(), another segmentation, segment or source volume was chosen there.
    """

    def __init__(self, scene: Any) -> None:
        import slicer
        import vtk

        self.changed = Signal()
        self._scene = scene
        self._node: Any = None
        self._tag = 0
        self._last: tuple[Any, Any, str] = (None, None, "")

        def added(caller: Any, event: str, node: Any) -> None:
            if node is not None and node.IsA("vtkMRMLSegmentEditorNode") and node.GetSingletonTag() == TAG:
                self._observe(node)

        def removed(caller: Any, event: str, node: Any) -> None:
            if node is not None and node is self._node:
                self._observe(None)

        added.CallDataType = removed.CallDataType = vtk.VTK_OBJECT  # type: ignore[attr-defined]
        self._tags = [
            scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, added),
            scene.AddObserver(slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, removed),
        ]
        self._observe(scene.GetSingletonNode(TAG, "vtkMRMLSegmentEditorNode"))

    @property
    def node(self) -> Any:
        """The parameter node; None before the Segment Editor was used."""
        return self._node

    @property
    def selected(self) -> tuple[Any, Any, str]:
        """(source volume, segmentation, segment id) of the editor; None and '' where nothing is chosen."""
        if self._node is None:
            return None, None, ""
        node = self._node
        return node.GetSourceVolumeNode(), node.GetSegmentationNode(), node.GetSelectedSegmentID() or ""

    def select(self, volume: Any, segmentation: Any, segment: str) -> None:
        """Choose in the editor, if it is there, what was loaded here."""
        if self._node is not None and segmentation is not None:
            self._node.SetAndObserveSegmentationNode(segmentation)
            self._node.SetAndObserveSourceVolumeNode(volume)
            self._node.SetSelectedSegmentID(segment)

    def close(self) -> None:
        """Observe nothing any more."""
        self._observe(None)
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._tags = []

    def _observe(self, node: Any) -> None:
        import vtk

        if self._node is not None:
            self._node.RemoveObserver(self._tag)
        self._node = node
        if node is not None:
            self._tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._on_modified())
            self._on_modified()

    def _on_modified(self) -> None:
        now = self.selected
        if now != self._last:
            self._last = now
            self.changed.emit()


class EditorUndo:
    """Undo states in the Segment Editor where it shows the segmentation, so that its buttons work; else our own."""

    def __init__(self) -> None:
        self._own = SegmentationUndo()
        self._in_editor = False

    def save(self, segmentation: Any) -> None:
        """See `Undo`."""
        editor = editor_widget()
        self._in_editor = editor is not None and editor.segmentationNode() is segmentation
        if editor is not None and self._in_editor:
            editor.saveStateForUndo()
        else:
            self._own.save(segmentation)

    def undo(self) -> bool:
        """See `Undo`."""
        return self._call("undo")

    def redo(self) -> bool:
        """See `Undo`."""
        return self._call("redo")

    def _call(self, name: str) -> bool:
        editor = editor_widget()
        if editor is None or not self._in_editor:
            return bool(getattr(self._own, name)())
        getattr(editor, name)()
        return True


def editor_widget() -> Any:
    """The Segment Editor module's qMRMLSegmentEditorWidget, if that module was opened and can be reached; else None."""
    import slicer

    modules = getattr(slicer, "modules", None)
    found = getattr(getattr(modules, "SegmentEditorWidget", None), "editor", None)
    return found if found is not None and hasattr(found, "saveStateForUndo") else None
