"""The custom widgets that RNCARefine.ui names, as far as the module uses them; they observe a real MRML scene."""

from typing import Any

import shiboken6
import slicer
from PySide6 import QtCore, QtGui, QtWidgets

HEADER = 24  # pixels of a collapsible button's own line


class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A header with a triangle over contents that a click hides."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._collapsed = False
        self.setContentsMargins(0, HEADER, 0, 0)
        self.clicked.connect(lambda *_: self.setCollapsed(not self._collapsed))

    def _is_collapsed(self) -> bool:
        return self._collapsed

    def setCollapsed(self, collapsed: bool) -> None:
        self._collapsed = collapsed
        self.setMaximumHeight(HEADER if collapsed else 16777215)
        self.update()

    collapsed = QtCore.Property(bool, _is_collapsed, setCollapsed)

    def sizeHint(self) -> QtCore.QSize:
        layout = self.layout()
        return layout.totalSizeHint() if layout and not self._collapsed else QtCore.QSize(100, HEADER)

    def paintEvent(self, _event: Any) -> None:
        painter = QtGui.QPainter(self)
        line = QtCore.QRect(0, 0, self.property("width"), HEADER - 2)
        colours = QtWidgets.QApplication.palette()
        painter.fillRect(line, colours.button().color().darker(108))
        painter.setPen(colours.buttonText().color())
        text = QtCore.QObject.property(self, "text")
        painter.drawText(
            line.adjusted(8, 0, 0, 0), QtCore.Qt.AlignVCenter, ("▸  " if self._collapsed else "▾  ") + text
        )
        painter.end()


class ctkPathLineEdit(QtWidgets.QWidget):
    """A path to type."""

    currentPathChanged = QtCore.Signal(str)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._line = QtWidgets.QLineEdit(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._line)
        layout.addWidget(QtWidgets.QToolButton(self))
        self._line.textChanged.connect(self.currentPathChanged.emit)

    def _path(self) -> str:
        return str(QtCore.QObject.property(self._line, "text"))

    def setCurrentPath(self, path: str) -> None:
        self._line.setText(path)

    currentPath = QtCore.Property(str, _path, setCurrentPath)


class qMRMLWidget(QtWidgets.QWidget):
    """A widget of a scene."""

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene


class qMRMLNodeComboBox(qMRMLWidget):
    """The scene's nodes of some classes; hidden ones are left out."""

    currentNodeChanged = QtCore.Signal(object)
    nodeAddedByUser = QtCore.Signal(object)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._scene: Any = None
        self._ids: list[str] = []
        self._last: Any = None
        self.setProperty("nodeTypes", [])  # PySide6 6.12 loses a reference to None with each property that is not there
        self.setProperty("noneEnabled", False)
        self._box = QtWidgets.QComboBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self._box.setSizePolicy(QtWidgets.QSizePolicy.Expanding, QtWidgets.QSizePolicy.Fixed)
        self._box.currentIndexChanged.connect(lambda *_: self._tell())

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        events = slicer.vtkMRMLScene
        for event in (events.NodeAddedEvent, events.NodeRemovedEvent, events.EndCloseEvent):
            scene.AddObserver(event, lambda *_: self._fill())
        self._fill()

    def currentNode(self) -> Any:
        index = QtCore.QObject.property(self._box, "currentIndex")
        return self._scene.GetNodeByID(self._ids[index]) if self._scene and 0 <= index < len(self._ids) else None

    def setCurrentNode(self, node: Any) -> None:
        self._fill()
        wanted = node.GetID() if node is not None else ""
        if wanted in self._ids:
            self._box.setCurrentIndex(self._ids.index(wanted))

    def addNode(self) -> Any:
        """What "Create new" does."""
        node = self._scene.AddNewNodeByClass(self._kinds()[0])
        self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def _kinds(self) -> list[str]:
        return list(self.property("nodeTypes"))

    def _fill(self) -> None:
        if not shiboken6.isValid(self._box):
            return  # the widget is gone and the scene still tells
        index = QtCore.QObject.property(self._box, "currentIndex")
        chosen = self._ids[index] if 0 <= index < len(self._ids) else ""
        nodes = []
        for number in range(self._scene.GetNumberOfNodes()):
            node = self._scene.GetNthNode(number)
            if node.GetClassName() in self._kinds() and not node.GetHideFromEditors():
                nodes.append(node)
        self._ids = ([""] if self.property("noneEnabled") else []) + [node.GetID() for node in nodes]
        self._box.blockSignals(True)
        self._box.clear()
        self._box.addItems((["None"] if self.property("noneEnabled") else []) + [node.GetName() for node in nodes])
        self._box.setCurrentIndex(self._ids.index(chosen) if chosen in self._ids else (0 if self._ids else -1))
        self._box.blockSignals(False)
        self._tell()

    def _tell(self) -> None:
        now = self.currentNode()
        if now is not self._last:
            self._last = now
            self.currentNodeChanged.emit(now)


class qMRMLSegmentSelectorWidget(qMRMLWidget):
    """A segmentation and one of its segments."""

    currentNodeChanged = QtCore.Signal(object)
    currentSegmentChanged = QtCore.Signal(str)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._ids: list[str] = []
        self._observed: tuple[Any, list[int]] | None = None
        self._nodes = qMRMLNodeComboBox(self)
        self._nodes.setProperty("nodeTypes", ["vtkMRMLSegmentationNode"])
        self._box = QtWidgets.QComboBox(self)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._nodes)
        layout.addWidget(self._box)
        self._nodes.currentNodeChanged.connect(self._on_node)
        self._box.currentIndexChanged.connect(lambda *_: self.currentSegmentChanged.emit(self.currentSegmentID()))

    def setMRMLScene(self, scene: Any) -> None:
        self._nodes.setMRMLScene(scene)

    def currentNode(self) -> Any:
        return self._nodes.currentNode()

    def setCurrentNode(self, node: Any) -> None:
        self._nodes.setCurrentNode(node)

    def currentSegmentID(self) -> str:
        index = QtCore.QObject.property(self._box, "currentIndex")
        return self._ids[index] if 0 <= index < len(self._ids) else ""

    def setCurrentSegmentID(self, segment: str) -> None:
        if segment in self._ids:
            self._box.setCurrentIndex(self._ids.index(segment))

    def _on_node(self, node: Any) -> None:
        if self._observed is not None:
            inside, tags = self._observed
            for tag in tags:
                inside.RemoveObserver(tag)
        self._observed = None
        if node is not None:
            inside, events = node.GetSegmentation(), slicer.vtkSegmentation
            tags = [
                inside.AddObserver(e, lambda *_: self._fill()) for e in (events.SegmentAdded, events.SegmentRemoved)
            ]
            self._observed = inside, tags
        self._fill()
        self.currentNodeChanged.emit(node)

    def _fill(self) -> None:
        chosen, node = self.currentSegmentID(), self.currentNode()
        inside = node.GetSegmentation() if node is not None else None
        self._ids = [inside.GetNthSegmentID(n) for n in range(inside.GetNumberOfSegments())] if inside else []
        self._box.blockSignals(True)
        self._box.clear()
        self._box.addItems([inside.GetSegment(segment).GetName() for segment in self._ids])
        self._box.setCurrentIndex(self._ids.index(chosen) if chosen in self._ids else (0 if self._ids else -1))
        self._box.blockSignals(False)
        self.currentSegmentChanged.emit(self.currentSegmentID())


ALL = (ctkCollapsibleButton, ctkPathLineEdit, qMRMLWidget, qMRMLNodeComboBox, qMRMLSegmentSelectorWidget)
