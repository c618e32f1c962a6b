"""The panel's section Corrections and training: submit, the next case, train, versions."""

from typing import Any

from .logic import IDLE
from .panel_refine import RefineSection
from .server import gate_in_words
from .session import Session
from .translate import _


class LearnSection:
    """Widgets of the section over a session; all of it needs a server."""

    def __init__(self, ui: Any, session: Session, refine: RefineSection) -> None:
        self.ui, self.session, self._refine = ui, session, refine
        self._listed: Any = None
        server = session.server
        ui.submitButton.clicked.connect(self._on_submit)
        ui.nextButton.clicked.connect(lambda *_args: self._then(server.next_case))
        ui.trainButton.clicked.connect(self._on_train)
        ui.activateButton.clicked.connect(self._on_activate)
        ui.versionComboBox.currentIndexChanged.connect(lambda *_args: self.update())

    def update(self) -> None:
        """Show what is."""
        ui, server = self.ui, self.session.server
        self._list_versions()
        free = server.client is not None and not server.tasks.busy
        idle = self.session.logic.state == IDLE
        segment = self._refine.volume is not None and bool(self._refine.segment)
        training = server.training.get("status") == "RUNNING"
        ui.submitButton.setEnabled(free and idle and segment)
        ui.nextButton.setEnabled(free and idle)
        ui.trainButton.setText(_("Stop training") if training else _("Train"))
        ui.trainButton.setEnabled(server.client is not None and (training or free))
        fraction = server.training_fraction
        ui.trainingBar.setVisible(training)
        ui.trainingBar.setValue(round(1000 * (fraction or 0.0)))
        ui.trainingBar.setFormat(_("Training: {percent} %").format(percent=round(100 * (fraction or 0.0))))
        ended = server.training.get("status") in ("DONE", "STOPPED", "ERROR")
        ui.gateLabel.setText(gate_in_words(server.training) if ended else "")
        ui.gateLabel.setVisible(ended)
        ui.versionComboBox.setEnabled(free)
        ui.activateButton.setEnabled(free and not self._is_active(self._chosen_version()))

    def _list_versions(self) -> None:
        box, choice = self.ui.versionComboBox, self._refine.model
        now = (choice, choice.versions) if choice and self.session.server.client is not None else None
        if now == self._listed:
            return
        self._listed = now
        blocked = box.blockSignals(True)
        box.clear()
        for about in reversed(choice.versions if choice and now else ()):
            version = str(about["version"])
            box.addItem(f"{version} ({_('in use')})" if about.get("active") else version, version)
        versions = [str(about["version"]) for about in reversed(choice.versions if choice and now else ())]
        if choice and choice.version in versions:
            box.setCurrentIndex(versions.index(choice.version))
        box.blockSignals(blocked)

    def _chosen_version(self) -> str:
        return str(self.ui.versionComboBox.itemData(self.ui.versionComboBox.currentIndex) or "")

    def _is_active(self, version: str) -> bool:
        choice = self._refine.model
        return not version or choice is None or version == choice.version

    def _then(self, action: Any) -> None:
        self.session.told.emit("", False)
        action()
        self.session.changed.emit()

    def _on_submit(self, *_args: Any) -> None:
        refine = self._refine
        self._then(lambda: self.session.submit(refine.volume, refine.segmentation, refine.segment))

    def _on_train(self, *_args: Any) -> None:
        server = self.session.server
        if server.training.get("status") == "RUNNING":
            self._then(server.stop_training)
        else:
            self._then(lambda: server.train(self.session.parameters.model))

    def _on_activate(self, *_args: Any) -> None:
        choice, version = self._refine.model, self._chosen_version()
        if choice is not None and version:
            self._then(lambda: self.session.server.activate(choice.name, version))
