"""Slicer's side of the effect "rNCA Refine": hands its calls on to RNCARefineLib.effect, which can be tested alone."""

from pathlib import Path

import qt
import slicer
import vtk
from SegmentEditorEffects import AbstractScriptedSegmentEditorEffect
from slicer.i18n import tr as _


class SegmentEditorEffect(AbstractScriptedSegmentEditorEffect):
    """Made once to be registered, and once for each Segment Editor (`clone`)."""

    def __init__(self, scriptedEffect):
        scriptedEffect.name = "rNCA Refine"  # other modules find the effect by it: not translated
        scriptedEffect.title = _("rNCA Refine")
        scriptedEffect.perSegment = True
        scriptedEffect.requireSegments = True
        AbstractScriptedSegmentEditorEffect.__init__(self, scriptedEffect)
        self.panel = None

    def clone(self):
        """Another one, for another Segment Editor."""
        import qSlicerSegmentationsEditorEffectsPythonQt as effects

        cloned = effects.qSlicerSegmentEditorScriptedEffect(None)
        cloned.setPythonSource(Path(__file__).as_posix())
        return cloned

    def icon(self):
        """Shown on the effect's button."""
        path = Path(__file__).parent / "SegmentEditorEffect.png"
        return qt.QIcon(str(path)) if path.exists() else qt.QIcon()

    def helpText(self):
        """Shown above the options."""
        from RNCARefineLib.effect import HELP

        return HELP

    def setupOptionsFrame(self):
        """Make the options, once."""
        from RNCARefineLib.effect import EffectPanel

        self.panel = EffectPanel(self.scriptedEffect, slicer.mrmlScene)

    def activate(self):
        """The effect was chosen."""
        self.panel.activate()

    def deactivate(self):
        """Another effect was chosen."""
        if self.panel is not None:
            self.panel.deactivate()

    def cleanup(self):
        """The Segment Editor ends."""
        if self.panel is not None:
            self.panel.close()
            self.panel = None

    def setMRMLDefaults(self):
        """Values of parameters that were never set."""
        from RNCARefineLib.effect import DEFAULTS

        for name, value in DEFAULTS.items():
            self.scriptedEffect.setParameterDefault(name, value)

    def updateGUIFromMRML(self):
        """Show the parameters."""
        if self.panel is not None:
            self.panel.read_parameters()

    def updateMRMLFromGUI(self):
        """Keep the parameters."""
        if self.panel is not None:
            self.panel.write_parameters()

    def createCursor(self, widget):
        """The usual cursor."""
        return slicer.util.mainWindow().cursor

    def processInteractionEvents(self, callerInteractor, eventId, viewWidget):
        """The mouse in a view; True keeps the event from others."""
        if self.panel is None or viewWidget.className() != "qMRMLSliceWidget":
            return False
        if eventId == vtk.vtkCommand.LeftButtonReleaseEvent:
            return self.panel.release()
        keys = callerInteractor.GetShiftKey() or callerInteractor.GetControlKey() or callerInteractor.GetAltKey()
        pressed = eventId == vtk.vtkCommand.LeftButtonPressEvent and not keys
        if not pressed and eventId != vtk.vtkCommand.MouseMoveEvent:
            return False
        ras = tuple(self.xyToRas(callerInteractor.GetEventPosition(), viewWidget))
        matrix = viewWidget.sliceLogic().GetSliceNode().GetSliceToRAS()
        normal = tuple(matrix.GetElement(row, 2) for row in range(3))
        return self.panel.press(ras, normal) if pressed else self.panel.move(ras, normal)
