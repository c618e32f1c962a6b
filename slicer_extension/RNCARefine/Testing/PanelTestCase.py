"""The panel inside Slicer: run by RNCARefineTest, see docs/how-to/slicer-testing.md.

Refinements need somebody who computes: the server whose address the environment variable RNCA_TEST_SERVER holds, or the
package rnca in Slicer's Python. Where there is neither, those tests are skipped.
"""

import os
import time
import unittest

import slicer


class Memory(dict):
    """Settings that are forgotten."""

    def value(self, key, default=None):
        return self.get(key, default)

    def setValue(self, key, value):
        self[key] = value


class PanelTestCase(unittest.TestCase):
    """Each test has a panel of its own over Slicer's scene with the module's sample in it."""

    def setUp(self):
        from pathlib import Path

        from RNCARefineLib import samples
        from RNCARefineLib.panel import Panel

        slicer.mrmlScene.Clear(0)
        self.volume, self.segmentation = samples.load()
        self.segment = self.segmentation.GetSegmentation().GetNthSegmentID(0)
        self.root = slicer.util.loadUI(str(Path(__file__).parents[1] / "Resources" / "UI" / "RNCARefine.ui"))
        ui = slicer.util.childWidgetVariables(self.root)
        self.panel = Panel(self.root, ui, slicer.mrmlScene, Memory(), lambda _question: False)
        self.ui = ui

    def tearDown(self):
        self.panel.close()
        self.root.deleteLater()
        slicer.mrmlScene.Clear(0)

    def settle(self, seconds=300):
        """Let Slicer work until nothing is waited for."""
        end = time.monotonic() + seconds
        while self.panel.session.interval == 15:
            self.assertLess(time.monotonic(), end, "it does not end")
            slicer.app.processEvents()
            time.sleep(0.002)

    def connect(self):
        """To whoever computes."""
        from RNCARefineLib import local

        server = os.environ.get("RNCA_TEST_SERVER", "")
        if not server and not local.installed():
            self.skipTest("set RNCA_TEST_SERVER to a server's address, or install rnca")
        self.ui.placeComboBox.setCurrentIndex(0 if server else 1)
        self.ui.serverEdit.setText(server)
        self.ui.connectButton.click()
        self.settle()
        self.assertTrue(self.panel.session.server.connected, self.ui.messageLabel.text)

    def mask(self):
        """The segment, on the volume's grid."""
        from RNCARefineLib.boxes import whole
        from RNCARefineLib.nodes import image_of
        from RNCARefineLib.segments import read_box

        return read_box(self.segmentation, self.segment, self.volume, whole(image_of(self.volume).shape))

    def test_sample_is_chosen_and_refine_is_offered(self):
        self.assertEqual(self.panel.refine.volume.GetName(), "rNCA broken ring")
        self.assertTrue(self.ui.refineButton.enabled)
        self.assertIn("not a medical device", self.ui.noticeLabel.text)

    def test_wrong_address_is_told_in_the_panel(self):
        self.ui.serverEdit.setText("http://127.0.0.1:9")
        self.ui.connectButton.click()
        self.settle()
        self.assertIn("There is no connection", self.ui.messageLabel.text)

    def test_refine_accept_undo(self):
        self.connect()
        before = self.mask()
        self.ui.refineButton.click()
        self.settle()
        self.assertTrue((self.mask() == before).all())
        self.assertTrue(self.ui.acceptButton.enabled, self.ui.messageLabel.text)
        self.ui.acceptButton.click()
        self.assertTrue((self.mask() != before).any())
        self.ui.undoButton.click()
        self.assertTrue((self.mask() == before).all())

    def test_stop_and_discard_leave_the_segment_and_the_scene(self):
        self.connect()
        before, nodes = self.mask(), slicer.mrmlScene.GetNumberOfNodes()
        self.ui.stepsSpinBox.setValue(500)
        self.ui.refineButton.click()
        end = time.monotonic() + 300
        while not self.panel.session.logic.last_step and time.monotonic() < end:
            slicer.app.processEvents()
        self.ui.refineButton.click()
        self.settle()
        self.ui.discardButton.click()
        self.assertTrue((self.mask() == before).all())
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), nodes)

    def test_scene_can_be_closed_while_it_runs(self):
        self.connect()
        self.ui.refineButton.click()
        slicer.mrmlScene.Clear(0)
        self.settle()
        self.assertEqual(self.panel.session.logic.state, "idle")


class EffectTestCase(unittest.TestCase):
    """The effect in a real Segment Editor; only desktop Slicer has one."""

    def test_effect_is_registered_and_can_be_chosen(self):
        if not hasattr(slicer, "qMRMLSegmentEditorWidget"):
            self.skipTest("there is no Segment Editor here")
        from RNCARefineLib import samples

        slicer.mrmlScene.Clear(0)
        volume, segmentation = samples.load()
        editor = slicer.qMRMLSegmentEditorWidget()
        editor.setMRMLScene(slicer.mrmlScene)
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
        editor.setMRMLSegmentEditorNode(node)
        editor.setSegmentationNode(segmentation)
        editor.setSourceVolumeNode(volume)
        editor.setActiveEffectByName("rNCA Refine")
        effect = editor.activeEffect()
        self.assertIsNotNone(effect)
        self.assertTrue(effect.self().panel.refine_button.enabled)
        editor.setActiveEffect(None)
        slicer.mrmlScene.Clear(0)
