"""A training run from the command line: what it leaves in its folder, going on, and the archive made of it."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from rich.console import Console

from rnca.errors import InputError
from rnca.phantoms import phantom
from rnca.runs import Data, command_line, export_run, gather, train_run
from rnca.tidy import Tidying
from rnca.training import Settings
from rnca.zoo import load_model

NETWORK = {"dims": 2, "image_channels": 1, "hidden": 8}
QUIET = Console(quiet=True)
DATA = Data(phantoms=("rings:6",), validation=0.34)


def run(folder: Path, iterations: int, seed: int = 0, workers: int = 0) -> Path:
    settings = Settings(
        iterations=iterations, batch=2, pool=4, patch=24, first=(2, 3), between=(1, 2), precision="float32", seed=seed
    )
    return train_run(folder, "tiny", DATA, NETWORK, settings, None, "cpu", QUIET, workers)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    run(folder, 4)
    return folder


def test_a_run_ends_with_a_model_that_loads_and_knows_its_figures(finished: Path) -> None:
    model = load_model(finished / "tiny.ts")
    assert model.metadata.name == "tiny"
    assert model.metadata.hidden == 8
    figures = json.loads((finished / "figures.json").read_text(encoding="utf-8"))
    assert model.metadata.figures == figures
    assert set(figures) == {f"validation, {steps} steps" for steps in (64, 128, 256)}
    assert (finished / "validation.png").read_bytes().startswith(b"\x89PNG")
    assert list((finished / "tensorboard").iterdir())


def test_workers_change_who_draws_the_patches_and_not_what_comes_of_a_seed(tmp_path: Path) -> None:
    digests = {}
    for name, seed, workers in (("one", 0, 1), ("two", 0, 2), ("other", 1, 1)):
        digests[name] = load_model(run(tmp_path / name, 2, seed, workers)).metadata.weights_sha256
    assert digests["one"] == digests["two"] != digests["other"]
    assert load_model(run(tmp_path / "one", 3, 0, 1)).metadata.weights_sha256 != digests["one"]  # it goes on


def test_validation_is_logged_for_every_kind_of_start(finished: Path) -> None:
    with (finished / "validation.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["iteration"] == "4"
    assert {"soft/dice", "binary/dice", "clean/dice"} <= set(row)


def test_a_run_goes_on_in_its_folder_and_only_with_its_own_options(finished: Path) -> None:
    run(finished, 6)
    for log in ("log.csv", "validation.csv"):
        lines = (finished / log).read_text(encoding="utf-8").splitlines()[1:]
        assert [line.split(",")[0] for line in lines] == ["4", "6"]
    with pytest.raises(InputError, match="other settings"):
        run(finished, 6, seed=1)


def write_cases(folder: Path, names: str) -> Path:
    for name, (image, label) in zip(names, (phantom("rings", (24, 24), n) for n in range(len(names))), strict=True):
        for part, values in (("images", (image * 255).astype(np.uint8)), ("labels", label.astype(np.uint8))):
            (folder / part).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(values), str(folder / part / f"{name}.png"))
    return folder


def test_with_a_folder_to_validate_on_all_other_cases_are_trained_on(tmp_path: Path) -> None:
    train, val = write_cases(tmp_path / "train", "abc"), write_cases(tmp_path / "val", "de")
    training, held = gather(Data(folders=(train,), held=(val,), phantoms=("rings:4:32",), validation=0.25), 2, 1, 24, 0)
    assert {case.label.shape for case in training} == {(24, 24), (32, 32)}
    assert [case.name for case in training if len(case.name) == 1] == ["a", "b", "c"]
    assert [case.name for case in held if len(case.name) == 1] == ["d", "e"]
    assert (len(training), len(held)) == (6, 3)


def test_the_model_and_its_children_see_images_as_the_run_did(tmp_path: Path) -> None:
    spec = {"kind": "local", "sigma": 6.0, "scales": [0.0, 2.0]}
    data = Data(phantoms=("rings:4",), validation=0.5, intensity=spec, colour="green")
    settings = Settings(iterations=1, batch=2, pool=2, patch=24, first=(1, 1), between=(1, 1))
    path = train_run(tmp_path / "a", "a", data, NETWORK | {"image_channels": 2}, settings, None, "cpu", QUIET)
    other = Data(phantoms=("rings:4",), validation=0.5)
    child = train_run(tmp_path / "b", "b", other, NETWORK, settings, str(path), "cpu", QUIET)
    exported = export_run(tmp_path / "b", tmp_path / "c" / "c.ts", "c", "1.0.0", "", "")
    for model in (path, child, exported):
        assert (load_model(model).metadata.intensity, load_model(model).metadata.colour) == (spec, "green")


def test_a_mask_is_tidied_as_by_the_parent_unless_export_is_told_otherwise(finished: Path, tmp_path: Path) -> None:
    given = {"speck_size": 3, "nibble_size": 2, "object_betti": [1, 1], "tolerance": 0.02, "gap_size": 1}
    given |= {"look_size": 9, "bay_width": 7, "object_size": 40}
    parent = export_run(finished, tmp_path / "p" / "p.ts", "p", "1.0.0", "", "", changes=given)
    settings = Settings(iterations=1, batch=2, pool=2, patch=24, first=(1, 1), between=(1, 1))
    run = tmp_path / "b"
    child = train_run(run, "b", DATA, NETWORK, settings, str(parent), "cpu", QUIET)
    inherited = export_run(run, tmp_path / "c" / "c.ts", "c", "1.0.0", "", "")
    none = export_run(run, tmp_path / "d" / "d.ts", "d", "1.0.0", "", "", changes={"speck_size": 0})
    assert [load_model(path).metadata.tidying for path in (parent, child, inherited)] == [
        Tidying(3, 2, [1, 1], tolerance=0.02, gap_size=1, look_size=9, bay_width=7)
    ] * 3
    assert load_model(none).metadata.tidying == replace(load_model(parent).metadata.tidying, speck_size=0)
    assert [load_model(path).metadata.object_size for path in (parent, child, inherited, none)] == [40] * 4
    cards = [path.with_name("README.md").read_text(encoding="utf-8") for path in (inherited, none)]
    for told in (
        "Betti numbers 1, 1",
        "objects with more than 40 voxels on their longer side on a coarser grid",
        "growth of 9 voxels or more that looks like background",
        "bays up to 7 voxels wide that were left half filled",
        "by 2.0% of the mask or less is left alone",
        "up to 1 voxels between them are",
    ):
        assert all(told in card for card in cards)
    assert ["pinholes and cuts of up to 3 voxels" in card for card in cards] == [True, False]


def test_a_card_tells_the_command_and_nothing_about_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/rnca", "train", str(tmp_path / "set" / "train"), "--rate", "0.001"])
    assert command_line() == "rnca train set/train --rate 0.001"


def test_export_writes_card_and_metadata_beside_the_archive(finished: Path, tmp_path: Path) -> None:
    path = export_run(finished, tmp_path / "new" / "own.ts", "own", "2.0.0", "Closes.", "MIT", ["rings; CC0; nobody"])
    card = (path.parent / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# own 2.0.0")
    assert "- rings: CC0. nobody" in card
    stored = json.loads((path.parent / "metadata.json").read_text(encoding="utf-8"))
    assert stored["weights_sha256"] == load_model(path).metadata.weights_sha256
    assert stored["trained_on"] == [{"name": "rings", "licence": "CC0", "citation": "nobody"}]


def test_export_does_not_replace_another_readme(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="give a new folder"):
        export_run(finished, tmp_path / "own.ts", "own", "1.0.0", "", "")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("phantoms", ["rings", "rings:1", "rings:x", "rings:4:x", "rings:4:32:2"])
def test_phantoms_are_given_as_kind_and_count(phantoms: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="KIND:COUNT"):
        train_run(tmp_path, "x", Data(phantoms=(phantoms,)), NETWORK, Settings(), None, "cpu", QUIET)
