"""The command line: what it prints where, its exit codes, and that bad input is one sentence and leaves nothing."""

import csv
import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import typer

import conftest
from little import broken, case, command, environment, load, ring, run_cli, save, save_filler, tree
from rnca import __version__, betti_numbers, cli, files, metrics, zoo
from rnca.defects import damage
from rnca.training import Settings


@pytest.fixture(scope="module")
def filler(tmp_path_factory):
    return save_filler(tmp_path_factory.mktemp("model"))


@pytest.fixture
def rnca(monkeypatch):
    """Run `rnca ARGS` in this process; returns the exit code."""
    return lambda *args: run_cli(monkeypatch, *args)


# --- refine ---------------------------------------------------------------------------------------------------------


def test_refine_repairs_and_tells_so_on_stderr(tmp_path, rnca, filler, capsys):
    image, mask = case(tmp_path)
    out, report, gif = tmp_path / "out.png", tmp_path / "report.json", tmp_path / "a.gif"
    assert rnca("refine", image, mask, "-o", out, "--model", filler, "--report", report, "--animate", gif) == 0
    np.testing.assert_array_equal(load(out), ring() * 255)
    printed = capsys.readouterr()
    assert printed.out == ""
    record = json.loads(report.read_text(encoding="utf-8"))
    row = record["labels"][0]
    assert (
        f"label 255: pieces 2 → 1, holes 0 → 1; {row['added']} voxels added, {row['removed']} removed in 24 steps."
        in (printed.err)
    )
    for path in (out, report, gif):
        assert f"{path} written" in printed.err
        assert path.is_file()
    assert "filler 1.2.3" in printed.err


def test_a_mask_that_is_left_alone_is_said_to_be_and_a_region_repairs_it(tmp_path, rnca, capsys):
    """Two pixels in a row are missing at the border of 400: half a per cent, where one is tolerated."""
    truth = np.pad(np.ones((20, 20), bool), 6)
    mask = truth.copy()
    mask[6, 10:12] = False
    image = save(tmp_path / "image.png", (truth * 200 + 20).astype(np.uint8))
    start = save(tmp_path / "mask.png", (mask * 255).astype(np.uint8))
    net = conftest.filler()
    model = zoo.save_model(net, tmp_path / "m.ts", zoo.describe(net, "m", steps=24, tolerance=0.01))
    out, words = tmp_path / "out.png", ["refine", image, start, "--model", model]
    assert rnca(*words, "-o", out) == 0
    np.testing.assert_array_equal(load(out), mask * 255)
    told = capsys.readouterr().err
    assert "label 255: pieces 1 → 1, holes 0 → 0; no voxel changed in 24 steps; with --roi" in told
    assert rnca(*words, "-o", out, "--roi", "8:14,5:8") == 0
    np.testing.assert_array_equal(load(out), truth * 255)
    assert "2 voxels added, 0 removed in 24 steps." in capsys.readouterr().err


def test_options_reach_the_repair(tmp_path, rnca, filler):
    image, mask = case(tmp_path)
    report = tmp_path / "report.json"
    options = ["--steps", 7, "--label", 255, "--roi", "0:20,:", "--device", "cpu", "--patience", 3, "--bfloat16"]
    assert rnca("refine", image, mask, "-o", tmp_path / "o.png", "--model", filler, *options, "--report", report) == 0
    assert json.loads(report.read_text(encoding="utf-8"))["options"] == {
        "steps": 7, "label": 255, "roi": "0:20,:", "soft": False, "device": "cpu", "patience": 3, "bfloat16": True
    }  # fmt: skip
    assert rnca("refine", image, mask, "-o", tmp_path / "o.png", "--model", filler, "--soft", "--report", report) == 0
    options = json.loads(report.read_text(encoding="utf-8"))["options"]
    assert (options["soft"], options["steps"], options["patience"]) == (True, None, 0)
    assert rnca("refine", image, mask, "-o", tmp_path / "o.png", "--model", filler, "--label", "all") == 0


