"""The module's panel, clicked: the real window file and MRML scene, against a live server with a model that repairs."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs the extra `server`")
pytest.importorskip("slicer", reason="needs the extra `view`, which has Slicer's classes", exc_type=ImportError)
pytest.importorskip("PySide6.QtWidgets", reason="needs PySide6 and the libraries that it opens", exc_type=ImportError)

import openid
from little import load
from serving import Server, make_studies, mask_file, running
from slicer_standins.application import slicer_running
from workbench import BROKEN, OTHER, RING, Case, Relay, names_of, our_threads, until

IDLE, RUNNING, REVIEW = "idle", "running", "review"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    studies = make_studies(tmp_path_factory.mktemp("panel") / "studies", 3)
    with running(studies, conf={"model": "filler", "workers": 1, "waiting": 1}) as server:
        yield server


@dataclass
class Bench:
    """A panel over a scene with a case, and the questions that it asked."""

    scene: Any
    settings: Any
    panel: Any = None
    case: Any = None
    answer: bool = True
    asked: list[str] = field(default_factory=list)

    def open(self) -> Any:
        """Open the module, as Slicer does."""
        import slicer.util

        from RNCARefineLib.panel import Panel
        from slicer_standins.application import MODULE

        root = slicer.util.loadUI(str(MODULE / "Resources" / "UI" / "RNCARefine.ui"))
        self.panel = Panel(root, slicer.util.childWidgetVariables(root), self.scene, self.settings, self.ask)
        return self.panel

    def ask(self, text: str) -> bool:
        self.asked.append(text)
        return self.answer

    def connect(self, url: str, token: str = "") -> None:
        self.ui.serverEdit.setText(url)
        self.ui.tokenEdit.setText(token)
        self.ui.connectButton.click()
        self.settle()

    def settle(self) -> None:
        """Until nothing runs and nothing is waited for."""
        until(lambda: self.panel.session.interval != 15)

    def refine(self) -> None:
        """Click Refine and see it through."""
        self.ui.refineButton.click()
        self.settle()

    @property
    def ui(self) -> Any:
        return self.panel.ui

    @property
    def state(self) -> str:
        return str(self.panel.session.logic.state)

    @property
    def said(self) -> str:
        return str(self.ui.messageLabel.text)

    @property
    def is_error(self) -> bool:
        return "color" in self.ui.messageLabel.styleSheet


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Bench]:
    """An open panel, not connected to anything, and a scene without a case."""
    with slicer_running() as scene:
        import qt

        bench = Bench(scene, qt.QSettings(str(tmp_path / "settings.ini"), qt.QSettings.IniFormat))
        bench.open()
        yield bench
        bench.panel.close()
        until(lambda: not our_threads())


@pytest.fixture
def bench(empty: Bench, server: Server) -> Bench:
    """A connected panel with a case."""
    server.idle()
    empty.case = Case(empty.scene)
    empty.connect(server.url)
    assert empty.panel.session.server.connected, empty.said
    return empty


# --- one click ------------------------------------------------------------------------------------------------------


def test_click_previews_over_the_untouched_original_and_accept_writes_it(bench: Bench) -> None:
    before = names_of(bench.scene)
    assert bench.ui.refineButton.text == "Refine" and bench.ui.refineButton.enabled
    bench.ui.refineButton.click()
    assert bench.state == RUNNING and bench.ui.refineButton.text == "Stop"
    bench.settle()
    assert bench.state == REVIEW and bench.case.untouched()
    assert (bench.case.preview(bench.panel.session.logic.preview_node) == RING).all()
    assert bench.ui.progressBar.format == "Step 24 of 24"
    words = bench.ui.figuresLabel.text
    assert f"{(RING & ~BROKEN).sum()} voxels added, {(BROKEN & ~RING).sum()} removed" in words
    assert "pieces 2 → 1, holes 0 → 1" in words
    bench.ui.acceptButton.click()
    assert bench.state == IDLE
    assert (bench.case.mask() == RING).all() and (bench.case.mask(bench.case.other) == OTHER).all()
    assert names_of(bench.scene) == before


def test_discard_leaves_everything_as_it_was(bench: Bench) -> None:
    before = names_of(bench.scene)
    for _ in range(3):
        bench.refine()
        bench.ui.discardButton.click()
    assert bench.state == IDLE and bench.case.untouched()
    assert names_of(bench.scene) == before


def test_undo_and_redo_are_exact(bench: Bench) -> None:
    bench.ui.undoButton.click()
    assert bench.said == "There is nothing to undo."
    bench.refine()
    bench.ui.acceptButton.click()
    bench.ui.undoButton.click()
    assert bench.case.untouched()
    bench.ui.redoButton.click()
    assert (bench.case.mask() == RING).all() and (bench.case.mask(bench.case.other) == OTHER).all()


def test_stop_keeps_what_there_is_for_review(bench: Bench) -> None:
    bench.ui.stepsSpinBox.setValue(1000)
    bench.ui.refineButton.click()
    until(lambda: bench.panel.session.logic.last_step > 3)
    bench.ui.refineButton.click()  # it says Stop
    bench.settle()
    assert bench.state == REVIEW and 3 < bench.panel.session.logic.last_step < 1000
    shown = bench.case.preview(bench.panel.session.logic.preview_node)
    bench.ui.acceptButton.click()
    assert (bench.case.mask() == shown).all()


def test_a_segment_that_is_left_alone_at_the_end_says_how_to_repair_a_place() -> None:
    from RNCARefineLib.logic import Progress
    from RNCARefineLib.panel_refine import in_words

    for step, added, told in ((24, 0, True), (24, 1, False), (23, 0, False), (0, 0, False)):
        words = in_words(Progress("s", step, 24, added, 0, None, None, 0, 1))
        assert words.startswith(f"s: {added} voxels added, 0 removed") and ("with Region or the brush" in words) == told


def test_slider_goes_back_to_steps_and_accept_takes_the_shown_one(bench: Bench) -> None:
    bench.refine()
    logic = bench.panel.session.logic
    assert bench.ui.stepSlider.maximum == bench.ui.stepSlider.value == 24
    bench.ui.stepSlider.setValue(0)
    assert (bench.case.preview(logic.preview_node) == BROKEN).all()
    assert "0 voxels added, 0 removed" in bench.ui.figuresLabel.text
    bench.ui.stepSlider.setValue(3)
    shown = bench.case.preview(logic.preview_node)
    assert (BROKEN & RING).sum() < (shown & RING).sum() < RING.sum()
    assert bench.ui.progressBar.format == "Step 3 of 24"
    bench.ui.acceptButton.click()
    assert (bench.case.mask() == shown).all()


def test_change_overlay_can_be_switched(bench: Bench) -> None:
    bench.refine()
    node = bench.panel.session.logic.preview_node
    assert (bench.case.preview(node, "added") == (RING & ~BROKEN)).all()
    assert node.GetDisplayNode().GetSegmentVisibility("added")
    bench.ui.changesBox.click()
    assert not node.GetDisplayNode().GetSegmentVisibility("added")


def test_all_segments_are_refined_in_turn(bench: Bench) -> None:
    bench.ui.allSegmentsBox.click()
    bench.refine()
    assert bench.ui.figuresLabel.text.startswith("2/2 · other")
    bench.ui.acceptButton.click()
    assert (bench.case.mask() == RING).all()
    assert not bench.case.mask(bench.case.other).any()  # the image shows nothing there, so it fades


def test_nothing_changes_outside_of_a_roi(bench: Bench) -> None:
    bench.ui.regionComboBox.setCurrentIndex(1)
    bench.refine()
    assert bench.is_error and "no region" in bench.said and bench.state == IDLE
    roi = bench.ui.roiSelector.addNode()
    assert min(roi.GetSize()) > 0
    i, j, k = 13, 6, 2  # in the gap
    world = bench.panel.scene and (np.array(_ijk_to_ras(bench.case.volume)) @ [i, j, k, 1.0])[:3]
    roi.SetCenter(list(world))
    roi.SetSize([3.0, 3.0, 20.0])
    bench.refine()
    assert bench.state == REVIEW, bench.said
    bench.ui.acceptButton.click()
    from RNCARefineLib import regions
    from RNCARefineLib.boxes import slices

    inside = np.zeros_like(RING)
    inside[slices(regions.of_roi(roi, bench.case.volume))] = True
    changed = bench.case.mask() ^ BROKEN
    assert changed.any() and not (changed & ~inside).any()


def test_box_around_the_crosshair_limits_the_repair(bench: Bench) -> None:
    bench.ui.regionComboBox.setCurrentIndex(2)
    bench.ui.cursorSpinBox.setValue(3.0)
    crosshair = bench.scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    crosshair.SetCrosshairRAS(*(np.array(_ijk_to_ras(bench.case.volume)) @ [1, 1, 2, 1.0])[:3])  # on the loose piece
    bench.refine()
    assert bench.state == REVIEW, bench.said
    bench.ui.acceptButton.click()
    changed = bench.case.mask() ^ BROKEN
    assert changed[2, 1, 1] and not changed[:, 6:].any()


def _ijk_to_ras(volume: Any) -> Any:
    from RNCARefineLib import nodes

    return nodes.ijk_to_ras(volume)


def test_panel_follows_the_segment_editor(bench: Bench) -> None:
    import slicer

    second = Case(bench.scene, "second")
    editor = slicer.vtkMRMLSegmentEditorNode()
    editor.SetSingletonTag("SegmentEditor")
    bench.scene.AddNode(editor)
    editor.SetAndObserveSegmentationNode(second.segmentation)
    editor.SetAndObserveSourceVolumeNode(second.volume)
    editor.SetSelectedSegmentID(second.other)
    refine = bench.panel.refine
    assert (refine.volume, refine.segmentation, refine.segment) == (second.volume, second.segmentation, second.other)


def test_shortcuts_work_while_the_module_is_shown(bench: Bench) -> None:
    import qt

    shortcuts = {s.key.toString(): s for s in bench.panel._shortcuts}
    assert not any(s.enabled for s in shortcuts.values())
    bench.panel.enter()
    assert all(s.enabled for s in shortcuts.values())
    bench.settle()
    shortcuts["Ctrl+Return"].activated.emit()
    assert bench.state == RUNNING
    bench.settle()
    shortcuts["Ctrl+Shift+Return"].activated.emit()
    assert bench.state == IDLE and (bench.case.mask() == RING).all()
    bench.panel.exit()
    assert not any(s.enabled for s in shortcuts.values())
    assert "Ctrl+Return" in bench.ui.refineButton.toolTip and qt.QKeySequence("Ctrl+Return")


def test_everything_that_can_be_used_has_a_tooltip(empty: Bench) -> None:
    import qt

    from slicer_standins import widgets

    kinds = (qt.QAbstractButton, qt.QComboBox, qt.QLineEdit, qt.QAbstractSpinBox, qt.QSlider, *widgets.ALL)
    found = [w for name, w in vars(empty.ui).items() if isinstance(w, kinds) and not name.startswith("qt_")]
    assert len(found) > 25
    assert [w.name for w in found if not w.toolTip and w.name != "RNCARefine"] == []
    assert "not a medical device" in empty.ui.noticeLabel.text


# --- who may see the image ------------------------------------------------------------------------------------------


def test_choices_are_remembered_and_passwords_are_not(empty: Bench) -> None:
    ui = empty.ui
    ui.serverEdit.setText("https://rnca.example.org")
    ui.tokenEdit.setText("secret-token")
    ui.passwordEdit.setText("secret-password")
    ui.certificatesEdit.setCurrentPath("ours.pem")
    ui.stepsSpinBox.setValue(48)
    ui.regionComboBox.setCurrentIndex(2)
    ui.cursorSpinBox.setValue(25.0)
    ui.allSegmentsBox.click()
    ui.changesBox.click()
    empty.panel.close()
    empty.settings.sync()
    assert "secret" not in Path(empty.settings.fileName()).read_text()
    ui = empty.open().ui
    assert (ui.serverEdit.text, ui.certificatesEdit.currentPath) == ("https://rnca.example.org", "ours.pem")
    assert (ui.stepsSpinBox.value, ui.regionComboBox.currentIndex, ui.cursorSpinBox.value) == (48, 2, 25.0)
    assert ui.allSegmentsBox.checked and not ui.changesBox.checked
    assert (ui.tokenEdit.text, ui.passwordEdit.text) == ("", "")


def test_image_leaves_the_computer_only_after_a_yes_which_is_remembered(
    empty: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.1")
    studies = make_studies(tmp_path / "studies", 1)
    empty.case = Case(empty.scene)
    with openid.issuer(False) as realm:
        env = {"MONAI_LABEL_AUTH_ENABLE": "true", "MONAI_LABEL_AUTH_REALM_URI": realm}
        with running(studies, conf={"model": "filler"}, env=env) as guarded:
            url = guarded.url.replace("127.0.0.1", "127.1")  # this computer, by a name that does not say so
            empty.connect(url)
            assert empty.is_error and not empty.ui.serverSection.collapsed  # 401: a login is needed
            empty.connect(url, openid.token("admin")["Authorization"].split()[1])
            assert empty.panel.session.server.connected, empty.said

            empty.answer = False
            empty.refine()
            assert len(empty.asked) == 1 and "another computer" in empty.asked[0]
            assert (empty.state, empty.said) == (IDLE, "Nothing was sent.")
            assert not any(line["what"] == "refine" for line in guarded.audit())

            empty.answer = True
            empty.refine()
            assert (empty.state, len(empty.asked)) == (REVIEW, 2)
            empty.ui.discardButton.click()
            empty.refine()
            empty.ui.acceptButton.click()
            assert len(empty.asked) == 2

            empty.answer = False
            empty.ui.submitButton.click()  # storing is another question
            empty.settle()
            assert len(empty.asked) == 3 and "stored" in empty.asked[2]
            assert not list((studies / "labels" / "final").glob("*.n*"))


def test_no_question_for_this_computer(bench: Bench) -> None:
    bench.refine()
    assert bench.state == REVIEW and bench.asked == []


def test_question_is_a_box_with_yes_and_no(empty: Bench) -> None:
    import qt

    from RNCARefineLib.panel import ask_user

    for name, expected in (("Yes", True), ("No", False)):

        def press(name: str = name) -> None:
            box = qt.QApplication.activeModalWidget()
            box.button(getattr(qt.QMessageBox, name)).click()

        timer = qt.QTimer()
        timer.setSingleShot(True)
        timer.timeout.connect(press)
        timer.start(50)
        assert ask_user("Send it?") is expected


# --- what goes wrong ------------------------------------------------------------------------------------------------


class NotOurs(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>a printer</html>")

    def log_message(self, *_: Any) -> None:
        pass


def test_wrong_addresses_are_told_in_a_sentence(empty: Bench) -> None:
    empty.case = Case(empty.scene)
    printer = HTTPServer(("127.0.0.1", 0), NotOurs)
    Thread(target=printer.serve_forever, daemon=True).start()
    for address, words in (
        ("", "No server is given"),
        ("http://127.0.0.1:9", "check that the server runs"),
        ("ftp://127.0.0.1", "is not an address"),
        (f"http://127.0.0.1:{printer.server_port}", "is not an rNCA server"),
    ):
        empty.connect(address)
        assert empty.is_error and words in empty.said
        empty.refine()  # connects first, which fails again
        assert empty.is_error and words in empty.said and empty.state == IDLE
    printer.shutdown()
    printer.server_close()
    assert empty.case.untouched()


def test_busy_server_is_told(bench: Bench, server: Server) -> None:
    large = mask_file(server.studies.parent, "large.nrrd", np.ones((48, 96, 96), np.uint8))
    parts = {part: (large.name, large.read_bytes()) for part in ("file", "label")}
    parts["params"] = (None, json.dumps({"steps": 1000}).encode())
    seen = Event()

    def hold() -> None:
        with server.http.stream("POST", "/rnca/refine", files=parts) as lines:
            for _ in lines.iter_lines():
                if seen.is_set():
                    return

    threads = [Thread(target=hold) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: server.status()["refinements"]["taken"] == 2)
    bench.refine()
    seen.set()
    for thread in threads:
        thread.join()
    assert bench.is_error and "busy" in bench.said and bench.state == IDLE
    assert bench.case.untouched()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda block: None if b'"event":"step"' in block else block, "broke off"),
        (lambda block: block.replace(b'"event":"step"', b'"event":"stop"'), "unknown event"),
        (lambda block: block.replace(b'"event":', b'"event";'), "no event"),
        (lambda block: block.replace(b'"delta":"eA', b'"delta":"!!'), "cannot be unpacked"),
    ],
    ids=["gone half-way", "unknown event", "no JSON", "damaged mask"],
)
def test_broken_stream_ends_with_a_sentence_and_the_original(
    bench: Bench, server: Server, spoil: Any, words: str
) -> None:
    relay = Relay(server.url)
    bench.connect(relay.url)
    before = names_of(bench.scene)
    relay.spoil = spoil
    bench.refine()
    relay.close()
    assert bench.is_error and words in bench.said, bench.said
    assert bench.state == IDLE and bench.case.untouched() and names_of(bench.scene) == before
    until(lambda: not our_threads())


@pytest.mark.parametrize("what", ["volume", "segmentation", "scene"])
def test_deleted_while_running_ends_the_refinement(bench: Bench, what: str) -> None:
    bench.ui.stepsSpinBox.setValue(1000)
    bench.ui.refineButton.click()
    until(lambda: bench.panel.session.logic.last_step > 0)
    if what == "scene":
        bench.scene.Clear(0)
    else:
        bench.scene.RemoveNode(getattr(bench.case, what))
        assert bench.is_error and "was removed" in bench.said
        if what == "volume":
            assert (bench.case.segmentation.GetSegmentation().GetNumberOfSegments()) == 2
    assert bench.state == IDLE and bench.panel.session.logic.preview_node is None
    assert bench.scene.GetFirstNodeByName("rNCA preview") is None
    bench.settle()
    until(lambda: not our_threads())


def test_empty_segment_is_told(bench: Bench) -> None:
    bench.case.segmentation.GetSegmentation().AddEmptySegment("nothing", "nothing")
    bench.ui.segmentSelector.setCurrentSegmentID("nothing")
    bench.refine()
    assert bench.is_error and "empty" in bench.said and bench.state == IDLE


def test_panel_closed_while_running_leaves_nothing(bench: Bench) -> None:
    before = names_of(bench.scene)
    bench.ui.stepsSpinBox.setValue(1000)
    bench.ui.refineButton.click()
    until(lambda: bench.panel.session.logic.last_step > 0)
    bench.panel.close()
    assert names_of(bench.scene) == before and bench.case.untouched() and not bench.panel.timer.isActive()
    until(lambda: not our_threads())


# --- corrections and training ---------------------------------------------------------------------------------------


def test_submit_saves_before_refined_and_final(bench: Bench, server: Server) -> None:
    bench.refine()
    bench.ui.acceptButton.click()
    bench.ui.submitButton.click()
    bench.settle()
    assert not bench.is_error and "is saved" in bench.said, bench.said
    image = bench.case.volume.GetAttribute("rNCA.image")
    for tag, expected in (("before", BROKEN), ("refined", RING), ("final", RING)):
        answer = server.http.get("/datastore/label", params={"label": image, "tag": tag})
        assert answer.status_code == 200
        path = server.studies.parent / f"{tag}.nrrd"
        path.write_bytes(answer.content)
        values = load(path)
        assert ((values == 1) == expected).all() and ((values == 2) == OTHER).all()


def test_next_case_is_loaded_and_chosen(bench: Bench) -> None:
    bench.ui.nextButton.click()
    bench.settle()
    refine = bench.panel.refine
    assert refine.volume is not bench.case.volume and refine.volume.GetAttribute("rNCA.image").startswith("ring")
    assert refine.segmentation is not bench.case.segmentation and refine.segments
    assert f"{refine.volume.GetAttribute('rNCA.image')}: 8 pieces" in bench.said or "pieces" in bench.said
    bench.refine()
    assert bench.state == REVIEW, bench.said


def test_training_is_watched_ends_with_the_gate_in_words_and_versions_roll_back(bench: Bench, server: Server) -> None:
    for number in range(3):
        mask = mask_file(server.studies.parent, f"final{number}.nrrd", RING.astype(np.uint8))
        label = {"label": (mask.name, mask.read_bytes())}
        assert server.http.put("/datastore/label", params={"image": f"ring{number}"}, files=label).status_code == 200
    bench.ui.trainButton.click()
    until(lambda: bench.ui.trainButton.text == "Stop training" and bench.ui.trainButton.enabled)
    bench.ui.trainButton.click()
    until(lambda: "was stopped" in bench.ui.gateLabel.text)
    bench.settle()
    until(lambda: bench.ui.trainButton.text == "Train" and bench.ui.connectButton.enabled)

    tiny = {"iterations": 20, "patch": 16, "batch": 2}
    assert server.http.post("/train/rnca_refine", json=tiny).status_code == 200
    bench.connect(server.url)  # somebody else began it
    until(lambda: bench.panel.session.interval is None, 300)
    words = bench.ui.gateLabel.text
    assert "Dice went from" in words, (words, bench.panel.session.server.training)
    versions = server.http.get("/rnca/models").json()["filler"]
    assert bench.ui.versionComboBox.count == len(versions)
    if "is in use" in words:
        assert "1.1.0 (in use)" in bench.ui.versionComboBox.currentText
        bench.ui.versionComboBox.setCurrentIndex(1)
        bench.ui.activateButton.click()
        bench.settle()
        assert bench.ui.versionComboBox.currentText == "1.0.0 (in use)"
    else:
        assert "was not taken" in words and not bench.ui.activateButton.enabled


def test_unsure_voxels_are_marked(bench: Bench) -> None:
    bench.ui.unsureBox.click()
    bench.ui.stepsSpinBox.setValue(4)  # so few that chance decides how far a rollout gets
    bench.refine()
    assert bench.state == REVIEW and not bench.is_error, bench.said
    preview = bench.panel.session.logic.preview_node
    assert preview.GetDisplayNode().GetSegmentVisibility("unsure")
    assert bench.case.preview(preview, "unsure").any()
    bench.ui.unsureBox.click()
    assert not preview.GetDisplayNode().GetSegmentVisibility("unsure")


# --- without a server, and as a module -------------------------------------------------------------------------------


def test_this_computer_refines_without_a_server(empty: Bench) -> None:
    empty.case = Case(empty.scene)
    empty.ui.placeComboBox.setCurrentIndex(1)
    assert empty.ui.installButton.text == "Installed" and not empty.ui.serverEdit.isVisibleTo(empty.panel.root)
    empty.ui.connectButton.click()
    empty.settle()
    assert "this computer" in empty.ui.serverSection.text
    empty.ui.stepsSpinBox.setValue(4)
    empty.refine()
    assert empty.state == REVIEW, empty.said
    assert empty.ui.progressBar.format == "Step 4 of 4" and empty.asked == []
    assert not empty.ui.submitButton.enabled and not empty.ui.nextButton.enabled


def test_install_says_what_it_brings_and_a_no_installs_nothing(
    empty: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from RNCARefineLib import local, panel_server

    chosen = ["", str(tmp_path / "other-1.0.0-py3-none-any.whl"), str(tmp_path / "rnca-0.1.0-py3-none-any.whl")]
    for path in chosen[1:]:
        Path(path).touch()
    monkeypatch.setattr(panel_server, "choose_wheel", lambda: chosen.pop(0))
    monkeypatch.setattr(local, "installed", lambda: False)
    empty.ui.placeComboBox.setCurrentIndex(1)
    assert empty.ui.installButton.enabled and not empty.ui.connectButton.enabled
    empty.answer = False
    empty.ui.installButton.click()
    assert empty.asked == []
    empty.ui.installButton.click()
    assert empty.asked == [] and empty.is_error and "is not the package" in empty.said
    empty.ui.installButton.click()
    assert len(empty.asked) == 1 and "PyTorch" in empty.asked[0]
    assert not empty.panel.session.server.tasks.busy


def test_module_opens_shows_its_sample_and_closes(empty: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import slicer

    from slicer_standins.application import MODULE

    monkeypatch.syspath_prepend(str(MODULE))
    import RNCARefine as module
    from RNCARefineLib import samples

    class Parent:
        """What Slicer gives a module to describe itself in."""

    about = module.RNCARefine(Parent()).parent
    assert about.title == "rNCA Refine" and about.categories == ["Segmentation"]
    assert "not a medical device" in about.helpText and "2512.13397" in about.acknowledgementText
    slicer.app.startupCompleted.slots[-1]()  # there is no module Sample Data here
    volume, segmentation = samples.load()
    widget = module.RNCARefineWidget()
    widget.setup()
    widget.panel.ui.serverEdit.setText("http://127.0.0.1:9")
    widget.enter()
    assert widget.panel.refine.volume is volume and widget.panel.refine.segmentation is segmentation
    until(lambda: widget.panel.session.interval is None)
    widget.exit()
    before = names_of(slicer.mrmlScene)
    widget.cleanup()
    assert names_of(slicer.mrmlScene) == before


def test_what_slicer_runs_as_the_modules_test_passes_here_too(
    empty: Bench, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slicer_standins.application import MODULE

    monkeypatch.syspath_prepend(str(MODULE))
    monkeypatch.setenv("RNCA_TEST_SERVER", server.url)
    import RNCARefine as module

    server.idle()
    module.RNCARefineTest().runTest()
