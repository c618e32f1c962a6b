"""Slicer's application around a real MRML scene: `slicer.app`, `slicer.modules`, reading files, scripted modules."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import slicer
import slicer.util
import vtk
from PySide6 import QtCore, QtWidgets

from . import pythonqt

MODULE = Path(__file__).parents[2] / "slicer_extension" / "RNCARefine"


class Application:
    """`slicer.app`: a main window and a reader of volume files."""

    applicationName = "Slicer"

    def __init__(self, qt_application: QtWidgets.QApplication, volumes: Any) -> None:
        self._qt, self._volumes = qt_application, volumes
        self.window = QtWidgets.QMainWindow()
        self.window.setObjectName("qSlicerMainWindow")
        self.startupCompleted = Startup()

    def processEvents(self) -> None:
        self._qt.processEvents()

    def topLevelWidgets(self) -> list[QtWidgets.QWidget]:
        return [self.window]

    def testingEnabled(self) -> bool:
        return True

    def layoutManager(self) -> None:
        """There are no views."""

    def coreIOManager(self) -> "Application":
        return self

    def loadNodes(self, kind: str, properties: dict[str, Any], loaded: Any, messages: Any) -> bool:
        """What `slicer.util.loadVolume` ends in; Slicer's own reader calls the same logic."""
        assert kind == "VolumeFile", kind
        path = properties["fileName"]
        name = properties.get("name") or Path(path).name.partition(".")[0]
        node = self._volumes.AddArchetypeVolume(path, name, int(bool(properties.get("labelmap"))))
        if node is not None:
            loaded.AddItem(node)
        return node is not None


class Startup:
    """A signal of the application."""

    def __init__(self) -> None:
        self.slots: list[Any] = []

    def connect(self, slot: Any) -> None:
        self.slots.append(slot)


class ScriptedLoadableModule:
    def __init__(self, parent: Any) -> None:
        self.parent = parent


class ScriptedLoadableModuleWidget:
    def __init__(self, parent: Any = None) -> None:
        self.parent = parent if parent is not None else QtWidgets.QWidget()
        if QtWidgets.QWidget.layout(self.parent) is None:
            QtWidgets.QVBoxLayout(self.parent)
        self.layout = QtWidgets.QWidget.layout(self.parent)

    def setup(self) -> None:
        """Slicer adds the developer's buttons here."""

    def resourcePath(self, name: str) -> str:
        return str(Path(sys.modules[type(self).__module__].__file__ or "").parent / "Resources" / name)


class ScriptedLoadableModuleTest:
    def delayDisplay(self, text: str, _milliseconds: int = 0) -> None:
        print(text)


@contextmanager
def slicer_running() -> Iterator[Any]:
    """Inside, `slicer.app`, `slicer.mrmlScene` and the rest are there; gives the scene, new and with a crosshair."""
    qt_application = pythonqt.install()
    scene = slicer.vtkMRMLScene()
    crosshair = slicer.vtkMRMLCrosshairNode()
    crosshair.SetCrosshairName("default")
    scene.AddNode(crosshair)
    logic = slicer.vtkSlicerApplicationLogic()
    logic.SetMRMLScene(scene)
    logic.GetColorLogic().SetMRMLScene(scene)
    logic.GetColorLogic().AddDefaultColorNodes()
    logic.SetModuleLogic("Colors", logic.GetColorLogic())
    parts = {"volumes": slicer.vtkSlicerVolumesLogic(), "segmentations": slicer.vtkSlicerSegmentationsModuleLogic()}
    for part in parts.values():
        part.SetMRMLScene(scene)
        part.SetMRMLApplicationLogic(logic)
    scripted = _module(
        "slicer.ScriptedLoadableModule",
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleTest,
    )
    translations = _module("slicer.i18n")
    translations.__dict__.update(tr=lambda text: text, translate=lambda _context, text: text)
    given = {
        "app": Application(qt_application, parts["volumes"]),
        "mrmlScene": scene,
        "modules": SimpleNamespace(**{name: SimpleNamespace(logic=lambda p=part: p) for name, part in parts.items()}),
    }
    before = {name: getattr(slicer, name, None) for name in given}
    for name, value in given.items():
        setattr(slicer, name, value)
    sys.modules |= {"slicer.ScriptedLoadableModule": scripted, "slicer.i18n": translations}
    try:
        yield scene
    finally:
        given["app"].window.deleteLater()
        QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.DeferredDelete)
        scene.Clear(1)
        for part in parts.values():
            part.SetMRMLScene(None)
        logic.SetMRMLScene(None)
        for name, value in before.items():
            if value is None:
                delattr(slicer, name)
            else:
                setattr(slicer, name, value)


def _module(name: str, *members: Any) -> ModuleType:
    made = ModuleType(name)
    made.__dict__.update({member.__name__: member for member in members})
    return made


def quiet() -> None:
    """VTK's messages go to the terminal, not into a window."""
    vtk.vtkOutputWindow.GetInstance().SetDisplayModeToAlwaysStdErr()