def test_an_empty_mask_stays_empty_exits_0_and_says_why(tmp_path, rnca, filler, capsys):
    image, _ = case(tmp_path, "case.nii.gz")
    mask = save(tmp_path / "empty.nii.gz", np.zeros((4, 24, 26), np.uint8))
    assert rnca("refine", image, mask, "-o", tmp_path / "out.nii.gz", "--model", filler) == 0
    assert not load(tmp_path / "out.nii.gz").any()
    assert "nothing to repair: it has no voxel here" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["constant", "nan", "all nan"])
def test_constant_and_undefined_images_run_through(tmp_path, rnca, filler, kind):
    pixels = np.full((4, 24, 26), 3.0, np.float32)
    if kind == "nan":
        pixels[:] = ring((4, 24, 26))
        pixels[:, 0] = np.nan
    elif kind == "all nan":
        pixels[:] = np.nan
    _, mask = case(tmp_path, "case.nrrd")
    image = save(tmp_path / "image.nrrd", pixels)
    assert rnca("refine", image, mask, "-o", tmp_path / "out.nrrd", "--model", filler) == 0
    after = load(tmp_path / "out.nrrd")
    expected = ring((4, 24, 26)) if kind == "nan" else np.zeros((4, 24, 26))  # the filler sees nothing: it clears all
    np.testing.assert_array_equal(after != 0, expected)


def test_a_dicom_series_is_an_image(tmp_path, rnca, filler):
    truth = ring((4, 24, 26))
    (tmp_path / "series").mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, pixels in enumerate((truth * 300).astype(np.int16)):
        part = sitk.GetImageFromArray(pixels)
        fields = {
            "0020|000e": "1.2.3.4", "0020|000d": "1.2.3", "0008|0018": f"1.2.3.4.{k}", "0020|0013": str(k),
            "0020|0032": f"0\\0\\{5 * k}", "0020|0037": "1\\0\\0\\0\\1\\0", "0008|0060": "MR",
        }  # fmt: skip
        for key, text in fields.items():
            part.SetMetaData(key, text)
        writer.SetFileName(str(tmp_path / "series" / f"{k}.dcm"))
        writer.Execute(part)
    given = sitk.GetImageFromArray(broken(truth).astype(np.uint8))
    given.SetSpacing((1, 1, 5))
    sitk.WriteImage(given, str(tmp_path / "mask.nii.gz"))
    args = [tmp_path / "series", tmp_path / "mask.nii.gz", "-o", tmp_path / "out.nii.gz", "--model", filler]
    assert rnca("refine", *args) == 0
    np.testing.assert_array_equal(load(tmp_path / "out.nii.gz"), truth)


# --- bad input ------------------------------------------------------------------------------------------------------


def four_dimensions(folder):
    image = sitk.GetImageFromArray(np.ones((2, 3, 24, 26), np.uint8), isVector=False)
    sitk.WriteImage(image, str(folder / "4d.nii.gz"))
    return folder / "4d.nii.gz"


def cut(path, share=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def two_labels(folder):
    mask = broken(ring()).astype(np.uint8)
    mask[1, 1] = 2
    return save(folder / "two.png", mask)


def changed_model(folder):
    model = save_filler(folder / "changed")
    model.write_bytes(model.read_bytes() + b" ")
    return model


def pickled_model(folder, kind):
    path = folder / f"{kind}.ts"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"weights": [1, 2]}))
    else:
        torch.save({"weights": torch.ones(2)}, path)  # a zip, as TorchScript archives are
    manifest = {path.name: __import__("hashlib").sha256(path.read_bytes()).hexdigest()}
    (folder / zoo.MANIFEST).write_text(json.dumps(manifest))
    return path


def unlisted_model(folder):
    model = save_filler(folder / "unlisted")
    (folder / "unlisted" / zoo.MANIFEST).unlink()
    return model


