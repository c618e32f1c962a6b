"""The panel's section Refine: choose, refine, watch, look back, accept or discard."""

from typing import Any

from . import regions
from .boxes import Box
from .editor import EditorLink
from .errors import RefineError
from .logic import IDLE, REVIEW, RUNNING, Progress
from .request import Noted
from .server import ModelChoice
from .session import Session
from .translate import _

REGIONS = ("everywhere", "roi", "cursor")  # in the order of the combo box


class RefineSection:
    """Widgets of the section over a session; the Segment Editor's choices are taken over as they change there."""

    def __init__(self, ui: Any, session: Session, scene: Any, link: EditorLink) -> None:
        self.ui, self.session, self._scene, self._link = ui, session, scene, link
        self._listed: Any = None
        self._note = ""
        chosen = session.parameters
        for selector in (ui.volumeSelector, ui.segmentSelector, ui.roiSelector):
            selector.setMRMLScene(scene)
        ui.allSegmentsBox.setChecked(chosen.all_segments)
        ui.stepsSpinBox.setValue(chosen.steps)
        ui.regionComboBox.setCurrentIndex(REGIONS.index(chosen.region) if chosen.region in REGIONS else 0)
        ui.cursorSpinBox.setValue(chosen.cursor_mm)
        ui.changesBox.setChecked(chosen.show_changes)

        for signal in (
            ui.volumeSelector.currentNodeChanged,
            ui.segmentSelector.currentSegmentChanged,
            ui.roiSelector.currentNodeChanged,
        ):
            signal.connect(self._on_chosen)
        ui.segmentSelector.currentNodeChanged.connect(self._on_segmentation)
        for signal in (
            ui.allSegmentsBox.toggled,
            ui.modelComboBox.currentIndexChanged,
            ui.stepsSpinBox.valueChanged,
            ui.regionComboBox.currentIndexChanged,
            ui.cursorSpinBox.valueChanged,
        ):
            signal.connect(self._on_parameter)
        ui.roiSelector.nodeAddedByUser.connect(self._on_roi_added)
        ui.refineButton.clicked.connect(self._on_refine)
        ui.acceptButton.clicked.connect(lambda *_args: session.logic.accept())
        ui.discardButton.clicked.connect(lambda *_args: session.logic.discard())
        ui.undoButton.clicked.connect(self._on_undo)
        ui.redoButton.clicked.connect(self._on_redo)
        ui.stepSlider.valueChanged.connect(self._on_step)
        ui.changesBox.toggled.connect(self._on_changes)
        ui.unsureBox.toggled.connect(lambda *_args: session.show_unsure(ui.unsureBox.checked))
        session.logic.noted.connect(self._on_noted)
        link.changed.connect(self.follow)
        self._was = IDLE

    # ---- what is chosen

    @property
    def volume(self) -> Any:
        """The source volume node, or None."""
        return self.ui.volumeSelector.currentNode()

    @property
    def segmentation(self) -> Any:
        """The segmentation node, or None."""
        return self.ui.segmentSelector.currentNode()

    @property
    def segment(self) -> str:
        """The id of the segment, or ''."""
        return str(self.ui.segmentSelector.currentSegmentID() or "")

    @property
    def segments(self) -> list[str]:
        """The ids of what Refine would refine."""
        if not self.ui.allSegmentsBox.checked or self.segmentation is None:
            return [self.segment] if self.segment else []
        inside = self.segmentation.GetSegmentation()
        return [inside.GetNthSegmentID(n) for n in range(inside.GetNumberOfSegments())]

    def follow(self) -> None:
        """Choose what the Segment Editor has chosen; not while a refinement is open."""
        volume, segmentation, segment = self._link.selected
        if self.session.logic.state != IDLE:
            return
        if volume is not None:
            self.ui.volumeSelector.setCurrentNode(volume)
        if segmentation is not None:
            self.ui.segmentSelector.setCurrentNode(segmentation)
            if segment:
                self.ui.segmentSelector.setCurrentSegmentID(segment)

    def choose(self, volume: Any, segmentation: Any) -> None:
        """A case was loaded: show it and choose it, here and in the Segment Editor."""
        self.ui.volumeSelector.setCurrentNode(volume)
        if segmentation is not None:
            self.ui.segmentSelector.setCurrentNode(segmentation)
            self._link.select(volume, segmentation, self.segment)
        show_in_views(volume)

    # ---- what is shown

    def update(self) -> None:
        """Show what is."""
        ui, logic = self.ui, self.session.logic
        state, progress = logic.state, logic.progress()
        self._list_models()
        if state != self._was:
            self._note = "" if state != RUNNING else self._note
            if state == REVIEW and ui.unsureBox.checked:
                self._was = state
                self.session.show_unsure(True)
            self._was = state
        idle, running, review = state == IDLE, state == RUNNING, state == REVIEW
        for name in ("volumeSelector", "segmentSelector", "modelComboBox", "stepsSpinBox", "regionComboBox"):
            getattr(ui, name).setEnabled(idle)
        for name in ("allSegmentsBox", "roiSelector", "cursorSpinBox"):
            getattr(ui, name).setEnabled(idle)
        region = REGIONS[ui.regionComboBox.currentIndex]
        for part in (ui.roiLabel, ui.roiSelector):
            part.setVisible(region == "roi")
        for part in (ui.cursorLabel, ui.cursorSpinBox):
            part.setVisible(region == "cursor")
        ready = self.volume is not None and bool(self.segments) and not self.session.server.tasks.busy
        ui.refineButton.setText(_("Stop") if running else _("Refine"))
        ui.refineButton.setEnabled(running or (idle and ready))
        ui.acceptButton.setEnabled(review)
        ui.discardButton.setEnabled(not idle)
        ui.undoButton.setEnabled(idle)
        ui.redoButton.setEnabled(idle)
        ui.unsureBox.setEnabled(not (self.session.server.tasks.busy and review))
        self._show_progress(progress)

    def _show_progress(self, progress: Progress | None) -> None:
        ui, logic = self.ui, self.session.logic
        blocked = ui.stepSlider.blockSignals(True)
        ui.stepSlider.setMaximum(logic.last_step)
        ui.stepSlider.setValue(logic.shown_step)
        ui.stepSlider.blockSignals(blocked)
        ui.stepSlider.setEnabled(logic.last_step > 0)
        ui.figuresLabel.setText("" if progress is None else in_words(progress))
        if progress is None:
            ui.progressBar.setValue(0)
            ui.progressBar.setFormat("")
        elif progress.step or not self._note:
            ui.progressBar.setValue(round(1000 * progress.fraction))
            ui.progressBar.setFormat(
                _("Step {step} of {steps}").format(step=progress.step, steps=progress.steps or "…")
            )

    def _list_models(self) -> None:
        ui, server = self.ui, self.session.server
        now = (server.default_model, tuple(server.models))
        if now == self._listed:
            return
        self._listed = now
        box = ui.modelComboBox
        blocked = box.blockSignals(True)
        box.clear()
        default = f" ({server.default_model})" if server.default_model and server.models else ""
        box.addItem(_("Default") + default, "")
        for choice in server.models:
            box.addItem(f"{choice.name} {choice.version}".rstrip(), choice.name)
        names = [""] + [choice.name for choice in server.models]
        chosen = self.session.parameters.model
        box.setCurrentIndex(names.index(chosen) if chosen in names else 0)
        box.blockSignals(blocked)
        self._describe_model()

    def _describe_model(self) -> None:
        choice = self.model
        parts = [choice.description, choice.licence, choice.figures] if choice else []
        self.ui.modelAboutLabel.setText("\n".join(str(part) for part in parts if part))
        self.ui.modelAboutLabel.setVisible(any(parts))

    @property
    def model(self) -> ModelChoice | None:
        """The model that Refine would use, if a server told of it."""
        server = self.session.server
        wanted = self.session.parameters.model or server.default_model
        found = {choice.name: choice for choice in server.models}
        return found.get(wanted) or found.get(server.default_model)

    # ---- what the user does

    def _on_refine(self, *_args: Any) -> None:
        logic = self.session.logic
        if logic.state == RUNNING:
            logic.stop()
            return
        try:
            roi = self._region()
        except RefineError as error:
            self.session.told.emit(str(error), True)
            return
        self.session.told.emit("", False)
        self.session.refine(self.volume, self.segmentation, self.segments, roi=roi, settings=self._link.node)

    def _region(self) -> Box | None:
        chosen = self.session.parameters
        if chosen.region == "roi":
            return regions.of_roi(self.ui.roiSelector.currentNode(), self.volume)
        if chosen.region == "cursor":
            return regions.around_point(self._cursor(), self.volume, chosen.cursor_mm)
        return None

    def _cursor(self) -> tuple[float, float, float]:
        """Where the mouse is in a slice view; else where the crosshair was set."""
        node = self._scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if node is None:
            raise RefineError(_("There is no crosshair in this scene: refine everywhere, or inside a ROI."))
        ras = [0.0, 0.0, 0.0]
        if not node.GetCursorPositionRAS(ras):
            ras = list(node.GetCrosshairRAS())
        return ras[0], ras[1], ras[2]

    def _on_roi_added(self, node: Any) -> None:
        """A new ROI begins as the middle of the volume."""
        if node is None or self.volume is None:
            return
        bounds = [0.0] * 6
        self.volume.GetRASBounds(bounds)
        low, high = bounds[0::2], bounds[1::2]
        node.CreateDefaultDisplayNodes()
        node.SetCenter([(a + b) / 2 for a, b in zip(low, high, strict=True)])
        node.SetSize([(b - a) / 2 for a, b in zip(low, high, strict=True)])

    def _on_parameter(self, *_args: Any) -> None:
        ui, chosen = self.ui, self.session.parameters
        chosen.all_segments = bool(ui.allSegmentsBox.checked)
        chosen.steps = int(ui.stepsSpinBox.value)
        chosen.region = REGIONS[ui.regionComboBox.currentIndex]
        chosen.cursor_mm = float(ui.cursorSpinBox.value)
        if self.session.server.models:
            chosen.model = str(ui.modelComboBox.itemData(ui.modelComboBox.currentIndex) or "")
        self._describe_model()
        self.session.changed.emit()

    def _on_chosen(self, *_args: Any) -> None:
        self.session.changed.emit()

    def _on_segmentation(self, *_args: Any) -> None:
        """With a segmentation comes the volume that it was drawn on."""
        if self.segmentation is not None and self.session.logic.state == IDLE:
            volume = self.segmentation.GetNodeReference(self.segmentation.GetReferenceImageGeometryReferenceRole())
            if volume is not None:
                self.ui.volumeSelector.setCurrentNode(volume)
        self.session.changed.emit()

    def _on_step(self, *_args: Any) -> None:
        self.session.logic.show_step(int(self.ui.stepSlider.value))

    def _on_changes(self, *_args: Any) -> None:
        self.session.parameters.show_changes = bool(self.ui.changesBox.checked)
        self.session.logic.set_show_changes(bool(self.ui.changesBox.checked))

    def _on_undo(self, *_args: Any) -> None:
        if not self.session.logic.undo():
            self.session.told.emit(_("There is nothing to undo."), False)

    def _on_redo(self, *_args: Any) -> None:
        if not self.session.logic.redo():
            self.session.told.emit(_("There is nothing to redo."), False)

    def _on_noted(self, noted: Noted) -> None:
        self._note = noted.text
        self.ui.progressBar.setFormat(noted.text)
        self.ui.progressBar.setValue(round(1000 * (noted.fraction or 0.0)))


def in_words(progress: Progress) -> str:
    """What a step changes: 'ventricle: 120 voxels added, 8 removed; pieces 3 → 1, holes 0 → 1'."""
    text = _("{segment}: {added} voxels added, {removed} removed").format(
        segment=progress.segment, added=progress.added, removed=progress.removed
    )
    if progress.total > 1:
        text = f"{min(progress.done + 1, progress.total)}/{progress.total} · {text}"
    if progress.step == progress.steps > 0 and not progress.added and not progress.removed:
        return _("{text}; repair a place all the same with Region or the brush").format(text=text)
    before, now = progress.before, progress.now
    if before is None or now is None:
        return text
    names = (_("pieces"), _("holes"), _("cavities"))
    counts = [f"{n} {a} → {b}" for n, a, b in zip(names, before, now, strict=False) if n != _("cavities") or a or b]
    return f"{text}; {', '.join(counts)}"


def show_in_views(volume: Any) -> None:
    """Show a volume in the slice views, where there are any."""
    import slicer

    if volume is not None and hasattr(getattr(slicer, "app", None), "layoutManager") and slicer.app.layoutManager():
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
