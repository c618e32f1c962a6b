"""The Segment Editor effect "rNCA Refine": one click for the current segment, or a brush where it is to be repaired.

The options and what they do, over a `Session`; the effect's own file only hands Slicer's calls on. Server, model and
consent are those that were chosen in the module rNCA Refine.
"""

from typing import Any

import qt

from .brush import Brush, Point, reachable
from .errors import RefineError
from .logic import IDLE, REVIEW, RUNNING
from .nodes import image_of
from .panel import ERROR_STYLE, ask_user
from .panel_refine import in_words
from .parameters import Settings
from .preview import Preview
from .request import Noted
from .session import Ask, Session
from .translate import _

BRUSH, RADIUS, AT_ONCE = "Brush", "BrushRadiusMm", "BrushAppliesAtOnce"
"""The effect's parameters in the Segment Editor's parameter node."""
DEFAULTS = {BRUSH: 0, RADIUS: 8.0, AT_ONCE: 1}

HELP = _(
    "Repairs the selected segment: a neural cellular automaton that looks at the image reconnects what is broken and"
    " takes away what floats. Refine shows a preview; Apply writes it, Cancel takes it away. With the brush, paint in a"
    " slice view: only what you painted over is repaired. Server and model are chosen in the module rNCA Refine."
    " For research use, not a medical device."
)


class EditorStates:
    """Undo states of the Segment Editor that the effect belongs to; its own buttons go back."""

    def __init__(self, effect: Any) -> None:
        self._effect = effect

    def save(self, segmentation: Any) -> None:
        """See `Undo`."""
        self._effect.saveStateForUndo()

    def undo(self) -> bool:
        """See `Undo`."""
        return False

    def redo(self) -> bool:
        """See `Undo`."""
        return False


def token_of_module() -> str:
    """Of the login in the module rNCA Refine, where that is open; '' without one."""
    import slicer

    panel = getattr(getattr(slicer.modules, "RNCARefineWidget", None), "panel", None)
    client = panel.session.server.client if panel is not None else None
    return str(client.token) if client is not None else ""