def not_a_network(folder):
    path = folder / "other.ts"
    torch.jit.script(torch.nn.ReLU()).save(str(path))
    zoo.trust(path)
    return path


BAD = {
    "image missing": (lambda d: {"image": d / "no.png"}, "does not exist"),
    "mask missing": (lambda d: {"mask": d / "no.png"}, "does not exist"),
    "image not an image": (lambda d: {"image": save_text(d / "a.txt")}, "not supported"),
    "image only named so": (lambda d: {"image": save_text(d / "a.png")}, "cannot be read"),
    "image cut off": (lambda d: {"image": cut(case(d, "cut.png")[0])}, "cannot be read"),
    "mask cut off": (lambda d: {"mask": cut(case(d, "cut.tif")[1])}, "cannot be read"),
    "volume cut off": (lambda d: {"mask": cut(case(d, "cut.nii.gz")[1])}, "cut off or damaged"),
    "volume cut off, mha": (lambda d: {"mask": cut(case(d, "cut.mha")[1])}, "cannot be read"),
    "image empty folder": (lambda d: {"image": made(d / "empty")}, "no DICOM slices"),
    "other size": (lambda d: {"mask": save(d / "small.png", ring((20, 20)))}, "differ in size"),
    "other spacing": (lambda d: volumes(d, spacing=(0.5, 0.7, 3.0)), "differ in spacing"),
    "other dimensions": (lambda d: {"mask": case(d, "c.nrrd")[1]}, "differ in size"),
    "more than three dimensions": (lambda d: {"image": four_dimensions(d)}, "has 4 dimensions"),
    "mask with NaN": (lambda d: nan_mask(d), "NaN"),
    "mask in colour": (lambda d: {"mask": colours(d)}, "colour picture"),
    "label absent": (lambda d: {"--label": 9}, "label 9 is not in the mask: it holds 255"),
    "label not a number": (lambda d: {"--label": "liver"}, "'liver'"),
    "label background": (lambda d: {"--label": 0}, "label 0"),
    "several labels": (lambda d: {"mask": two_labels(d)}, "say which one"),
    "soft and label": (lambda d: {"--soft": None, "--label": 255}, "either soft or label"),
    "soft beyond 1": (lambda d: soft_beyond(d), "a soft mask holds 0..1"),
    "model missing": (lambda d: {"--model": "no-such-model"}, "there is no model 'no-such-model'"),
    "model digest": (lambda d: {"--model": changed_model(d)}, "damaged or was replaced"),
    "model pickle": (lambda d: {"--model": pickled_model(d, "pickle")}, "never loaded"),
    "model zip pickle": (lambda d: {"--model": pickled_model(d, "zip")}, "never loaded"),
    "model unlisted": (lambda d: {"--model": unlisted_model(d)}, "rnca models --trust"),
    "model cut off": (lambda d: {"--model": cut(save_filler(d / "cut"))}, "damaged or was replaced"),
    "model of something else": (lambda d: {"--model": not_a_network(d)}, "not an rnca model"),
    "model for volumes": (lambda d: {"--model": save_filler(d / "three", dims=3)}, "choose a 2-D model"),
    "steps negative": (lambda d: {"--steps": -1}, "steps is -1"),
    "steps not a number": (lambda d: {"--steps": "many"}, "Invalid value for '--steps'"),
    "patience negative": (lambda d: {"--patience": -1}, "patience is -1"),
    "roi outside": (lambda d: {"--roi": "0:99,0:5"}, "outside the image"),
    "roi empty": (lambda d: {"--roi": "5:5,0:5"}, "is empty"),
    "roi axes": (lambda d: {"--roi": "0:5,0:5,0:5"}, "3 axes and the image 2"),
    "roi form": (lambda d: {"--roi": "0-5"}, "not of the form"),
    "device unknown": (lambda d: {"--device": "tpu"}, "tpu"),
    "output folder missing": (lambda d: {"-o": d / "no" / "out.png"}, "create it first"),
    "output is a folder": (lambda d: {"-o": made(d / "folder")}, "cannot write"),
    "output suffix": (lambda d: {"-o": d / "out.jpg"}, "suffix must be one of"),
    "output without suffix": (lambda d: {"-o": d / "out"}, "end the name in"),
    "output is the image": (lambda d: {"-o": d / "images" / "case.png"}, "never overwritten"),
    "output is the mask": (lambda d: {"-o": d / "masks" / ".." / "masks" / "case.png"}, "never overwritten"),
    "output of a volume as picture": (lambda d: volumes(d) | {"-o": d / "out.png"}, "PNG holds no volumes"),
    "report is the mask": (lambda d: {"--report": d / "masks" / "case.png"}, "never overwritten"),
    "report folder missing": (lambda d: {"--report": d / "no" / "report.json"}, "create it first"),
    "report is the output": (lambda d: {"-o": d / "out.png", "--report": d / "out.png"}, "same name"),
    "animation suffix": (lambda d: {"--animate": d / "a.mp4"}, ".gif"),
    "confidence suffix": (lambda d: {"--confidence": d / "a.txt"}, "suffix must be one of"),
    "option unknown": (lambda d: {"--colour": "red"}, "--colour"),
}
if not torch.cuda.is_available():
    BAD["no GPU"] = (lambda d: {"--device": "cuda"}, "sees no CUDA GPU")


