"""A folder of masks: what is written, what is run again and what is not, and that a bad case stops nothing."""

import csv
import hashlib
import html
import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from little import broken, case, command, environment, load, ring, run_cli, save, save_filler, tree
from rnca import DEFAULT_MODEL, batch
from rnca.batch import Case, in_processes, run_batch
from rnca.errors import InputError
from rnca.jobs import Options, refine_file
from rnca.summary import as_row
from rnca.zoo import load_model, save_model, shipped_metadata


@pytest.fixture(scope="module")
def filler(tmp_path_factory):
    return save_filler(tmp_path_factory.mktemp("model"))


@pytest.fixture
def run(filler, capsys):
    """Repair folder/masks to folder/out; returns how many failed and what was printed."""

    def run(folder, jobs=1, **options):
        out = Console(stderr=True, markup=False, soft_wrap=True)
        options = Options(**{"model": str(filler), **options})
        failed = run_batch(folder / "images", folder / "masks", folder / "out", options, jobs, out)
        return failed, capsys.readouterr().err

    return run


@pytest.fixture
def three(tmp_path):
    """Three cases in three formats."""
    for name in ("a.png", "b.nii.gz", "c.tif"):
        case(tmp_path, name)
    return tmp_path


def rows(folder):
    with (folder / "out" / "summary.csv").open(newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def stamps(folder):
    """When each result was written; a file that is replaced gets a new one."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (folder / "out" / "masks").iterdir()}


# --- what is written ------------------------------------------------------------------------------------------------


def test_every_mask_is_repaired_as_refine_would_with_its_report(three, run, filler):
    before = tree(three)
    failed, printed = run(three, steps=30)
    assert failed == 0
    assert "3 repaired, 0 already done by an earlier run, 0 failed." in printed
    assert sorted(path.name for path in (three / "out").iterdir()) == [
        "masks",
        "reports",
        "summary.csv",
        "summary.html",
    ]
    for name in ("a.png", "b.nii.gz", "c.tif"):
        refine_file(three / "images" / name, three / "masks" / name, three / name, Options(str(filler), steps=30))
        out = three / "out" / "masks" / name
        assert out.read_bytes() == (three / name).read_bytes()
        record = json.loads((three / "out" / "reports" / f"{name.split('.')[0]}.json").read_text(encoding="utf-8"))
        assert record["output"]["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert {path: data for path, data in tree(three).items() if path in before} == before  # inputs


def test_the_table_tells_each_case_as_its_report_does(three, run):
    run(three)
    table = rows(three)
    assert list(table) == ["a", "b", "c"]
    for name, row in table.items():
        record = json.loads((three / "out" / "reports" / f"{name}.json").read_text(encoding="utf-8"))
        (label,) = record["labels"]
        assert (row["status"], row["error"], row["run"]) == ("ok", "", "now")
        assert (row["model"], row["version"]) == ("filler", "1.2.3")
        assert row["label"] == f"{label['label']}"
        assert (row["steps"], row["reason"]) == ("24", "steps")
        assert (row["added"], row["removed"]) == (str(label["added"]), str(label["removed"]))
        assert float(row["seconds"]) == record["seconds"]["total"]
        for when in ("before", "after"):
            topology = label["topology"][when]
            assert row[f"betti_{when}"] == ",".join(map(str, topology["betti"]))
            assert row[f"pieces_{when}"] == str(topology["pieces"])
            assert row[f"tunnels_{when}"] == str(topology.get("tunnels", ""))
    assert (table["a"]["pieces_before"], table["a"]["pieces_after"]) == ("2", "1")
    assert (table["a"]["holes_before"], table["a"]["holes_after"]) == ("0", "1")


@pytest.mark.parametrize("jobs", [1, 2])
def test_each_mask_gets_the_general_model_for_its_size(tmp_path, run, jobs):
    case(tmp_path, "flat.png")
    case(tmp_path, "stack.nii.gz")  # of four slices
    save(tmp_path / "images" / "cube.nrrd", np.full((16, 24, 26), 20, np.uint8))
    save(tmp_path / "masks" / "cube.nrrd", ring((16, 24, 26)))
    assert run(tmp_path, jobs, model=DEFAULT_MODEL, steps=2)[0] == 0
    assert {name: row["model"] for name, row in rows(tmp_path).items()} == {
        "flat": "general-2d",
        "stack": "general-2d",
        "cube": "general-3d",
    }
    again = run(tmp_path, jobs, model=DEFAULT_MODEL, steps=2)
    assert "0 repaired, 3 already done" in again[1]
    page = (tmp_path / "out" / "summary.html").read_text(encoding="utf-8")
    version = shipped_metadata("general-2d").version
    assert f"general-2d {version}, general-3d" in page


def test_several_labels_of_a_mask_share_its_row(tmp_path, run):
    truth = ring()
    mask = broken(truth).astype(np.uint8)
    mask[:, 13:] *= 2
    save(tmp_path / "images" / "x.png", truth * np.uint8(200))
    save(tmp_path / "masks" / "x.png", mask)
    assert run(tmp_path, label="all")[0] == 0
    row = rows(tmp_path)["x"]
    assert row["label"] == "1; 2"
    assert row["steps"] == "24; 24"
    assert len(row["betti_before"].split("; ")) == len(row["added"].split("; ")) == 2
    page = (tmp_path / "out" / "summary.html").read_text(encoding="utf-8")
    assert "label 1: " in page
    assert "label 2: " in page


class Page(HTMLParser):
    """Tags that are open at the end, the pictures and links of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.pictures, self.links, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)
        self.pictures += [value for name, value in attributes if tag == "img" and name == "src"]
        self.links += [value for name, value in attributes if name == "href"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_in_itself_and_tells_totals_and_the_notice(three, run):
    save(three / "masks" / "lonely.png", ring())
    run(three)
    text = (three / "out" / "summary.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert len(page.pictures) == 6
    assert all(url.startswith("data:image/png;base64,") for url in page.pictures)
    assert "http" not in text
    assert "<script" not in text
    assert "prefers-color-scheme: dark" in text
    assert "For research use only; not a medical device." in page.text
    assert re.search(r"4masks.*3done.*1failed.*6 → 3pieces in all", page.text.replace("\n", ""))
    for link in page.links:
        assert (three / "out" / link).is_file()
    assert len(page.links) == 6


def test_names_that_look_like_markup_are_shown_as_they_are(tmp_path, run):
    name = '<b>&"[red] 100%'
    case(tmp_path, f"{name}.png")
    save(tmp_path / "masks" / "<i>lonely.png", ring())
    case(tmp_path, "x.png")
    (tmp_path / "masks" / "x.png").rename(tmp_path / "masks" / "y.png")
    failed, printed = run(tmp_path)
    assert failed == 2
    assert "<i>lonely failed: " in printed
    text = (tmp_path / "out" / "summary.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert html.escape(name) in text
    assert "<b>&" not in text
    assert name in page.text
    assert "<i>lonely" in page.text
    assert rows(tmp_path)[name]["status"] == "ok"


# --- what fails -----------------------------------------------------------------------------------------------------


def test_a_failed_case_is_told_and_stops_no_other(three, run):
    case(three, "cut.png")
    (three / "masks" / "cut.png").write_bytes((three / "masks" / "cut.png").read_bytes()[:60])
    save(three / "masks" / "lonely.png", ring())
    save(three / "images" / "unused.png", ring())
    failed, printed = run(three)
    assert failed == 2
    assert "3 repaired, 0 already done by an earlier run, 2 failed." in printed
    assert "unused: an image without a mask, left out." in printed
    table = rows(three)
    assert [name for name, row in table.items() if row["status"] == "failed"] == ["cut", "lonely"]
    assert "cannot be read" in table["cut"]["error"]
    assert "no image named lonely" in table["lonely"]["error"]
    assert "unused" not in table
    assert table["cut"]["error"] in printed
    assert sorted(path.name for path in (three / "out" / "masks").iterdir()) == ["a.png", "b.nii.gz", "c.tif"]
    page = Page((three / "out" / "summary.html").read_text(encoding="utf-8"))
    assert "no image named lonely" in page.text
    assert "left out: unused" in page.text


def test_failed_cases_make_the_exit_code_1(tmp_path, monkeypatch, filler, capsys):
    case(tmp_path, "a.png")
    args = ["--images", tmp_path / "images", "--masks", tmp_path / "masks", "-o", tmp_path / "out", "--model", filler]
    assert run_cli(monkeypatch, "batch", *args) == 0
    save(tmp_path / "masks" / "lonely.png", ring())
    assert run_cli(monkeypatch, "batch", *args) == 1
    assert f"{tmp_path / 'out' / 'summary.html'} written" in capsys.readouterr().err


def test_a_bug_in_one_case_is_a_failed_case(three, run, monkeypatch):
    refine = batch.refine_file

    def sometimes(image, *args, **options):
        if image.name == "b.nii.gz":
            raise ZeroDivisionError("division by zero\nsecond line")
        return refine(image, *args, **options)

    monkeypatch.setattr(batch, "refine_file", sometimes)
    assert run(three)[0] == 1
    assert rows(three)["b"]["error"] == "unexpected ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("options", "jobs", "words"),
    [
        ({"model": "none-such"}, 1, "there is no model"),
        ({"steps": -1}, 1, "steps is -1"),
        ({"roi": "nonsense"}, 1, "not of the form"),
        ({"soft": True, "label": 3}, 1, "either soft or label"),
        ({"device": "tpu"}, 1, "device is 'tpu'"),
        ({}, 0, "jobs is 0"),
    ],
)
def test_wrong_options_are_refused_before_any_work(three, run, options, jobs, words):
    with pytest.raises(InputError, match=words):
        run(three, jobs, **options)
    assert not (three / "out").exists()


def test_wrong_folders_are_refused_before_any_work(three, run, filler, capsys):
    out, options = Console(stderr=True), Options(str(filler))
    before = tree(three)
    (three / "none").mkdir()
    for images, masks, output, words in [
        ("no", "masks", "out", "is not a folder"),
        ("images", "no", "out", "is not a folder"),
        ("images", "none", "out", "holds no masks"),
        ("images", "masks", ".", "which is an input"),  # would write into masks/
        ("images", "masks", "masks/a.png", "cannot make the folder"),
    ]:
        with pytest.raises(InputError, match=words):
            run_batch(three / images, three / masks, three / output, options, 1, out)
    (three / "none").rmdir()
    assert tree(three) == before


# --- what is run again ----------------------------------------------------------------------------------------------


def test_a_second_run_repairs_nothing_again_and_tells_the_same(three, run):
    run(three)
    first, times = rows(three), stamps(three)
    failed, printed = run(three)
    assert failed == 0
    assert "0 repaired, 3 already done by an earlier run, 0 failed." in printed
    assert stamps(three) == times
    again = rows(three)
    assert {row.pop("run") for row in again.values()} == {"earlier"}
    assert {row.pop("run") for row in first.values()} == {"now"}
    assert again == first
    assert len(Page((three / "out" / "summary.html").read_text(encoding="utf-8")).pictures) == 6


def other_mask(folder):
    save(folder / "masks" / "a.png", np.flipud(broken(ring())) * np.uint8(255))


def other_image(folder):
    save(folder / "images" / "a.png", ring() * np.uint8(100))


def output_gone(folder):
    (folder / "out" / "masks" / "a.png").unlink()


def output_edited(folder):
    save(folder / "out" / "masks" / "a.png", np.zeros((24, 26), np.uint8))


def report_gone(folder):
    (folder / "out" / "reports" / "a.json").unlink()


def report_cut(folder):
    path = folder / "out" / "reports" / "a.json"
    path.write_text(path.read_text(encoding="utf-8")[:100])


@pytest.mark.parametrize("change", [other_mask, other_image, output_gone, output_edited, report_gone, report_cut])
def test_only_a_case_that_is_not_as_it_was_is_run_again(three, run, change):
    run(three)
    times = stamps(three)
    change(three)
    assert run(three)[0] == 0
    assert {name: row["run"] for name, row in rows(three).items()} == {"a": "now", "b": "earlier", "c": "earlier"}
    now = stamps(three)
    assert {name for name in times if times[name] != now[name]} == {"a.png"}
    np.testing.assert_array_equal(load(three / "out" / "masks" / "a.png"), ring() * 255)


@pytest.mark.parametrize("options", [{"steps": 25}, {"roi": "0:20,:"}, {"patience": 9}, {"bfloat16": True}])
def test_other_options_run_all_cases_again(tmp_path, run, options):
    for name in ("a.png", "c.tif"):
        case(tmp_path, name)
    run(tmp_path)
    run(tmp_path, **options)
    assert {row["run"] for row in rows(tmp_path).values()} == {"now"}


def test_another_model_runs_all_cases_again(three, run, filler, tmp_path):
    run(three)
    net = load_model(filler).definition
    net.delta.weight.data *= 1.01
    run(three, model=str(save_model(net, tmp_path / "other.ts", load_model(filler).metadata)))
    assert {row["run"] for row in rows(three).values()} == {"now"}


def test_a_case_that_fails_now_keeps_the_result_of_the_earlier_run(three, run):
    run(three)
    times = stamps(three)
    assert run(three, label=99)[0] == 3
    assert stamps(three) == times
    assert run(three) == (0, run(three)[1])
    assert {row["run"] for row in rows(three).values()} == {"earlier"}


# --- processes ------------------------------------------------------------------------------------------------------


def test_several_processes_write_the_same_as_one(three, run):
    case(three, "cut.png")
    (three / "masks" / "cut.png").write_bytes((three / "masks" / "cut.png").read_bytes()[:60])
    run(three)
    one = tree(three / "out" / "masks")
    for path in (three / "out" / "masks").iterdir():
        path.unlink()
    failed, _ = run(three, jobs=2)
    assert failed == 1
    assert tree(three / "out" / "masks") == one
    assert [row["run"] for row in rows(three).values()] == ["now", "now", "now", ""]


def test_a_killed_worker_costs_its_case_only(three, filler, monkeypatch):
    """A worker that dies takes the pool with it: what ran beside it is run again, what killed it is told."""
    options = Options(str(filler))
    cases = [
        Case(n.split(".")[0], three / "images" / n, three / "masks" / n, three / n, three / f"{n}.json")
        for n in ("a.png", "b.nii.gz", "c.tif")
    ]
    monkeypatch.setattr(batch, "work", deadly)
    results = {result.name: result for result in in_processes(cases, options, 2)}
    assert sorted(results) == ["a", "b", "c"]
    assert [name for name, result in results.items() if result.record is None] == ["b"]
    assert "was killed" in results["b"].error
    assert as_row(results["b"])["status"] == "failed"


def deadly(case, work=batch.work):
    """As `batch.work`, but one case is its death."""
    if case.name == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    return work(case)


def test_ctrl_c_stops_all_processes_and_the_next_call_goes_on(tmp_path, filler, run):
    names = [f"{n}.png" for n in range(16)]
    for name in names:
        case(tmp_path, name)
    folders = ["--images", tmp_path / "images", "--masks", tmp_path / "masks", "-o", tmp_path / "out"]
    line = command("batch", *folders, "--model", filler, "--jobs", 2, "--steps", 300)
    reports = tmp_path / "out" / "reports"
    with subprocess.Popen(line, env=environment(), stderr=subprocess.PIPE, start_new_session=True) as process:
        while process.poll() is None and not (reports.is_dir() and list(reports.glob("*.json"))):
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does: to all of them
        _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    lines = err.decode().splitlines()
    assert re.fullmatch(r"\d+ of 16 cases are finished; the same command goes on from there\.", lines[0])
    assert lines[1:] == ["rnca: interrupted; nothing was half-written."]
    assert no_process_of_group(process.pid)

    finished = sorted(path.stem for path in reports.iterdir())
    assert 0 < len(finished) < 16
    assert not list((tmp_path / "out").rglob(".*"))  # no temporary files
    for name in finished:
        np.testing.assert_array_equal(load(tmp_path / "out" / "masks" / f"{name}.png"), ring() * 255)
    failed, _ = run(tmp_path, steps=300)
    assert failed == 0
    assert sorted(name for name, row in rows(tmp_path).items() if row["run"] == "earlier") == finished


def no_process_of_group(group):
    """Whether all processes of a group have ended; the last ones may take a moment."""
    for _ in range(600):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_ctrl_c_in_this_process_leaves_its_case_and_keeps_the_others(three, run, monkeypatch, capsys):
    refine = batch.refine_file

    def interrupted(image, *args, **options):
        if image.name == "b.nii.gz":
            raise KeyboardInterrupt
        return refine(image, *args, **options)

    monkeypatch.setattr(batch, "refine_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(three)
    assert "1 of 3 cases are finished" in capsys.readouterr().err
    assert [path.name for path in (three / "out" / "masks").iterdir()] == ["a.png"]
    monkeypatch.undo()
    assert run(three)[0] == 0
    assert [row["run"] for row in rows(three).values()] == ["earlier", "now", "now"]


@pytest.mark.skipif(sys.platform == "win32", reason="kills")
def test_workers_end_when_their_parent_is_killed(tmp_path, filler):
    for n in range(4):
        case(tmp_path, f"{n}.png")
    folders = ["--images", tmp_path / "images", "--masks", tmp_path / "masks", "-o", tmp_path / "out"]
    line = command("batch", *folders, "--model", filler, "--jobs", 2, "--steps", 10_000_000)
    with subprocess.Popen(line, env=environment(), stderr=subprocess.PIPE, start_new_session=True) as process:
        while len(workers_of(process.pid)) < 2:
            time.sleep(0.02)
        time.sleep(0.5)
        process.kill()
        process.wait()
    assert no_process_of_group(process.pid)


def workers_of(group):
    """Process ids of the workers in a process group (Linux)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
            if b"spawn_main" in line and os.getpgid(int(path.parent.name)) == group:
                found.append(int(path.parent.name))
        except (OSError, ProcessLookupError):
            continue
    return found
