"""The datastore loses nothing: not to a second process, not to a kill, not to an overwrite."""

import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs the extra `server`")

from lib.audit import Audit, check
from lib.datastore import Studies
from lib.refusals import Refusal
from lib.state import State
from little import load, save

SHAPE = (3, 8, 8)


def open_store(studies: Path) -> Studies:
    return Studies(str(studies), State.of(str(studies), {}), auto_reload=True, read_only=False)


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """Six small images."""
    for number in range(6):
        save(tmp_path / "studies" / f"image{number}.nii.gz", np.zeros(SHAPE, np.int16))
    return tmp_path / "studies"


def label(folder: Path, value: int, name: str = "label.nii.gz") -> str:
    return str(save(folder / name, np.full(SHAPE, value, np.uint8)))


def test_finds_images_labels_and_dicom_folders(studies: Path) -> None:
    label(studies / "labels" / "final", 1, "image2.nii.gz")
    (studies / "series").mkdir()
    (studies / "series" / "1.dcm").write_bytes(bytes(128) + b"DICM")
    store = open_store(studies)
    assert sorted(store.list_images()) == [*(f"image{n}" for n in range(6)), "series"]
    assert store.get_labeled_images() == ["image2"]
    assert Path(store.get_image_uri("series")).is_dir()


def test_takes_in_what_is_put_into_the_folder_later_and_forgets_what_is_gone(studies: Path) -> None:
    store = open_store(studies)
    save(studies / "late.nrrd", np.zeros(SHAPE, np.int16))
    (studies / "image0.nii.gz").unlink()
    assert "late" in store.list_images() and "image0" not in store.list_images()