def save_text(path):
    path.write_text("not an image")
    return path


def made(folder):
    folder.mkdir()
    return folder


def volumes(folder, spacing=None):
    image, _ = case(folder, "v.nrrd")
    mask = save(folder / "v-mask.nrrd", broken(ring((4, 24, 26))), spacing=spacing)
    return {"image": image, "mask": mask}


def nan_mask(folder):
    values = broken(ring((4, 24, 26))).astype(np.float32)
    values[0, 0, 0] = np.nan
    return volumes(folder) | {"mask": save(folder / "nan.nrrd", values)}


def soft_beyond(folder):
    return {"mask": save(folder / "soft.tif", (ring() * 300).astype(np.uint16)), "--soft": None}


def colours(folder):
    pixels = np.zeros((24, 26, 3), np.uint8)
    pixels[5:9, 5:9, 0] = 255
    sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=True), str(folder / "colour.png"))
    return folder / "colour.png"


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_exit_code_2_and_nothing_written(tmp_path, rnca, filler, capfd, name):
    prepare, words = BAD[name]
    image, mask = case(tmp_path)
    args = {"image": image, "mask": mask, "-o": tmp_path / "result.png", "--model": filler, **prepare(tmp_path)}
    before = tree(tmp_path)
    options = [part for key, value in list(args.items())[2:] for part in (key, value) if part is not None]
    capfd.readouterr()
    assert rnca("refine", args["image"], args["mask"], *options) == 2
    printed = capfd.readouterr()  # of the process, libraries included
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("rnca: ")
    assert words in lines[0]
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["check", "no.png"], "does not exist"),
        (["check", "mask.png", "--label", "7"], "label 7 is not in the mask"),
        (["check", "mask.png", "--report", "mask.png"], "never overwritten"),
        (["check", "mask.png", "--report", "no/r.json"], "create it first"),
        (["damage", "mask.png", "-o", "o.png", "--kind", "explode", "--seed", "1"], "no kind of damage 'explode'"),
        (["damage", "mask.png", "-o", "o.png", "--kind", "gaps", "--seed", "-1"], "seed is -1"),
        (["damage", "mask.png", "-o", "o.png", "--kind", "gaps", "--seed", "1", "--severity", "2"], "severity is 2"),
        (["damage", "mask.png", "-o", "mask.png", "--kind", "gaps", "--seed", "1"], "never overwritten"),
        (["damage", "mask.png", "-o", "o.png", "--kind", "gaps", "--seed", "1", "--report", "no/r"], "create it first"),
        (["damage", "mask.png", "-o", "o.png", "--kind", "gaps"], "--seed"),
        (["evaluate", "mask.png", "no.png"], "does not exist"),
        (["evaluate", ".", "empty"], "no mask named mask"),
        (["evaluate", "mask.png", "mask.png", "-o", "mask.png"], "never overwritten"),
        (["models", "no-such-model"], "no shipped model 'no-such-model'"),
        (["models", "--trust", "no.ts"], "cannot be read"),
        (["models", "--trust", "mask.png"], "not a TorchScript archive"),
        (["batch", "--images", "no", "--masks", ".", "-o", "o", "--model", "MODEL"], "is not a folder"),
        (["batch", "--images", ".", "--masks", "empty", "-o", "o", "--model", "MODEL"], "holds no masks"),
        (["batch", "--images", ".", "--masks", ".", "-o", "o", "--model", "no"], "there is no model"),
        (["batch", "--images", ".", "--masks", ".", "-o", "o", "--model", "MODEL", "--jobs", "0"], "jobs"),
        (["nonsense"], "nonsense"),
    ],
)
def test_bad_input_to_the_other_commands(tmp_path, monkeypatch, rnca, filler, capfd, args, words):
    monkeypatch.chdir(tmp_path)
    save(Path("mask.png"), ring())
    Path("empty").mkdir()
    before = tree(tmp_path)
    assert rnca(*[filler if arg == "MODEL" else arg for arg in args]) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert words in printed.err
    assert len(printed.err.splitlines()) == 1
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["case.png", "case.nii.gz"])
def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path, rnca, filler, monkeypatch, capfd, name):
    image, mask = case(tmp_path, name)
    out = tmp_path / f"out-{name}"
    out.write_bytes(b"an earlier result")
    before = tree(tmp_path)

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    assert rnca("refine", image, mask, "-o", out, "--model", filler) == 2
    assert capfd.readouterr().err.splitlines() == [f"rnca: cannot write {out}: no space left on device"]
    assert tree(tmp_path) == before


