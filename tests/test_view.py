"""`rnca view`: the whole path in a real browser, and the parts that need none."""

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import rnca
from little import broken, load, ring, save
from rnca import InputError
from rnca import view as launcher
from rnca.samples import sample_folder
from serving import SHAPE, Server, free_port, make_studies, running
from viewing import GREEN, RED, Page, browser, missing, viewed

pytest.importorskip("trame_slicer", reason="needs the extra `view`")

SAMPLES = sample_folder()
LONG = (24, 200, 200)
"""Of a volume whose thousand steps take long enough to be stopped."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running application, and its page's address."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    with viewed(port=free_port(), folder=tmp_path_factory.mktemp("view")) as address:
        yield address


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A live `rnca serve` with a model that surely repairs."""
    pytest.importorskip("monailabel", reason="needs the extra `server`")
    studies = make_studies(tmp_path_factory.mktemp("serve") / "studies", 1)
    with running(studies, conf={"model": "filler"}, plain=False) as server:
        yield server


@pytest.fixture(scope="module")
def tab(address: str) -> Iterator[Page]:
    with browser() as page:
        yield Page(page, address)


@pytest.fixture
def page(tab: Page) -> Iterator[Page]:
    """The page, with nothing under way."""
    yield tab
    tab.page.keyboard.press("Escape")
    tab.until("s.phase === 'idle'")


def open_long(page: Page, folder: Path) -> np.ndarray:
    """Open a volume with a broken ring; its mask."""
    mask = (broken(ring(LONG)) * 3).astype(np.int16)
    page.upload("image", save(folder / "long.nii.gz", (ring(LONG) * 200 + 20).astype(np.int16)))
    page.until("s.case_name === 'long' && !s.segments.length")
    page.upload("mask", save(folder / "mask.nii.gz", mask))
    page.until("s.segments.length === 1")
    return mask


# --- in the browser -------------------------------------------------------------------------------------------------


def test_refines_on_this_computer_and_saves_what_the_package_gives(page: Page, tmp_path: Path) -> None:
    page.open_sample("ring-3")
    page.choose_model("ring-2d")
    page.page.click("#refine")
    page.page.wait_for_selector("#accept")
    page.until("!s.playing && s.step === 64")
    assert [(row["name"], row["before"], row["now"]) for row in page.state("figures")] == [
        ("Pieces", 14, 3),
        ("Holes", 0, 3),
    ]
    page.page.click("#accept")
    page.until("s.phase === 'idle' && s.can_undo")
    image, mask = (sitk.ReadImage(str(SAMPLES / kind / "ring-3.png")) for kind in ("images", "masks"))
    right = rnca.refine(image, mask, rnca.load_model("ring-2d")).mask
    path = page.saved(tmp_path)
    assert path.name == "ring-3-repaired.png"
    assert np.array_equal(load(path), sitk.GetArrayFromImage(right))


def test_shows_a_volume_in_four_views_and_what_is_added_in_green(page: Page) -> None:
    page.open_sample("ring-stack")
    page.page.wait_for_function("document.querySelectorAll('.views img[src^=blob]').length === 4")
    assert page.shows(GREEN, 0)
    page.page.keyboard.press("r")
    page.page.wait_for_selector("#accept")
    page.until("!s.playing")
    assert page.shows(GREEN, 500)
    page.page.keyboard.press("Escape")
    page.until("s.phase === 'idle' && !s.can_undo")
    assert page.shows(GREEN, 0)


