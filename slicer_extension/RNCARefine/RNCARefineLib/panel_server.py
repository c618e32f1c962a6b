"""The panel's section Server: where refinements are computed, logging in, installing."""

from typing import Any

from . import local
from .logic import RUNNING
from .parameters import LOCAL
from .session import Session
from .translate import _

ON_SERVER, ON_THIS = 0, 1


class ServerSection:
    """Widgets of the section over a session; a token or password is read once and stays in its field only."""

    def __init__(self, ui: Any, session: Session) -> None:
        self.ui, self.session = ui, session
        chosen = session.parameters
        self._address = chosen.server if chosen.server != LOCAL else type(chosen)().server
        ui.placeComboBox.setCurrentIndex(ON_THIS if chosen.server == LOCAL else ON_SERVER)
        ui.serverEdit.setText(self._address)
        ui.certificatesEdit.setCurrentPath(chosen.certificates)
        ui.placeComboBox.currentIndexChanged.connect(self._on_place)
        ui.serverEdit.textChanged.connect(self._on_typed)
        ui.serverEdit.returnPressed.connect(self._on_connect)
        ui.tokenEdit.returnPressed.connect(self._on_connect)
        ui.passwordEdit.returnPressed.connect(self._on_connect)
        ui.certificatesEdit.currentPathChanged.connect(self._on_typed)
        ui.connectButton.clicked.connect(self._on_connect)
        ui.installButton.clicked.connect(lambda *_args: session.install(choose_wheel()))

    def update(self) -> None:
        """Show what is."""
        ui, session = self.ui, self.session
        here = session.parameters.server == LOCAL
        for name in ("server", "token", "user", "password", "certificates"):
            getattr(ui, f"{name}Label").setVisible(not here)
            getattr(ui, f"{name}Edit").setVisible(not here)
        busy, installed = session.server.tasks.busy, local.installed()
        ui.installButton.setVisible(here)
        ui.installButton.setEnabled(not installed and not busy)
        ui.installButton.setText(_("Installed") if installed else _("Install…"))
        ui.connectButton.setText(_("Use this computer") if here else _("Test connection"))
        ui.connectButton.setEnabled(not busy and session.logic.state != RUNNING and (installed or not here))
        ui.serverSection.setText(f"{_('Server')}: {self._state()}")

    def _state(self) -> str:
        server = self.session.server
        if not server.connected:
            return _("connecting") if server.tasks.busy else _("not connected")
        return server.address or _("this computer")

    def _on_place(self, *_args: Any) -> None:
        here = self.ui.placeComboBox.currentIndex == ON_THIS
        self.session.parameters.server = LOCAL if here else self.ui.serverEdit.text
        self._left()

    def _on_typed(self, *_args: Any) -> None:
        self.session.parameters.server = self.ui.serverEdit.text
        self.session.parameters.certificates = self.ui.certificatesEdit.currentPath
        self._left()

    def _left(self) -> None:
        """Another place is chosen: the one that is connected is no longer it."""
        if self.session.server.connected and self.session.logic.state != RUNNING:
            self.session.server.disconnect()
        self.update()

    def _on_connect(self, *_args: Any) -> None:
        ui = self.ui
        self.session.remember()
        self.session.connect(ui.tokenEdit.text, ui.userEdit.text, ui.passwordEdit.text)


def choose_wheel() -> str:
    """The file of the package rnca that the user chooses; '' if none."""
    import qt

    found = qt.QFileDialog.getOpenFileName(None, _("The package rnca"), "", "rnca-*.whl")
    return found if isinstance(found, str) else str(found[0])