class EffectPanel:
    """The effect's options.

    Args:
        effect: Slicer's qSlicerSegmentEditorScriptedEffect, which gives parameters, nodes and undo.
        scene: the vtkMRMLScene.
        settings, ask: as for `Panel`.
    """

    def __init__(self, effect: Any, scene: Any, settings: Settings | None = None, ask: Ask | None = None) -> None:
        self._effect, self._scene = effect, scene
        self._settings, self._ask = settings, ask
        self.session: Session | None = None
        self._brush: Brush | None = None
        self._mark: Preview | None = None
        self._at_once = False
        self.timer = qt.QTimer()
        self.timer.timeout.connect(self._tick)
        self._make_widgets()

    def _make_widgets(self) -> None:
        self.brush_box = qt.QCheckBox(_("Brush: repair only where I paint"))
        self.brush_box.setToolTip(_("Paint with the left mouse button in a slice view; the repair begins on release."))
        self.radius_box = qt.QDoubleSpinBox()
        self.radius_box.setRange(0.1, 200.0)
        self.radius_box.setDecimals(1)
        self.radius_box.setSuffix(" mm")
        self.radius_box.setToolTip(_("Radius of the brush. It is as thick as one slice."))
        self.at_once_box = qt.QCheckBox(_("Apply what the brush repaired at once"))
        self.at_once_box.setToolTip(_("One undo state a stroke. Otherwise each stroke waits for Apply or Cancel."))
        self.refine_button = qt.QPushButton(_("Refine"))
        self.refine_button.setToolTip(_("Refine the selected segment and watch; while it runs: stop it."))
        self.apply_button = qt.QPushButton(_("Apply"))
        self.apply_button.setToolTip(_("Write the preview into the segment: one undo state, inside the editable area."))
        self.cancel_button = qt.QPushButton(_("Cancel"))
        self.cancel_button.setToolTip(_("Take the preview away; the segment is as it was."))
        self.progress_bar = qt.QProgressBar()
        self.progress_bar.setMaximum(1000)
        self.progress_bar.setToolTip(_("The step that is shown, of how many."))
        self.message = qt.QLabel()
        self.message.setWordWrap(True)
        self.message.setTextFormat(qt.Qt.PlainText)
        buttons = qt.QHBoxLayout()
        for button in (self.refine_button, self.apply_button, self.cancel_button):
            buttons.addWidget(button)
        self._effect.addOptionsWidget(self.brush_box)
        self._effect.addLabeledOptionsWidget(_("Radius:"), self.radius_box)
        self._effect.addOptionsWidget(self.at_once_box)
        self._effect.addOptionsWidget(buttons)
        self._effect.addOptionsWidget(self.progress_bar)
        self._effect.addOptionsWidget(self.message)
        self.brush_box.toggled.connect(self.write_parameters)
        self.at_once_box.toggled.connect(self.write_parameters)
        self.radius_box.valueChanged.connect(self.write_parameters)
        self.refine_button.clicked.connect(self._on_refine)
        self.apply_button.clicked.connect(self._on_apply)
        self.cancel_button.clicked.connect(self._on_cancel)

    # ---- what Slicer calls

    def activate(self) -> None:
        """The effect was chosen."""
        if self.session is None or self.session.closed:
            settings = self._settings if self._settings is not None else qt.QSettings()
            self.session = Session(self._scene, settings, self._ask or ask_user, EditorStates(self._effect))
            self.session.changed.connect(self.update)
            self.session.told.connect(self.tell)
            self.session.logic.noted.connect(self._on_noted)
            self.session.token = token_of_module
        self.session.reload()
        self.tell("", False)
        self.update()

    def deactivate(self) -> None:
        """Another effect was chosen, or the Segment Editor was left: a preview goes, nothing runs on."""
        self._end_stroke()
        if self.session is not None and self.session.logic.state != IDLE:
            self.session.logic.discard()

    def close(self) -> None:
        """The effect ends."""
        self.deactivate()
        self.timer.stop()
        if self.session is not None:
            self.session.changed.disconnect(self.update)
            self.session.close()
            self.session = None

    def read_parameters(self) -> None:
        """Show what the parameter node says."""
        effect = self._effect
        for widget, value in (
            (self.brush_box, bool(effect.integerParameter(BRUSH))),
            (self.at_once_box, bool(effect.integerParameter(AT_ONCE))),
        ):
            blocked = widget.blockSignals(True)
            widget.setChecked(value)
            widget.blockSignals(blocked)
        blocked = self.radius_box.blockSignals(True)
        self.radius_box.setValue(effect.doubleParameter(RADIUS))
        self.radius_box.blockSignals(blocked)

    def write_parameters(self, *_args: Any) -> None:
        """Keep what was chosen in the parameter node."""
        self._effect.setParameter(BRUSH, int(self.brush_box.checked))
        self._effect.setParameter(AT_ONCE, int(self.at_once_box.checked))
        self._effect.setParameter(RADIUS, float(self.radius_box.value))
        self.update()

    @property
    def paints(self) -> bool:
        """Whether the mouse paints now."""
        return bool(self.brush_box.checked) and self.session is not None and self.session.logic.state == IDLE

    def press(self, ras: Point, normal: Point | None) -> bool:
        """The mouse button goes down in a slice view; whether a stroke begins."""
        volume = self._effect.parameterSetNode().GetSourceVolumeNode()
        if not self.paints:
            return False
        try:
            self._brush = Brush(volume, float(self.radius_box.value))
        except RefineError as error:
            self.tell(str(error), True)
            return False
        self._mark = Preview(self._scene, volume, [])
        self.move(ras, normal)
        return True

    def move(self, ras: Point, normal: Point | None) -> bool:
        """The mouse moves; whether it paints."""
        if self._brush is None or self._mark is None:
            return False
        self._brush.paint(ras, normal)
        if self._brush.painted is not None:
            self._mark.show_unsure(*self._brush.painted)
        return True

    def release(self) -> bool:
        """The mouse button goes up: repair what was painted over. Whether there was a stroke."""
        brush = self._brush
        self._end_stroke()
        if brush is None:
            return False
        volume = self._effect.parameterSetNode().GetSourceVolumeNode()
        try:
            if brush.painted is None:
                raise RefineError(_("Nothing of the image was painted: paint over what is to be repaired."))
            region = reachable(brush.painted, image_of(volume).shape)
        except RefineError as error:
            self.tell(str(error), True)
            return True
        self._refine(bool(self.at_once_box.checked), roi=region, within=brush.painted)
        return True

    # ---- what is shown

    def update(self) -> None:
        """Show what is; and see that the timer runs as long as there is something to wait for."""
        session = self.session
        if session is None:
            return
        logic = session.logic
        if logic.state == REVIEW and self._at_once:
            self._at_once = False
            logic.accept()
            return  # accept tells that it changed, which comes here again
        state, progress = logic.state, logic.progress()
        self.refine_button.setText(_("Stop") if state == RUNNING else _("Refine"))
        self.refine_button.setEnabled(state == RUNNING or (state == IDLE and not session.server.tasks.busy))
        self.apply_button.setEnabled(state == REVIEW)
        self.cancel_button.setEnabled(state != IDLE)
        self.radius_box.setEnabled(bool(self.brush_box.checked))
        self.at_once_box.setEnabled(bool(self.brush_box.checked))
        if progress is None:
            self.progress_bar.setValue(0)
            self.progress_bar.setFormat("")
        elif progress.step:
            self.progress_bar.setValue(round(1000 * progress.fraction))
            self.progress_bar.setFormat(_("Step {step} of {steps}").format(step=progress.step, steps=progress.steps))
            self.tell(in_words(progress), False)
        interval = session.interval
        if interval is None:
            self.timer.stop()
        elif not self.timer.isActive() or self.timer.interval != interval:
            self.timer.start(interval)

    def tell(self, text: str, is_error: bool) -> None:
        """A sentence for the user, below the buttons."""
        self.message.setStyleSheet(ERROR_STYLE if is_error else "")
        self.message.setText(text)

    # ---- inside

    def _refine(self, at_once: bool, **more: Any) -> None:
        node, session = self._effect.parameterSetNode(), self.session
        segment = node.GetSelectedSegmentID()
        if session is None:
            return
        self._at_once = at_once
        self.tell("", False)
        session.refine(
            node.GetSourceVolumeNode(),
            node.GetSegmentationNode(),
            [segment] if segment else [],
            settings=node,
            **more,
        )

    def _on_refine(self, *_args: Any) -> None:
        if self.session is not None and self.session.logic.state == RUNNING:
            self.session.logic.stop()
        else:
            self._refine(False)

    def _on_apply(self, *_args: Any) -> None:
        if self.session is not None:
            self.session.logic.accept()

    def _on_cancel(self, *_args: Any) -> None:
        if self.session is not None:
            self.session.logic.discard()

    def _on_noted(self, noted: Noted) -> None:
        self.progress_bar.setFormat(noted.text)

    def _end_stroke(self) -> None:
        self._brush = None
        if self._mark is not None:
            self._mark.remove()
            self._mark = None

    def _tick(self) -> None:
        if self.session is not None:
            self.session.tick()
            if self.session is not None and self.session.interval != self.timer.interval:
                self.update()