def test_a_nifti_that_ends_early_because_the_disk_is_full_is_noticed(tmp_path, rnca, filler, monkeypatch, capfd):
    image, mask = case(tmp_path, "case.nii.gz")
    write = sitk.WriteImage

    def half(image, path, **options):
        write(image, path, **options)
        cut(Path(path))

    before = tree(tmp_path)
    monkeypatch.setattr(files.sitk, "WriteImage", half)
    assert rnca("refine", image, mask, "-o", tmp_path / "out.nii.gz", "--model", filler) == 2
    assert "no space left" in capfd.readouterr().err
    assert tree(tmp_path) == before


def test_no_permission_to_write_is_told(tmp_path, rnca, filler, capfd):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    image, mask = case(tmp_path)
    closed = made(tmp_path / "closed")
    closed.chmod(0o500)
    assert rnca("refine", image, mask, "-o", closed / "out.png", "--model", filler) == 2
    assert "permission" in capfd.readouterr().err


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)
def test_too_little_memory_is_told_with_what_to_do(tmp_path, rnca, filler, monkeypatch, capfd, error):
    from rnca import jobs

    def stream(*args, **options):
        raise error

    monkeypatch.setattr(jobs, "stream", stream)
    image, mask = case(tmp_path)
    assert rnca("refine", image, mask, "-o", tmp_path / "out.png", "--model", filler) == 2
    assert capfd.readouterr().err == "rnca: not enough memory: give a region of interest (--roi), or a smaller image.\n"


