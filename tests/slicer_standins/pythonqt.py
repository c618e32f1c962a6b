"""The modules `qt` and `ctk` as scripts in Slicer see them, over PySide6: properties are attributes."""

import ctypes
import os
import sys
from types import ModuleType
from typing import Any, ClassVar

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

if sys.version_info < (3, 12):
    # PySide6 6.12 takes a reference from None, True and False with each call that returns them, as if they were
    # immortal as in Python 3.12: give them more than any test takes, or Python ends with an error.
    for _single in (None, True, False):
        ctypes.c_ssize_t.from_address(id(_single)).value += 1 << 40

_PARTS = (QtCore, QtGui, QtWidgets)
VIRTUAL = (
    "QWidget.sizeHint",
    "QWidget.minimumSizeHint",
    "QProgressBar.text",
)  # C++ calls them: as attributes they would call themselves


def install() -> QtWidgets.QApplication:
    """Make `import qt` and `import ctk` work; returns the application, which is made once."""
    application = QtWidgets.QApplication.instance() or QtWidgets.QApplication([sys.argv[0]])
    if "qt" not in sys.modules:
        from . import widgets

        found = ModuleType("qt")
        for part in _PARTS:
            found.__dict__.update({name: getattr(part, name) for name in dir(part) if not name.startswith("_")})
        found.__dict__["QUiLoader"] = Loader
        Loader.known = {c.__name__: c for c in widgets.ALL}
        _properties_as_attributes()
        sys.modules["qt"] = found
        sys.modules["ctk"] = ModuleType("ctk")
        sys.modules["ctk"].__dict__.update({c.__name__: c for c in widgets.ALL if c.__name__.startswith("ctk")})
    assert isinstance(application, QtWidgets.QApplication)
    return application


class Loader(QtUiTools.QUiLoader):
    """Loads .ui files with the stand-ins for the custom widgets that they name."""

    known: ClassVar[dict[str, type[QtWidgets.QWidget]]] = {}

    def createWidget(self, kind: str, parent: Any = None, name: str = "") -> QtWidgets.QWidget:
        if kind not in self.known:
            return super().createWidget(kind, parent, name)
        made = self.known[kind](parent)
        made.setObjectName(name)
        return made


def _properties_as_attributes() -> None:
    """`widget.text` instead of `widget.text()`, as PythonQt has it; isEnabled() and the like stay."""
    for part in _PARTS:
        for kind in [getattr(part, name) for name in dir(part)]:
            if not isinstance(kind, type) or not issubclass(kind, QtCore.QObject):
                continue
            meta = kind.staticMetaObject
            for number in range(meta.propertyOffset(), meta.propertyCount()):
                name = meta.property(number).name()
                if f"{kind.__name__}.{name}" not in VIRTUAL:
                    _set_property(kind, name)
    _set_property(QtCore.QObject, "objectName")
    _set_property(QtCore.QObject, "objectName", "name")


def _set_property(kind: type, name: str, alias: str | None = None) -> None:
    def read(self: Any) -> Any:
        return QtCore.QObject.property(self, name)

    def write(self: Any, value: Any) -> None:
        QtCore.QObject.setProperty(self, name, value)

    setattr(kind, alias or name, property(read, write))