def test_an_image_that_comes_during_a_long_look_with_the_same_stamp_is_seen(
    studies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(studies)
    store.list_images()
    now = time.time_ns()
    os.utime(studies, ns=(now, now))  # something has changed: the next look reads the folder
    reconcile = store._reconcile_datastore

    def slow() -> None:
        reconcile()
        save(studies / "late.nrrd", np.zeros(SHAPE, np.int16))
        os.utime(studies, ns=(now, now))  # a clock that ticks slowly
        time.sleep(0.1)  # longer than a tick

    monkeypatch.setattr(store, "_reconcile_datastore", slow)
    store.list_images()
    monkeypatch.undo()
    assert "late" in store.list_images()


def test_images_that_come_while_it_looks_or_right_after_are_seen(
    studies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(studies)
    for number in range(40):  # within one tick of the file system's clock, now and then
        store.list_images()
        (studies / f"quick{number}.nrrd").touch()
        assert f"quick{number}" in store.list_images()
    look = store._reconcile_datastore

    def look_too_early() -> None:
        look()
        (studies / "meanwhile.nrrd").touch()

    (studies / "other.nrrd").touch()
    with monkeypatch.context() as patch:
        patch.setattr(store, "_reconcile_datastore", look_too_early)
        store.list_images()
    time.sleep(0.1)
    assert "meanwhile" in store.list_images()


def test_an_image_that_comes_while_another_thread_changes_a_label_is_seen(studies: Path) -> None:
    store = open_store(studies)
    store.list_images()
    changing, finish = threading.Event(), threading.Event()

    def change() -> None:
        with store._change():
            changing.set()
            finish.wait(10)

    thread = threading.Thread(target=change)
    thread.start()
    assert changing.wait(10)
    save(studies / "late.nrrd", np.zeros(SHAPE, np.int16))
    threading.Timer(0.2, finish.set).start()
    assert "late" in store.list_images()
    thread.join()


def test_every_version_of_a_label_stays_and_can_be_restored(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    for value in (1, 2, 3):
        store.save_label("image1", label(tmp_path, value), "final", {"user": f"u{value}"})
    versions = store.history.versions("image1", "final")
    assert [v["version"] for v in versions] == [1, 2, 3] and [v["info"]["user"] for v in versions] == ["u1", "u2", "u3"]
    store.restore_label("image1", "final", 1, "later")
    assert (load(Path(store.get_label_uri("image1", "final"))) == 1).all()
    assert store.get_label_info("image1", "final")["restored"] == 1
    assert len(store.history.versions("image1", "final")) == 4


def test_label_from_before_this_server_is_kept_as_the_first_version(studies: Path, tmp_path: Path) -> None:
    label(studies / "labels" / "final", 7, "image0.nii.gz")
    store = open_store(studies)
    store.save_label("image0", label(tmp_path, 8), "final", {})
    file, _ = store.history.file("image0", "final", 1)
    assert (load(file) == 7).all()


def test_other_extension_replaces_the_file_of_the_old_one(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    store.save_label("image0", label(tmp_path, 1), "final", {})
    store.save_label("image0", label(tmp_path, 2, "label.nrrd"), "final", {})
    assert [p.name for p in (studies / "labels" / "final").iterdir()] == ["image0.nrrd"]


def test_removed_images_and_labels_are_set_aside(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    store.save_label("image0", label(tmp_path, 1), "final", {})
    store.remove_image("image0")
    assert "image0" not in store.list_images()
    assert len(list((studies / ".rnca" / "removed").iterdir())) == 2
    assert store.history.versions("image0", "final")


def test_damaged_file_is_put_aside_and_its_backup_taken(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    store.save_label("image0", label(tmp_path, 1), "final", {"note": "kept"})
    store.update_image_info("image1", {"x": 1})
    path = studies / "datastore_v2.json"
    path.write_text(path.read_text(encoding="utf-8")[:50], encoding="utf-8")
    again = open_store(studies)
    assert again.get_label_info("image0", "final")["note"] == "kept"
    assert list(studies.glob("datastore_v2.json.damaged-*"))


def test_a_change_that_fails_leaves_everything_as_it_was(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    before = (studies / "datastore_v2.json").read_bytes()
    for call in (
        lambda: store.save_label("nobody", label(tmp_path, 1), "final", {}),
        lambda: store.update_label_info("image0", "final", {}),
        lambda: store.save_label("image0", str(tmp_path / "missing.nii.gz"), "final", {}),
    ):
        with pytest.raises((Refusal, OSError, ValueError)):
            call()
    assert (studies / "datastore_v2.json").read_bytes() == before
    assert store.get_labels_by_image_id("image0") == {}


# --- several processes ----------------------------------------------------------------------------------------------


def write_infos(studies: str, who: int, count: int) -> None:
    """A process that adds its own entries to the image infos of a datastore."""
    store = open_store(Path(studies))
    for number in range(count):
        store.update_image_info(f"image{number % 6}", {f"by{who}_{number}": number})


def test_two_processes_lose_no_update(studies: Path) -> None:
    open_store(studies)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write_infos, args=(str(studies), who, 30)) for who in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    store = open_store(studies)
    found = {key for number in range(6) for key in store.get_image_info(f"image{number}")}
    assert {f"by{who}_{number}" for who in range(2) for number in range(30)} <= found


def save_for_ever(studies: str, folder: str) -> None:
    """A process that saves one label again and again: 1, 2, 1, 2 …, in two formats."""
    store = open_store(Path(studies))
    files = [label(Path(folder), 1, "one.nii.gz"), label(Path(folder), 2, "two.nrrd")]
    while True:
        for number, file in enumerate(files, start=1):
            store.save_label("image3", file, "final", {"value": number})


def test_a_kill_during_a_save_leaves_the_old_label_or_the_new_one(studies: Path, tmp_path: Path) -> None:
    open_store(studies).save_label("image3", label(tmp_path, 1), "final", {"value": 1})
    context, chance = multiprocessing.get_context("fork"), random.Random(0)
    for _ in range(8):
        worker = context.Process(target=save_for_ever, args=(str(studies), str(tmp_path)))
        worker.start()
        time.sleep(0.1 + chance.random() * 0.15)
        os.kill(worker.pid or 0, signal.SIGKILL)
        worker.join()
        store = open_store(studies)  # a new server on the same folder
        values = load(Path(store.get_label_uri("image3", "final")))
        assert (values == values[0, 0, 0]).all()
        assert store.get_label_info("image3", "final")["value"] == values[0, 0, 0]
        assert len(list((studies / "labels" / "final").iterdir())) == 1


def append(path: str, who: int) -> None:
    audit = Audit(Path(path))
    for number in range(20):
        audit.write("test", f"user{who}", number=number)


def test_audit_lines_of_two_processes_follow_on_each_other(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=append, args=(str(path), who)) for who in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert len(path.read_text(encoding="utf-8").splitlines()) == 40 and check(path) is None
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:5], *lines[6:], ""]), encoding="utf-8")
    assert check(path) == 6
