"""Repairs of real masks run through, keep the geometry, and report what they did. Needs the shared data folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from rnca.files import sha256
from rnca.jobs import Options, damage_file, refine_file
from rnca.topology import betti_numbers
from rnca.zoo import load_model

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not beside this checkout"),
]


def geometry(image: sitk.Image) -> tuple[object, ...]:
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection(), image.GetPixelID()


def assert_report_is_right(report: Path, before: Path, after: Path, label: int) -> None:
    old, new = (sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in (before, after))
    record = json.loads(report.read_text(encoding="utf-8"))
    assert record["inputs"]["mask"]["sha256"] == sha256(before)
    assert record["output"]["sha256"] == sha256(after)
    (row,) = record["labels"]
    assert row["topology"]["before"]["betti"] == list(betti_numbers(old == label))
    assert row["topology"]["after"]["betti"] == list(betti_numbers(new == label))
    assert row["added"] == int(((new == label) & (old != label)).sum())
    assert row["removed"] == int(((new != label) & (old == label)).sum())
    assert record["changed"] == int((old != new).sum())


@pytest.mark.parametrize("case", ["10_A", "22_A"])
def test_a_networks_vessel_mask_of_a_fundus_photograph(case: str, tmp_path: Path) -> None:
    folder = DATA / "fives_amd" / "test"
    mask, out, report = (
        folder / "predictions" / "antillia_unet" / f"{case}.png",
        tmp_path / "o.png",
        tmp_path / "r.json",
    )
    options = Options(model="ring-2d", steps=16, report=report)
    refine_file(folder / "images" / mask.name, mask, out, options)
    before, after = (sitk.ReadImage(str(p)) for p in (mask, out))
    assert geometry(before) == geometry(after)
    assert_report_is_right(report, mask, out, 255)


@pytest.mark.parametrize("case", ["patient001_frame01", "patient014_frame13"])
def test_a_damaged_myocardium_among_other_labels(case: str, tmp_path: Path) -> None:
    folder = DATA / "acdc" / "test"
    truth, broken, out = folder / "labels" / f"{case}.nii.gz", tmp_path / "broken.nii.gz", tmp_path / "out.nii.gz"
    damage_file(truth, broken, "wedges", 0.5, 1, label=2)
    report = tmp_path / "report.json"
    options = Options(label=2, report=report)
    refine_file(folder / "images" / truth.name, broken, out, options, model=load_model("ring-2d"))
    before, after = (sitk.ReadImage(str(p)) for p in (broken, out))
    assert geometry(before) == geometry(after)
    old, new = (sitk.GetArrayFromImage(i) for i in (before, after))
    others = (old != 0) & (old != 2)
    assert others.any()
    assert np.array_equal(old[others], new[others])
    assert_report_is_right(report, broken, out, 2)
