"""3D Slicer's module "rNCA Refine": a thin shell over RNCARefineLib, which can be tested without Slicer's window."""

from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

HELP = "docs/how-to/slicer.md"
PAPER = "https://arxiv.org/abs/2512.13397"


class RNCARefine(ScriptedLoadableModule):
    """What Slicer knows of the module before it is opened."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("rNCA Refine")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations", "SegmentEditor"]
        self.parent.contributors = ["rNCA Refine contributors"]
        self.parent.helpText = _(
            "Repairs a broken segment: a neural cellular automaton that looks at the image reconnects what is broken,"
            " fills what is missing and takes away what floats, and you watch it happen, stop it, keep it or not."
            "<p><b>For research use, not a medical device.</b></p>"
            "<p>In three minutes: start a server on this computer with <code>rnca serve --studies FOLDER</code>, or"
            " choose <i>This computer</i> under Server. Load <i>rNCA broken ring</i> from the module Sample Data."
            " Click <b>Refine</b>, watch the preview, move the slider back and forth, and click <b>Accept</b>."
            " The whole tutorial is {tutorial} of the project's documentation.</p>"
        ).format(tutorial=f"<code>{HELP}</code>")
        self.parent.acknowledgementText = _(
            "The method is that of M. Silbernagel, A. Alonso, J. Petersen, B. Ibragimov, M. de Bruijne and M. K."
            ' Wyburd: <a href="{paper}">rNCA: Self-Repairing Segmentation Masks</a>, arXiv:2512.13397, 2025.'
            " Please cite it."
        ).format(paper=PAPER)
        slicer.app.startupCompleted.connect(register_sample_data)


def register_sample_data():
    """Offer the module's broken ring in the module Sample Data; it comes with the module, nothing is downloaded."""
    from RNCARefineLib import samples

    samples.register(str(Path(__file__).parent / "Resources" / "Icons" / "RNCARefine.png"))


class RNCARefineWidget(ScriptedLoadableModuleWidget):
    """The module's window, which RNCARefineLib.panel fills."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        self.panel = None

    def setup(self):
        """The module is opened for the first time."""
        from RNCARefineLib.panel import Panel

        ScriptedLoadableModuleWidget.setup(self)
        root = slicer.util.loadUI(self.resourcePath("UI/RNCARefine.ui"))
        self.layout.addWidget(root)
        self.panel = Panel(root, slicer.util.childWidgetVariables(root), slicer.mrmlScene)

    def enter(self):
        """The module is shown."""
        self.panel.enter()

    def exit(self):
        """Another module is shown."""
        self.panel.exit()

    def cleanup(self):
        """Slicer ends, or the module is loaded again."""
        if self.panel is not None:
            self.panel.close()
            self.panel = None


class RNCARefineTest(ScriptedLoadableModuleTest):
    """Runs Testing/: see docs/how-to/slicer-testing.md for what it needs."""

    def setUp(self):
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear(0)

    def runTest(self):
        """Run every test of the module, and fail if one does."""
        import sys
        import unittest

        self.setUp()
        folder = Path(__file__).parent / "Testing"
        found = unittest.defaultTestLoader.discover(str(folder), "*TestCase.py", str(folder))
        result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(found)
        if not result.wasSuccessful():
            raise AssertionError(f"{len(result.failures) + len(result.errors)} tests failed: see the Python console")
        self.delayDisplay(f"{result.testsRun} tests passed, {len(result.skipped)} skipped")
