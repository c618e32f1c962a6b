"""Refine, watch, stop, look back, accept, undo: the extension's logic in a real scene against a live server."""

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from little import broken, ring
from scenes import PLAIN, add_segmentation, add_volume, mask_of, new_scene, slicer, tick_until

pytest.importorskip("monailabel", reason="needs the extra `server`")

import rnca
from RNCARefineLib.client import Client
from RNCARefineLib.errors import Busy, LoginNeeded, RefineError, Unreachable
from RNCARefineLib.events import Stepped
from RNCARefineLib.local import Local
from RNCARefineLib.logic import IDLE, REVIEW, RUNNING, RefineLogic
from RNCARefineLib.nodes import SURFACE
from RNCARefineLib.parameters import Consent
from RNCARefineLib.remote import Remote
from RNCARefineLib.request import Control
from RNCARefineLib.server import ServerLogic, gate_in_words
from serving import SHAPE, Server, make_studies, running
from test_slicer_stream import Memory

MATRIX = PLAIN @ np.diag([0.5, 0.75, 3.0, 1.0])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    studies = tmp_path_factory.mktemp("scene") / "studies"
    studies.mkdir()
    with running(make_studies(studies), plain=False) as found:
        yield found


class Desk:
    """A scene with a bright ring, its broken segment, a neighbour in the same labelmap, and the logic."""

    def __init__(self, shared: bool = True) -> None:
        rng = np.random.default_rng(0)
        self.truth, self.mask = ring(SHAPE), broken(ring(SHAPE))
        self.other = ~self.mask & ~self.truth
        self.scene = new_scene()
        voxels = (self.truth * 200 + 20 + rng.integers(0, 8, SHAPE)).astype(np.int16)
        self.volume = add_volume(self.scene, voxels, MATRIX, "ring")
        self.node, (self.segment, self.neighbour) = add_segmentation(
            self.scene, self.volume, [self.mask, self.other], shared
        )
        self.logic = RefineLogic(self.scene)
        self.said: list[tuple[str, bool]] = []
        self.logic.told.connect(lambda text, error: self.said.append((text, error)))
        self.nodes = self.scene.GetNumberOfNodes()

    def refine(self, backend: Any, *segments: str, steps: int = 24, **more: Any) -> None:
        more.setdefault("model", "filler")
        self.logic.refine(backend, self.volume, self.node, segments or [self.segment], steps=steps, **more)

    def wait(self, state: str = RUNNING) -> None:
        tick_until(self.logic.tick, lambda: self.logic.state != state)

    def now(self, segment: str = "") -> NDArray[np.bool_]:
        return mask_of(self.node, segment or self.segment, self.volume)

    def untouched(self) -> bool:
        """Whether both segments are as they were, and nothing of ours is in the scene."""
        same = np.array_equal(self.now(), self.mask) and np.array_equal(self.now(self.neighbour), self.other)
        return same and self.scene.GetNumberOfNodes() == self.nodes


def backend_of(server: Server) -> Remote:
    return Remote(Client(server.url))


