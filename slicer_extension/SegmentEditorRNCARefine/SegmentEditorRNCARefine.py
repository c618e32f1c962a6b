"""Hidden module that registers the Segment Editor effect "rNCA Refine", as Slicer's own effects of extensions do."""

from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import ScriptedLoadableModule


class SegmentEditorRNCARefine(ScriptedLoadableModule):
    """What Slicer knows of the module; it has no window of its own."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "SegmentEditorRNCARefine"
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations", "RNCARefine"]
        self.parent.contributors = ["rNCA Refine contributors"]
        self.parent.hidden = True
        self.parent.helpText = _("This hidden module registers the Segment Editor effect rNCA Refine.")
        self.parent.acknowledgementText = _("See the module rNCA Refine.")
        slicer.app.startupCompleted.connect(self.register_effect)

    def register_effect(self):
        """Make the effect known to every Segment Editor."""
        import qSlicerSegmentationsEditorEffectsPythonQt as effects

        effect = effects.qSlicerSegmentEditorScriptedEffect(None)
        path = Path(__file__).parent / "SegmentEditorRNCARefineLib" / "SegmentEditorEffect.py"
        effect.setPythonSource(path.as_posix())
        effect.self().register()
