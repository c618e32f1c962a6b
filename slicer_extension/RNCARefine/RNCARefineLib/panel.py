"""The module's panel: the widgets of RNCARefine.ui over a `Session`, a timer, shortcuts and the line for messages.

Widgets are read as attributes (`box.checked`) and set by methods (`box.setChecked`), and signals are connected as
`signal.connect(f)`: that is what PythonQt in Slicer and the tests' PySide6 have in common.
"""

from typing import Any

import qt

from .editor import EditorLink, EditorUndo
from .panel_learn import LearnSection
from .panel_refine import RefineSection
from .panel_server import ServerSection
from .parameters import LOCAL, Settings
from .session import Ask, Session
from .translate import _

ERROR_STYLE = "color: #d9302c"
SHORTCUTS = {
    "refineButton": "Ctrl+Return",
    "acceptButton": "Ctrl+Shift+Return",
    "discardButton": "Ctrl+Shift+Backspace",
}
"""What clicks which button while the module is shown; Refine's is also Stop's."""


def main_window() -> Any:
    """Slicer's window, None where there is none."""
    import slicer

    return slicer.util.mainWindow() if hasattr(slicer, "app") else None


def ask_user(text: str) -> bool:
    """A question with Yes and No; No is what Return and Escape answer."""
    box = qt.QMessageBox
    return bool(box.question(main_window(), "rNCA Refine", text, box.Yes | box.No, box.No) == box.Yes)


class Panel:
    """Everything the user sees of the module.

    Args:
        root: the widget that was loaded from RNCARefine.ui; `ui` has its named children as attributes.
        scene: the vtkMRMLScene.
        settings: where choices are remembered; Slicer's settings if none are given.
        ask: shows a question; a message box if none is given.
    """

    def __init__(
        self, root: Any, ui: Any, scene: Any, settings: Settings | None = None, ask: Ask | None = None
    ) -> None:
        import slicer

        self.root, self.ui, self.scene = root, ui, scene
        self.session = Session(
            scene, settings if settings is not None else qt.QSettings(), ask or ask_user, EditorUndo()
        )
        self.session.token = lambda: str(ui.tokenEdit.text)
        self.link = EditorLink(scene)
        self.server = ServerSection(ui, self.session)
        self.refine = RefineSection(ui, self.session, scene, self.link)
        self.learn = LearnSection(ui, self.session, self.refine)
        self._shown_before = False

        self.timer = qt.QTimer()
        self.timer.timeout.connect(self._tick)
        self.session.changed.connect(self.update)
        self.session.told.connect(self.tell)
        self.session.server.login_needed.connect(self._on_login_needed)
        self.session.server.loaded.connect(self._on_loaded)
        self._shortcuts = [self._shortcut(getattr(ui, name), keys) for name, keys in SHORTCUTS.items()]
        self._observer = scene.AddObserver(slicer.vtkMRMLScene.EndCloseEvent, lambda *_args: self.update())
        self.tell("", False)
        self.update()

    # ---- the module is shown, left, or ends

    def enter(self) -> None:
        """The module is shown."""
        for shortcut in self._shortcuts:
            shortcut.setEnabled(True)
        self.refine.follow()
        if not self._shown_before:
            self._shown_before = True
            if self.session.parameters.server != LOCAL:
                self.session.connect()
        self.update()

    def exit(self) -> None:
        """Another module is shown; what runs goes on, and its preview stays."""
        for shortcut in self._shortcuts:
            shortcut.setEnabled(False)
        self.session.remember()

    def close(self) -> None:
        """The program ends, or the module is loaded again."""
        self.timer.stop()
        self.scene.RemoveObserver(self._observer)
        self.link.close()
        self.session.changed.disconnect(self.update)
        self.session.close()
        for shortcut in self._shortcuts:
            shortcut.setEnabled(False)
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._shortcuts = []

    # ---- what is shown

    def update(self) -> None:
        """Show what is; and see that the timer runs as long as there is something to wait for."""
        for section in (self.server, self.refine, self.learn):
            section.update()
        interval = self.session.interval
        if interval is None:
            self.timer.stop()
        elif not self.timer.isActive() or self.timer.interval != interval:
            self.timer.start(interval)

    def tell(self, text: str, is_error: bool) -> None:
        """A sentence for the user, in the panel."""
        self.ui.messageLabel.setStyleSheet(ERROR_STYLE if is_error else "")
        self.ui.messageLabel.setText(text)
        self.ui.messageLabel.setVisible(bool(text))

    # ---- inside

    def _tick(self) -> None:
        self.session.tick()
        if self.session.interval != (self.timer.interval if self.timer.isActive() else None):
            self.update()

    def _on_login_needed(self, _text: str) -> None:
        self.ui.serverSection.setCollapsed(False)
        self.ui.tokenEdit.setFocus()

    def _on_loaded(self, volume: Any, segmentation: Any) -> None:
        self.refine.choose(volume, segmentation)

    def _shortcut(self, button: Any, keys: str) -> Any:
        shortcut = qt.QShortcut(main_window() or self.root)
        shortcut.setKey(qt.QKeySequence(keys))
        shortcut.setEnabled(False)

        def pressed() -> None:
            if button.enabled:
                button.click()

        shortcut.activated.connect(pressed)
        button.setToolTip(button.toolTip + " " + _("Shortcut: {keys}.").format(keys=keys))
        return shortcut