def test_opens_files_of_the_user_and_refuses_others_in_a_sentence(page: Page, tmp_path: Path) -> None:
    truth = ring(SHAPE)
    labels = (broken(truth) * 2).astype(np.int16)
    labels[:, 0, :5] = 9
    page.upload("image", save(tmp_path / "scan.nii.gz", (truth * 90).astype(np.int16)))
    page.until("s.case_name === 'scan' && !s.segments.length")
    assert page.page.is_disabled("#refine")
    page.upload("mask", save(tmp_path / "small.nii.gz", labels[:, :20]))
    page.until("s.message_error && s.message.includes('differ in size')")
    page.upload("mask", save(tmp_path / "labels.nii.gz", labels))
    page.until("s.segments.length === 3")
    assert [row["title"] for row in page.state("segments")] == ["All segments, in turn", "Label 2", "Label 9"]
    path = page.saved(tmp_path)
    saved, given = sitk.ReadImage(str(path)), sitk.ReadImage(str(tmp_path / "labels.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(saved), labels) and saved.GetPixelID() == given.GetPixelID()
    assert np.allclose(saved.GetDirection(), given.GetDirection()) and np.allclose(saved.GetOrigin(), given.GetOrigin())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    page.upload("image", tmp_path / "broken.png")
    page.until("s.message.includes('cannot be read')")
    assert page.state("case_name") == "scan"


def test_refines_on_a_server_stops_looks_back_accepts_undoes(page: Page, server: Server, tmp_path: Path) -> None:
    given = open_long(page, tmp_path)
    page.connect(server.url)
    page.choose_model("filler")

    page.page.fill("#steps", "1000")  # long enough to be stopped
    page.page.click("#refine")
    page.until("s.phase === 'running' && s.step > 0 && s.steps_of === 1000")
    server.process.send_signal(signal.SIGSTOP)  # holds its breath while we look
    try:
        assert page.page.inner_text("#refine").startswith("Stop")
        assert page.shows(GREEN, 20)
        page.page.click("#refine")
    finally:
        server.process.send_signal(signal.SIGCONT)
    page.page.wait_for_selector("#accept")
    assert 0 < page.state("last_step") < 1000
    assert page.state("added") > 0 and page.state("removed") > 0

    page.page.locator("#result .v-slider-thumb").focus()
    page.page.keyboard.press("Home")
    page.until("s.step === 0 && s.added === 0")
    assert page.shows(GREEN, 0) and page.shows(RED, 0)
    page.page.keyboard.press("End")
    page.until("s.step === s.last_step && s.added > 0")

    page.page.click("#accept")
    page.until("s.phase === 'idle' && s.can_undo")
    refined = load(page.saved(tmp_path))
    assert np.array_equal(refined != 0, ring(LONG))
    page.page.keyboard.press("Control+z")
    page.until("!s.can_undo && s.can_redo")
    undone = load(page.saved(tmp_path))
    assert undone.dtype == given.dtype and np.array_equal(undone, given)
    page.page.click("#redo")
    page.until("s.can_undo")
    assert np.array_equal(load(page.saved(tmp_path)), refined)
    page.page.fill("#steps", "")


def test_tells_when_the_server_goes_away_and_keeps_the_segment(page: Page, server: Server, tmp_path: Path) -> None:
    given = open_long(page, tmp_path)
    page.connect(server.url)
    page.choose_model("filler")
    page.page.fill("#steps", "1000")
    page.page.click("#refine")
    page.until("s.phase === 'running' && s.step > 0")
    server.process.kill()
    page.until("s.phase === 'idle' && s.message_error && s.message_shown")
    assert page.page.is_visible("#message") and page.page.inner_text("#refine").startswith("Refine")
    assert np.array_equal(load(page.saved(tmp_path)), given)
    page.connect(server.url)
    page.until("!s.connecting && s.message.includes('no connection')")


def test_page_is_for_who_has_its_address(address: str) -> None:
    import requests

    place, _, key = address.partition("?key=")
    assert requests.get(place, timeout=30).status_code == 403
    assert requests.get(f"{place}?key={key[:-1]}", timeout=30).status_code == 403
    assert requests.get(f"{place}ws", timeout=30).status_code == 403
    with requests.Session() as session:
        assert session.get(address, timeout=30).status_code == 200
        assert session.get(f"{place}index.html", timeout=30).status_code == 200


# --- without one ----------------------------------------------------------------------------------------------------


def test_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "NEEDED", ("no_such_package",))
    with pytest.raises(InputError, match=r'needs no_such_package: install it with pip install "rnca\[view\]"'):
        launcher.view(None, None, None, "127.0.0.1", 1, False, False)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::"])
def test_other_computers_are_kept_out(host: str) -> None:
    with pytest.raises(InputError, match="--allow-remote"):
        launcher.view(None, None, None, host, 1, False, False)


def test_missing_file_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.png does not exist"):
        launcher.view(tmp_path / "gone.png", None, None, "127.0.0.1", 1, False, False)


def test_replay_shows_the_first_and_the_last_step_and_ends() -> None:
    from rnca_view.replay import LONGEST, Replay

    now, shown = [0.0], []
    replay = Replay(shown.append, lambda: now[0])
    replay.start(1000)
    while replay.playing:
        replay.tick()
        now[0] += 1 / 60
        assert now[0] < LONGEST + 1
    assert shown[0] == 0 and shown[-1] == 1000 and shown == sorted(set(shown))
    replay.start(10)
    replay.cancel()
    replay.tick()
    assert shown[-1] == 1000


def test_figures_are_named_for_pictures_and_volumes() -> None:
    from rnca_view.shown import figures

    assert figures(None, None, True) == []
    assert figures((5, 0, 0), None, True) == [
        {"name": "Pieces", "before": 5, "now": 5},
        {"name": "Holes", "before": 0, "now": 0},
    ]
    assert [row["name"] for row in figures((5, 0, 0), (1, 1, 0), False)] == ["Pieces", "Tunnels", "Cavities"]


def test_every_state_that_is_shown_has_a_start() -> None:
    import re

    from rnca_view import shown

    folder = Path(shown.__file__).parent
    panel = "".join((folder / name).read_text(encoding="utf-8") for name in ("panel.py", "panel_repair.py", "views.py"))
    used = set(re.findall(r"v_model=\(\"(\w+)\",?", panel)) | set(re.findall(r"\{\{ (\w+) ", panel))
    assert used - {"item", "row"} <= set(shown.START)


@pytest.mark.parametrize("name", ["ring-1.png", "ring-stack.nii.gz", "vessel-1.png"])
def test_a_case_goes_into_the_scene_and_back_unchanged(name: str, scene: object) -> None:
    from rnca_view import case as cases

    case = cases.open_image(scene, SAMPLES / "images" / name)
    cases.open_mask(scene, case, SAMPLES / "masks" / name)
    given, found = sitk.ReadImage(str(SAMPLES / "masks" / name)), case.repaired()
    assert np.array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(given))
    assert found.GetPixelID() == given.GetPixelID() and found.GetDirection() == given.GetDirection()
    assert case.flat == name.endswith(".png")
    cases.close(scene, case)
    assert scene.GetNumberOfNodesByClass("vtkMRMLDisplayableNode") == 0  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def scene() -> object:
    """A scene of Slicer's own classes."""
    from trame_slicer.core import SlicerApp

    scene.app = SlicerApp()  # type: ignore[attr-defined]
    return scene.app.scene  # type: ignore[attr-defined]