# --- refine, look, accept -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["server", "this computer"])
def test_refine_accept_undo(server: Server, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    if where == "server":
        backend: Any = backend_of(server)
    else:
        from little import save_filler

        backend = Local()
        monkeypatch.setitem(backend._models, "filler", rnca.load_model(str(save_filler(tmp_path))))
    seen = []
    desk.logic.changed.connect(lambda: seen.append(desk.logic.shown_step))
    desk.refine(backend)
    assert desk.logic.state == RUNNING and desk.logic.preview_node is not None
    desk.wait()
    assert desk.logic.state == REVIEW and np.array_equal(desk.now(), desk.mask)
    assert seen == sorted(seen) and seen[-1] == 24 == desk.logic.last_step
    progress = desk.logic.progress()
    assert progress is not None and (progress.before, progress.now) == ((2, 0, 0), (1, 1, 0))
    assert progress.added == np.count_nonzero(desk.truth & ~desk.mask)
    assert progress.removed == np.count_nonzero(desk.mask & ~desk.truth) and progress.fraction == 1.0
    preview = mask_of(desk.logic.preview_node, "refined 1", desk.volume)
    assert np.array_equal(preview, desk.truth)
    for name, change in (("added", desk.truth & ~desk.mask), ("removed", desk.mask & ~desk.truth)):
        assert np.array_equal(mask_of(desk.logic.preview_node, name, desk.volume), change)
    desk.logic.accept()
    assert desk.logic.state == IDLE and desk.scene.GetNumberOfNodes() == desk.nodes
    assert np.array_equal(desk.now(), desk.truth) and np.array_equal(desk.now(desk.neighbour), desk.other)
    assert desk.logic.kept[desk.segment].model == "filler"
    assert desk.logic.undo() and desk.untouched()
    assert desk.logic.redo() and np.array_equal(desk.now(), desk.truth)
    backend.close()


def test_result_is_that_of_the_package(server: Server, tmp_path: Path) -> None:
    desk = Desk()
    desk.refine(backend_of(server), model="ring-2d", steps=12)
    desk.wait()
    from RNCARefineLib.local import itk_image
    from RNCARefineLib.nodes import image_of

    image = image_of(desk.volume)
    model = rnca.load_model("ring-2d")
    mask = itk_image(desk.mask.astype(np.uint8), image)
    steps = [np.array(_array(s.mask)) != 0 for s in rnca.stream(itk_image(image.voxels, image), mask, model, 12)]
    run = desk.logic.runs[0]
    everywhere = ((0, SHAPE[0]), (0, SHAPE[1]), (0, SHAPE[2]))
    for number, expected in enumerate(steps, start=1):
        assert np.array_equal(run.mask_at(number, everywhere), expected), number


def _array(mask: Any) -> Any:
    import SimpleITK as sitk

    return sitk.GetArrayViewFromImage(mask)


def test_any_step_that_was_seen_can_be_accepted(server: Server) -> None:
    desk = Desk()
    desk.refine(backend_of(server))
    desk.wait()
    desk.logic.show_step(3)
    early = mask_of(desk.logic.preview_node, "refined 1", desk.volume)
    assert desk.logic.shown_step == 3 and not np.array_equal(early, desk.truth)
    desk.logic.show_step(24)
    assert np.array_equal(mask_of(desk.logic.preview_node, "refined 1", desk.volume), desk.truth)
    desk.logic.show_step(3)
    desk.logic.accept()
    assert np.array_equal(desk.now(), early) and desk.logic.kept[desk.segment].step == 3


def test_discard_leaves_everything_as_it_was(server: Server) -> None:
    desk = Desk()
    desk.refine(backend_of(server))
    desk.wait()
    desk.logic.discard()
    assert desk.logic.state == IDLE and desk.untouched() and not desk.logic.undo()


def test_stop_keeps_what_was_reached(server: Server) -> None:
    desk = Desk()
    desk.refine(backend_of(server), steps=1000)
    tick_until(desk.logic.tick, lambda: desk.logic.last_step > 3)
    desk.logic.stop()
    desk.wait()
    assert desk.logic.state == REVIEW and 3 < desk.logic.last_step < 1000
    desk.logic.accept()
    assert not np.array_equal(desk.now(), desk.mask)
    server.idle()


def test_what_is_accepted_is_what_was_seen(server: Server) -> None:
    """The worker may be in the middle of one more step when Stop is clicked."""
    desk = Desk()
    desk.refine(backend_of(server), steps=1000)
    tick_until(desk.logic.tick, lambda: desk.logic.last_step > 3)
    desk.logic.stop()
    seen = mask_of(desk.logic.preview_node, "refined 1", desk.volume)
    run, box = desk.logic.runs[0], ((0, 1), (0, 5), (0, 5))
    run.take(Stepped(run.last + 1, box, np.ones((1, 5, 5), bool)))
    desk.logic.accept()
    assert np.array_equal(desk.now(), seen)


def test_all_segments_in_turn_are_one_undo_state(server: Server) -> None:
    desk = Desk()
    desk.refine(backend_of(server), desk.segment, desk.neighbour)
    desk.wait()
    assert [run.finished is not None for run in desk.logic.runs] == [True, True]
    expected = [desk.logic.runs[n].mask_at(24, ((0, SHAPE[0]), (0, SHAPE[1]), (0, SHAPE[2]))) for n in (0, 1)]
    desk.logic.accept()
    assert np.array_equal(desk.now(), expected[0]) and np.array_equal(desk.now(desk.neighbour), expected[1])
    assert desk.logic.undo() and desk.untouched()


def test_outside_of_the_region_nothing_changes(server: Server) -> None:
    desk = Desk()
    box = ((1, 3), (0, 14), (5, 26))
    desk.refine(backend_of(server), roi=box)
    desk.wait()
    desk.logic.accept()
    inside = np.zeros(SHAPE, bool)
    inside[1:3, 0:14, 5:26] = True
    assert np.array_equal(desk.now()[~inside], desk.mask[~inside])
    assert np.array_equal(desk.now()[inside], desk.truth[inside])


def test_editable_area_is_honoured_and_said(server: Server) -> None:
    desk = Desk()
    chosen = slicer.vtkMRMLSegmentEditorNode()
    desk.scene.AddNode(chosen)
    chosen.SetSourceVolumeIntensityMask(True)
    chosen.SetSourceVolumeIntensityMaskRange(100, 1000)
    desk.refine(backend_of(server), settings=chosen)
    desk.wait()
    desk.logic.accept()
    dark_island = desk.mask & ~desk.truth
    assert np.array_equal(desk.now(), desk.truth | dark_island)
    assert desk.said == [
        (f"Accepted; {dark_island.sum()} voxels outside of the editable area were left as they were.", False)
    ]


def test_surface_is_shown_again_when_the_original_has_one(server: Server) -> None:
    desk = Desk(shared=False)
    desk.node.CreateClosedSurfaceRepresentation()
    desk.refine(backend_of(server))
    desk.wait()
    assert desk.logic.preview_node.GetSegmentation().ContainsRepresentation(SURFACE)
    desk.logic.accept()
    assert desk.node.GetSegmentation().ContainsRepresentation(SURFACE)


def test_image_is_sent_once_and_again_when_the_server_has_forgotten_it(server: Server) -> None:
    desk, backend = Desk(), backend_of(server)
    notes: list[str] = []
    desk.logic.noted.connect(lambda note: notes.append(note.text))
    for _ in range(2):
        desk.refine(backend)
        desk.wait()
        desk.logic.discard()
    assert {n for n in notes if n.startswith("Sending")} and backend.known(_image(desk))
    sent = len(notes)
    (session,) = backend._sessions.values()
    backend.client.close_session(session)
    desk.refine(backend)
    desk.wait()
    assert desk.logic.state == REVIEW and len(notes) > sent
    backend.close()
    assert not backend.known(_image(desk))


def _image(desk: Desk) -> Any:
    from RNCARefineLib.nodes import image_of

    return image_of(desk.volume)


# --- nothing is left behind -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["volume", "segmentation", "preview", "everything"])
def test_removed_node_ends_the_refinement(server: Server, which: str) -> None:
    desk = Desk()
    desk.refine(backend_of(server), steps=1000)
    tick_until(desk.logic.tick, lambda: desk.logic.last_step > 1)
    if which == "everything":
        desk.scene.Clear(0)
    else:
        node = {"volume": desk.volume, "segmentation": desk.node, "preview": desk.logic.preview_node}[which]
        desk.scene.RemoveNode(node)
        assert len(desk.said) == 1 and desk.said[0][1] and "was removed from the scene" in desk.said[0][0]
    assert desk.logic.state == IDLE and desk.logic.preview_node is None
    server.idle()
    desk.logic.tick()


def test_many_cycles_leave_nothing_behind(server: Server) -> None:
    desk, backend = Desk(), backend_of(server)
    desk.refine(backend, steps=2)
    desk.wait()
    desk.logic.discard()
    threads = threading.active_count()
    for number in range(20):
        desk.refine(backend, steps=500)
        if number % 2:
            tick_until(desk.logic.tick, lambda: desk.logic.last_step > 0)
        desk.logic.discard()
    tick_until(desk.logic.tick, lambda: threading.active_count() <= threads)
    assert desk.untouched()
    server.idle()
    desk.logic.close()


def test_one_refinement_at_a_time(server: Server) -> None:
    desk = Desk()
    desk.refine(backend_of(server), steps=500)
    with pytest.raises(RefineError, match="accept or discard it first"):
        desk.refine(backend_of(server))
    desk.logic.discard()
    assert desk.untouched()


# --- servers that do not do what they should ------------------------------------------------------------------------


@contextmanager
def answering(respond: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """An HTTP server on loopback that answers every request with `respond`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            respond(self)

        do_GET = do_PUT = do_DELETE = do_HEAD = do_POST

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{found.server_port}"
        finally:
            found.shutdown()


def reply(status: int, body: Any, **headers: str) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def respond(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return respond


REFUSALS: dict[str, tuple[Any, type[RefineError], str]] = {
    "login": (reply(401, {"detail": "this needs a login."}), LoginNeeded, "This needs a login."),
    "busy": (reply(429, {"message": "all places are taken."}, Retry_After="7"), Busy, "All places are taken."),
    "other server": (reply(200, b"<html></html>"), Unreachable, "is not an rNCA server"),
    "nothing there": (reply(404, b"<html></html>"), Unreachable, "is not an rNCA server"),
    "plain MONAI Label": (
        reply(200, {"models": {"deepedit": {}}, "version": "0.8.5"}),
        Unreachable,
        "no rNCA Refine app",
    ),
    "too new": (reply(200, {"models": {"rnca_refine": {}}, "version": "2.0.1"}), Unreachable, "update the older"),
    "too old": (reply(200, {"models": {"rnca_refine": {}}, "version": "0.0.9"}), Unreachable, "update the older"),
    "proxy": (reply(502, b"bad gateway"), Unreachable, "behind"),
    "crash": (reply(500, b""), RefineError, "HTTP 500"),
    "forbidden": (reply(403, {"detail": "this needs the role annotator."}), RefineError, "This needs the role"),
}


@pytest.mark.parametrize(("respond", "kind", "words"), REFUSALS.values(), ids=REFUSALS)
def test_refusal_becomes_a_sentence(respond: Any, kind: type[RefineError], words: str) -> None:
    with answering(respond) as url, pytest.raises(RefineError) as caught:
        Client(url).info()
    assert type(caught.value) is kind and words in str(caught.value)
    if isinstance(caught.value, Busy):
        assert caught.value.seconds == 7


@pytest.mark.parametrize("address", ["", "127.0.0.1:9", "http://127.0.0.1:9", "ht!p://x", "http://nowhere.invalid"])
def test_wrong_address_becomes_a_sentence(address: str) -> None:
    with pytest.raises(RefineError, match=r"address"):
        Client(address, timeout=2).info()


STREAMS = {
    "no event": [b"<html>\n"],
    "ends in the middle": [],
    "nothing at all": None,
    "steps before a beginning": [b'{"event":"step","step":1,"bbox":null,"delta":""}\n'],
}


@pytest.mark.parametrize("lines", STREAMS.values(), ids=STREAMS)
def test_malformed_stream_leaves_the_segment_intact(lines: list[bytes] | None) -> None:
    begin = {"event": "start", "id": "a", "model": "m", "version": "1.0.0", "shape": SHAPE, "steps": 9}
    first = []
    if lines in ([], [b"<html>\n"]):
        first = [json.dumps({**begin, "bbox": [[0, n] for n in SHAPE]}).encode() + b"\n"]

    def respond(handler: http.server.BaseHTTPRequestHandler) -> None:
        if handler.path.startswith("/session"):
            reply(200, {"session_id": "s"})(handler)
        else:
            reply(200, b"".join([*first, *(lines or [])]))(handler)

    with answering(respond) as url:
        desk = Desk()
        desk.refine(Remote(Client(url)))
        desk.wait()
        assert desk.logic.state == IDLE and desk.untouched()
        ((text, error),) = desk.said
        assert error and text.startswith("The server sent")


def test_server_that_dies_half_way_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    with running(make_studies(studies, 1), plain=False) as server:
        desk = Desk()
        desk.refine(backend_of(server), steps=1000)
        tick_until(desk.logic.tick, lambda: desk.logic.last_step > 2)
        server.process.kill()
        desk.wait()
    assert desk.logic.state == IDLE and desk.untouched()
    ((text, error),) = desk.said
    assert error and "connection" in text


def test_busy_server_is_said(server: Server) -> None:
    desk = Desk()
    with answering(reply(429, {"message": "all places are taken: try again in 5 seconds."}, Retry_After="5")) as url:
        desk.refine(Remote(Client(url)))
        desk.wait()
    assert desk.said == [("All places are taken: try again in 5 seconds.", True)] and desk.untouched()


def test_abandoned_upload_is_cut_off() -> None:
    arrived = threading.Event()

    def respond(handler: http.server.BaseHTTPRequestHandler) -> None:
        arrived.set()
        time.sleep(1)

    desk = Desk()
    with answering(respond) as url:
        desk.refine(Remote(Client(url)))
        assert arrived.wait(10)
        desk.logic.discard()
        assert desk.logic.state == IDLE and desk.untouched()


# --- everything else with a server ----------------------------------------------------------------------------------


class Office:
    """The server logic with what it said."""

    def __init__(self, server: Server) -> None:
        self.logic = ServerLogic(Consent(Memory()))
        self.said: list[tuple[str, bool]] = []
        self.logic.told.connect(lambda text, error: self.said.append((text, error)))
        self.logic.connect(server.url)
        self.wait()

    def wait(self) -> None:
        tick_until(self.logic.tick, lambda: not self.logic.tasks.busy)


def test_connecting_shows_the_models(server: Server) -> None:
    office = Office(server)
    assert office.logic.connected and not office.logic.leaves_computer and office.said[-1][1] is False
    names = {m.name for m in office.logic.models}
    assert {"filler", "ring-2d"} <= names and office.logic.default_model in names
    office.logic.disconnect()
    assert not office.logic.connected and office.logic.models == []


def test_this_computer_needs_no_server() -> None:
    logic = ServerLogic(Consent(Memory()))
    logic.use_this_computer()
    tick_until(logic.tick, lambda: not logic.tasks.busy)
    assert logic.connected and logic.client is None and "ring-2d" in {m.name for m in logic.models}
    assert all(m.description and (m.licence or m.name == logic.default_model) for m in logic.models)
    assert logic.models[0].name == logic.default_model == "general"  # one of two by size: it has no version of its own


def test_correction_is_sealed_with_before_and_refined(server: Server) -> None:
    desk, office = Desk(), Office(server)
    desk.refine(office.logic.backend)
    desk.wait()
    desk.logic.accept()
    office.logic.submit(desk.volume, desk.node, desk.segment, desk.logic.kept[desk.segment])
    office.wait()
    text, error = office.said[-1]
    assert not error and "is saved" in text
    image = desk.volume.GetAttribute("rNCA.image")

    def sealed() -> list[tuple[Path, dict[str, Any]]]:
        found = (server.state / "runs" / "corrections").glob("*/record.json")
        records = [(path.parent, json.loads(path.read_text(encoding="utf-8"))) for path in found]
        return [(place, record) for place, record in records if record["image"] == image]

    tick_until(office.logic.tick, lambda: bool(sealed()))
    ((place, record),) = sealed()
    assert set(record["masks"]) == {"before", "refined", "final"} and record["accepted"] is True
    import SimpleITK as sitk

    value = record["masks"]["final"]["info"]["label"]
    expected = {"before": desk.mask, "refined": desk.truth, "final": desk.truth}
    for tag, mask in expected.items():
        saved = sitk.ReadImage(str(place / record["masks"][tag]["file"]))
        assert np.array_equal(sitk.GetArrayFromImage(saved) == value, mask), tag
        assert np.allclose(saved.GetSpacing(), (0.5, 0.75, 3.0))
    assert record["masks"]["final"]["info"]["model"] == "filler"


def test_correction_without_a_refinement_is_a_final_mask(server: Server) -> None:
    desk, office = Desk(), Office(server)
    voxels = np.array(_image(desk).voxels)
    desk.volume = add_volume(desk.scene, voxels + 1, MATRIX)
    office.logic.submit(desk.volume, desk.node, desk.segment, None)
    office.wait()
    assert not office.said[-1][1]
    objects = server.http.get("/datastore/", params={"output": "all"}).json()["objects"]
    assert set(objects[desk.volume.GetAttribute("rNCA.image")]["labels"]) == {"final"}


def test_activating_a_version_that_is_not_there_is_said(server: Server) -> None:
    office = Office(server)
    office.logic.activate("filler", "9.9.9")
    office.wait()
    assert office.said[-1][1]
    office.logic.activate("filler", "1.0.0")
    office.wait()
    assert office.said[-1] == ("filler 1.0.0 is in use now.", False)


def test_training_without_corrections_is_refused_in_words(server: Server, tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    with running(make_studies(studies, 1), plain=False) as empty:
        office = Office(empty)
        office.logic.refresh_training()
        office.wait()
        assert office.logic.training == {} and office.logic.training_fraction is None
        office.logic.train()
        office.wait()
        assert office.said[-1][1] and "at least 2" in office.said[-1][0]


def test_answer_that_was_overtaken_does_not_bring_a_stopped_training_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    office, late, asked = Office(server), threading.Event(), threading.Event()

    def training(client: Client) -> dict[str, Any]:
        if asked.is_set():
            return {"status": "STOPPED"}
        asked.set()
        late.wait(30)
        return {"status": "RUNNING"}

    monkeypatch.setattr(Client, "training", training)
    office.logic.refresh_training()
    assert asked.wait(30)
    office.logic.refresh_training()
    tick_until(office.logic.tick, lambda: office.logic.training == {"status": "STOPPED"})
    late.set()
    office.wait()
    assert office.logic.training == {"status": "STOPPED"}


def test_gate_is_told_in_words() -> None:
    scores = {"old": {"dice": 0.91, "betti": 1.5}, "new": {"dice": 0.93, "betti": 0.5}}
    taken = gate_in_words({"status": "DONE", "result": {"published": "1.0.1", "gate": {**scores, "passed": True}}})
    assert taken.startswith("The new version 1.0.1 is in use.") and "0.910 to 0.930" in taken
    gate = {**scores, "passed": False, "reasons": ["Dice 0.9 is below 0.91"]}
    refused = gate_in_words({"status": "DONE", "result": {"gate": gate}})
    assert "not taken" in refused and "Dice 0.9 is below 0.91" in refused
    assert "stopped" in gate_in_words({"status": "STOPPED"})
    assert "no space" in gate_in_words({"status": "ERROR", "result": {"message": "no space"}})


def test_stop_before_the_first_step_changes_nothing(server: Server) -> None:
    desk = Desk()
    desk.refine(backend_of(server), steps=500)
    desk.logic.stop()
    assert desk.logic.state == IDLE and desk.untouched() and "before the first step" in desk.said[0][0]
    server.idle()


def test_control_acts_whenever_the_worker_says_how() -> None:
    cut: list[str] = []
    early, late = Control(), Control()
    early.abandon()
    early.when_abandoned(lambda: cut.append("early"))
    late.when_abandoned(lambda: cut.append("late"))
    assert cut == ["early"]
    late.abandon()
    assert cut == ["early", "late"]