def test_a_bug_keeps_its_traceback(tmp_path, rnca, filler, monkeypatch):
    from rnca import jobs

    def stream(*args, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(jobs, "stream", stream)
    monkeypatch.setattr(sys, "argv", ["rnca", "refine", *map(str, case(tmp_path)), "-o", f"{tmp_path}/o.png"])
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--model", str(filler)])
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main()


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------


def test_ctrl_c_while_writing_leaves_what_was_there(tmp_path, rnca, filler, monkeypatch, capfd):
    image, mask = case(tmp_path)
    out = tmp_path / "out.png"
    out.write_bytes(b"an earlier result")
    before = tree(tmp_path)

    def interrupted(image, path, **options):
        Path(path).write_bytes(b"half a fi")
        raise KeyboardInterrupt

    monkeypatch.setattr(files.sitk, "WriteImage", interrupted)
    assert rnca("refine", image, mask, "-o", out, "--model", filler) == 130
    assert capfd.readouterr().err.splitlines() == ["rnca: interrupted; nothing was half-written."]
    assert tree(tmp_path) == before


TELLS_STEPS = """
import rnca.jobs
from rnca.cli import main
stream = rnca.jobs.stream

def told(*args, **options):
    for step in stream(*args, **options):
        print(step.index, flush=True)
        yield step

rnca.jobs.stream = told
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_repair_interrupted_half_way_exits_130_and_leaves_nothing(tmp_path, filler, number):
    image, mask = case(tmp_path)
    before = tree(tmp_path)
    args = ["refine", image, mask, "-o", tmp_path / "out.png", "--model", filler, "--steps", 10_000_000]
    args += ["--report", tmp_path / "report.json"]
    line = [sys.executable, "-c", TELLS_STEPS, *map(str, args)]
    with subprocess.Popen(line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert err.decode().splitlines() == ["rnca: interrupted; nothing was half-written."]
    assert tree(tmp_path) == before


# --- as a process ---------------------------------------------------------------------------------------------------


def test_exit_codes_of_a_real_process(tmp_path, filler):
    image, mask = case(tmp_path)
    args = ["refine", image, mask, "-o", tmp_path / "out.png", "--model", filler]
    good = subprocess.run(command(*args), env=environment(), capture_output=True, encoding="utf-8")
    assert (good.returncode, good.stdout) == (0, "")
    np.testing.assert_array_equal(load(tmp_path / "out.png"), ring() * 255)
    bad = subprocess.run(command(*args, "--steps", -4), env=environment(), capture_output=True, encoding="utf-8")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == "rnca: steps is -4: give 0 or more.\n"


def test_a_reader_of_json_that_leaves_early_gets_no_traceback(tmp_path):
    mask = np.zeros((128, 128), np.uint8)
    mask[::2, ::2] = 1  # more JSON than a pipe holds
    path = save(tmp_path / "mask.png", mask)
    line = command("check", path, "--json")
    with subprocess.Popen(line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 1  # as Click has it


# --- check, damage, evaluate, models --------------------------------------------------------------------------------


def test_check_shows_a_hole_where_it_is(tmp_path, rnca, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    mask = np.zeros((20, 30), np.uint8)
    mask[2:18, 3:27] = 1
    mask[5:7, 8:11] = 0
    path = save(tmp_path / "mask.png", mask)
    assert rnca("check", path) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"label 1: {mask.sum()} voxels, β0 = 1, β1 = 1" in printed.err
    (row,) = [line for line in printed.err.splitlines() if "hole" in line]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["hole", "6", "9.0, 5.5", "8:11, 5:7"]


def test_check_json_on_stdout_is_all_that_is_there_and_equals_the_report(tmp_path, rnca, capfd):
    path = save(tmp_path / "mask.nrrd", broken(ring((4, 24, 26))).astype(np.uint8) * 3)
    assert rnca("check", path, "--json", "--report", tmp_path / "r.json") == 0
    printed = capfd.readouterr()
    record = json.loads(printed.out)
    assert printed.err == ""
    assert record == json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert record["labels"][0]["topology"]["betti"] == [2, 0, 0]


def test_check_tells_that_a_mask_is_empty(tmp_path, rnca, capsys):
    path = save(tmp_path / "mask.png", np.zeros((20, 30), np.uint8))
    assert rnca("check", path) == 0
    assert "is empty" in capsys.readouterr().err


def test_damage_of_one_seed_is_the_same_file_and_of_another_is_not(tmp_path, rnca, capsys):
    path = save(tmp_path / "mask.png", ring() * np.uint8(255))
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        args = ["--kind", "gaps", "--severity", 0.7, "--seed", seed, "--report", tmp_path / f"{name}.json"]
        assert rnca("damage", path, "-o", tmp_path / f"{name}.png", *args) == 0
    first, again, other = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert first == again != other
    np.testing.assert_array_equal(load(tmp_path / "a.png") != 0, damage(ring(), "gaps", 0.7, 3))
    row = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["labels"][0]
    assert row["topology"]["after"]["betti"] == list(betti_numbers(load(tmp_path / "a.png")))
    assert f"0 voxels added, {row['removed']} removed" in capsys.readouterr().err


def test_evaluate_writes_a_row_a_case_and_prints_means(tmp_path, rnca, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    for name, pred in (("a", ring()), ("b", broken(ring()))):
        save(tmp_path / "pred" / f"{name}.png", pred)
        save(tmp_path / "truth" / f"{name}.png", ring())
        save(tmp_path / "before" / f"{name}.png", broken(ring()))
    save(tmp_path / "truth" / "forgotten.png", ring())
    args = [tmp_path / "pred", tmp_path / "truth", "--before", tmp_path / "before"]
    assert rnca("evaluate", *args, "-o", tmp_path / "s.csv", "--report", tmp_path / "r.json") == 0
    rows = list(csv.DictReader((tmp_path / "s.csv").open(newline="", encoding="utf-8")))
    assert [row["case"] for row in rows] == ["a", "b"]
    assert float(rows[1]["dice"]) == pytest.approx(metrics.dice(broken(ring()), ring()))
    assert [float(row["repaired"]) for row in rows] == [1, 0]
    record = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert record["mean"]["dice"] == pytest.approx((1 + float(rows[1]["dice"])) / 2)
    printed = capsys.readouterr().err
    assert "without a prediction, and so in no mean: forgotten." in printed
    (line,) = [line for line in printed.splitlines() if " repaired " in line]
    assert [cell.strip() for cell in line.split("│")[1:-1]] == ["repaired", "0.5000", "0.5000", "2"]


def test_a_model_from_elsewhere_works_once_it_is_trusted(tmp_path, rnca, capsys):
    image, mask = case(tmp_path)
    model = unlisted_model(tmp_path)
    args = ["refine", image, mask, "-o", tmp_path / "out.png", "--model", model]
    assert rnca(*args) == 2
    assert rnca("models", "--trust", model) == 0
    assert f"{model} is trusted now" in capsys.readouterr().err
    assert rnca(*args) == 0


def test_trust_never_lists_a_pickle(tmp_path, rnca, capsys):
    model = pickled_model(tmp_path, "zip")
    (tmp_path / zoo.MANIFEST).unlink()
    assert rnca("models", "--trust", model) == 2
    assert "never loaded" in capsys.readouterr().err
    assert not (tmp_path / zoo.MANIFEST).exists()


def test_models_lists_what_is_shipped(tmp_path, rnca, monkeypatch, capfd):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(zoo, "ZOO", tmp_path)
    archive = save_filler(tmp_path / "filler")
    with zipfile.ZipFile(archive) as inside:
        (entry,) = [name for name in inside.namelist() if name.endswith(zoo.EMBEDDED)]
        (tmp_path / "filler" / zoo.EMBEDDED).write_bytes(inside.read(entry))
    (tmp_path / "filler" / "README.md").write_text("# filler\n\nFills what is bright.\n", encoding="utf-8")
    assert rnca("models") == 0
    assert "filler" in capfd.readouterr().err
    assert rnca("models", "--json") == 0
    printed = capfd.readouterr()
    assert json.loads(printed.out)["filler"]["version"] == "1.2.3"
    assert printed.err == ""
    assert rnca("models", "filler") == 0
    assert "Fills what is bright." in capfd.readouterr().err
    image, mask = case(tmp_path)
    assert rnca("refine", image, mask, "-o", tmp_path / "out.png", "--model", "filler") == 0


# --- help -----------------------------------------------------------------------------------------------------------

COMMANDS = list(typer.main.get_command(cli.app).commands)


def test_the_commands_of_the_contract_are_there():
    assert {"refine", "check", "evaluate", "damage", "batch", "train", "export", "models", "demo"} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(rnca, capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    assert rnca(name, "--help") == 0
    assert f"Example: rnca {name}" in capsys.readouterr().out


def test_version(rnca, capsys):
    assert rnca("--version") == 0
    assert capsys.readouterr().out == f"rnca {__version__}\n"


def test_file_names_are_printed_as_they_are(tmp_path, rnca, filler, capsys):
    image, mask = case(tmp_path)
    out = tmp_path / "[red]:smile:out.png"
    assert rnca("refine", image, mask, "-o", out, "--model", filler) == 0
    assert f"{out} written" in capsys.readouterr().err


def test_a_zoom_from_large_to_small_is_refused(tmp_path, rnca, capfd):
    words = ["train", "--phantoms", "rings:4", "--zoom", "1.5", "0.8", "-o", tmp_path / "run"]
    assert rnca(*words) == 2
    assert "smaller factor first" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_options_of_train_become_settings_of_the_run(tmp_path, rnca, monkeypatch):
    runs = []
    monkeypatch.setattr("rnca.runs.train_run", lambda *given: runs.append(given) or tmp_path)
    words = "--batch 6 --fresh 3 --hold 8 --focus 0.3 --topology 3 --most 2 --zoom 1 1.5 --rate 0.0004 --clean 0.4"
    words += " --neighbours 0.5"
    assert rnca("train", "--phantoms", "rings:4", *words.split(), "-o", tmp_path / "run") == 0
    (settings,) = [value for value in runs[0] if isinstance(value, Settings)]
    assert (settings.batch, settings.fresh, settings.hold, settings.focus) == (6, 3, 8.0, 0.3)
    assert (settings.topology, settings.zoom, settings.learning_rate) == (3.0, (1.0, 1.5), 0.0004)
    assert (settings.starts.most, settings.starts.clean, settings.neighbours) == (2, 0.4, 0.5)
    assert rnca("train", "--phantoms", "rings:4", "--batch", "1", "-o", tmp_path / "run") == 0
    assert [value.fresh for value in runs[1] if isinstance(value, Settings)] == [1]  # no more than the batch


def test_options_of_export_become_rules_of_the_model(tmp_path, rnca, monkeypatch, capfd):
    runs = []
    monkeypatch.setattr("rnca.runs.export_run", lambda *given: runs.append(given[-1]) or tmp_path)
    words = ["export", tmp_path, "-o", tmp_path / "m.ts"]
    for more in (
        [],
        ["--specks", 5, "--bites", 4, "--bulges", "0.8", "--looks", 9, "--betti", "1,1"],
        ["--keep-holes", "--betti", "none", "--tolerance", "0.02", "--gaps", "2", "--bays", 7, "--object-size", 90],
    ):
        assert rnca(*words, *more) == 0
    third = {"keep_holes": True, "gap_size": 2, "bay_width": 7, "tolerance": 0.02, "object_betti": None}
    third["object_size"] = 90
    second = {"speck_size": 5, "bite_size": 4, "bulge_ratio": 0.8, "look_size": 9, "object_betti": [1, 1]}
    assert runs == [{}, second, third]
    capfd.readouterr()
    assert rnca(*words, "--betti", "ring") == 2
    assert "not as 'ring'" in capfd.readouterr().err and len(runs) == 3
