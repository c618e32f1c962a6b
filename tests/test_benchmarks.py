"""The benchmarks' own parts: loaders of published layouts, refiners, damage, training of base networks, tables."""

import csv
import json
import math
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import nn

import ablation
import fill
import models
import recipes
import reexport
import rings
import rnca
import segmenters
import vessels
import volumes
from common import refiners
from common.chunks import cut_chunks, cut_one
from common.data import Picture, read_acdc, read_cases, read_chaos_ct, read_drive, read_stack
from common.fitting import Fit, Recipe, Sample, draw_batch, fit, predict
from common.inflate import inflate
from common.running import choose, guarded, measure
from common.scores import patch_boxes, patch_scores, pool_patches
from common.tables import Rows, aggregate, as_csv, markdown
from conftest import discs, filler, random_net
from little import save
from rnca.automaton import RNCA
from rnca.cards import parse_source
from rnca.cases import Case
from rnca.errors import InputError
from rnca.metrics import betti_errors, cldice, dice
from rnca.topology import betti_numbers
from rnca.training import Settings
from rnca.zoo import Model, as_model, describe, load_model, save_model

Mask = NDArray[np.bool_]


def disk(edge: int, radius: float) -> Mask:
    y, x = np.ogrid[:edge, :edge]
    return (y - edge // 2) ** 2 + (x - edge // 2) ** 2 <= radius**2


# --- loaders --------------------------------------------------------------------------------------------------------


def make_drive(folder: Path, numbers: tuple[str, ...] = ("21", "22"), edge: int = 96) -> Path:
    """DRIVE's layout with stripes for vessels."""
    root = folder / "training"
    for part in ("images", "1st_manual", "mask"):
        (root / part).mkdir(parents=True)
    for place, number in enumerate(numbers):
        truth = np.zeros((edge, edge), np.uint8)
        truth[10 + place : 14 + place] = 255
        Image.fromarray(np.repeat(truth[..., None], 3, -1) // 2).save(root / "images" / f"{number}_training.tif")
        Image.fromarray(truth).save(root / "1st_manual" / f"{number}_manual1.gif")
        Image.fromarray(np.full((edge, edge), 255, np.uint8)).save(root / "mask" / f"{number}_training_mask.gif")
    return folder


def test_drive_folder_gives_photographs_with_their_manual_segmentation(tmp_path: Path) -> None:
    make_drive(tmp_path)
    (tmp_path / "training" / "1st_manual" / "22_manual1.gif").unlink()
    (case,) = read_drive(tmp_path)
    assert (case.name, case.image.shape, case.truth.sum()) == ("21_training", (96, 96, 3), 4 * 96)
    assert (case.image[..., 0] > 100).tolist() == case.truth.tolist()


def test_drive_folder_elsewhere_or_with_wrong_sizes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="DRIVE's own folder"):
        read_drive(tmp_path)
    make_drive(tmp_path)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "training" / "1st_manual" / "21_manual1.gif")
    with pytest.raises(InputError, match="differ in size"):
        read_drive(tmp_path)


def make_chaos(folder: Path, slices: int = 11, edge: int = 64) -> Path:
    """CHAOS CT's layout, one patient; slice n shows a disk that grows with n, the first one none."""
    patient = folder / "CT" / "1"
    (patient / "DICOM_anon").mkdir(parents=True)
    (patient / "Ground").mkdir()
    for n in range(slices):
        liver = disk(edge, 2 * n) if n else np.zeros((edge, edge), bool)
        image = sitk.GetImageFromArray(np.where(liver, 100 + n, -50).astype(np.int16)[None])
        image.SetSpacing((0.5, 0.75, 3.0))
        image.SetMetaData("0008|0060", "CT")
        sitk.WriteImage(image, str(patient / "DICOM_anon" / f"i{n},0000b.dcm"))
        Image.fromarray(liver).save(patient / "Ground" / f"liver_GT_{n:03d}.png")
    return folder


@pytest.mark.parametrize("inside", [True, False], ids=["folder", "CT"])
def test_chaos_ct_pairs_slices_and_masks_by_number(tmp_path: Path, inside: bool) -> None:
    make_chaos(tmp_path)
    cases = read_chaos_ct(tmp_path if inside else tmp_path / "CT")
    assert [case.name for case in cases] == [f"1_{n:03d}" for n in range(1, 11)]
    for n, case in enumerate(cases, start=1):
        assert (case.image[case.truth] == 100 + n).all()
        assert (case.image[~case.truth] == -50).all()
    assert cases[0].spacing == (0.75, 0.5)


def test_chaos_ct_with_a_lost_slice_is_refused(tmp_path: Path) -> None:
    make_chaos(tmp_path, slices=3)
    next((tmp_path / "CT" / "1" / "Ground").iterdir()).unlink()
    with pytest.raises(InputError, match="3 slices in DICOM_anon and 2 in Ground"):
        read_chaos_ct(tmp_path)


def save_nifti(path: Path, array: NDArray[np.generic], spacing: tuple[float, float, float]) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def test_acdc_folder_gives_annotated_frames_with_patient_and_spacing(tmp_path: Path) -> None:
    labels = np.zeros((3, 20, 24), np.uint8)
    labels[1, 5:9, 5:9] = 2
    folder = tmp_path / "training" / "patient007"
    save_nifti(folder / "patient007_frame01.nii.gz", labels.astype(np.int16) * 9, (1.5, 1.25, 10.0))
    save_nifti(folder / "patient007_frame01_gt.nii.gz", labels, (1.5, 1.25, 10.0))
    save_nifti(folder / "patient007_4d.nii.gz", labels, (1.5, 1.25, 10.0))
    (case,) = read_acdc(tmp_path)
    assert (case.name, case.group, case.spacing) == ("patient007_frame01", "patient007", (10.0, 1.25, 1.5))
    assert (case.image == 9 * case.labels).all()
    (folder / "patient007_frame01.nii.gz").unlink()
    with pytest.raises(InputError, match=r"without patient007_frame01\.nii\.gz"):
        read_acdc(tmp_path)


def test_cases_of_a_folder_carry_the_predictions_that_exist(tmp_path: Path) -> None:
    for place in ("images", "labels", "predictions/one", "predictions/two"):
        (tmp_path / place).mkdir(parents=True)
    for name in "ab":
        for place in ("images", "labels", "predictions/one"):
            Image.fromarray(np.full((8, 8), ord(name), np.uint8)).save(tmp_path / place / f"{name}.png")
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(tmp_path / "predictions" / "two" / "b.png")
    first, second = read_cases(tmp_path)
    assert (set(first.starts), set(second.starts)) == ({"one"}, {"one", "two"})
    assert (second.starts["two"] == 7).all()
    assert len(list(read_cases(tmp_path, limit=1))) == 1


def test_predicted_slices_are_found_by_number_and_checked(tmp_path: Path) -> None:
    for number in (0, 12):
        Image.fromarray(np.full((5, 6), number, np.uint8)).save(tmp_path / f"case_z{number:02d}.png")
    found = read_stack(tmp_path, "case", np.zeros((13, 5, 6)))
    assert {number: int(values.max()) for number, values in found.items()} == {0: 0, 12: 12}
    with pytest.raises(InputError, match="pixels"):
        read_stack(tmp_path, "case", np.zeros((13, 5, 7)))


# --- tables ---------------------------------------------------------------------------------------------------------


def test_rows_survive_and_a_cut_off_line_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = Rows(path)
    rows.add({"case": "a", "refiner": "x"}, {"dice": np.float32(0.5), "hd": math.nan})
    rows.add({"case": "b", "refiner": "x"}, {"dice": 0.25})
    path.write_text(path.read_text(encoding="utf-8")[:-9], encoding="utf-8")  # as a crash would
    again = Rows(path)
    assert again.get({"refiner": "x", "case": "a"})["dice"] == 0.5
    assert again.get({"case": "b", "refiner": "x"}) is None
    again.add({"case": "b", "refiner": "x"}, {"dice": 0.75})
    assert Rows(path).get({"case": "b", "refiner": "x"}) == {"case": "b", "refiner": "x", "dice": 0.75}


def test_measurement_is_made_once_a_case_and_identity(tmp_path: Path) -> None:
    calls = []

    def repair(image: NDArray[np.generic], start: NDArray[np.float32]) -> dict[int, Mask]:
        calls.append(1)
        return {2: start > 0.5, 4: start > 2}

    def score(mask: Mask, truth: Mask, before: Mask) -> dict[str, float]:
        return {"dice": dice(mask, truth)}

    truth = disk(16, 5)
    refiner = refiners.Refiner("r", {"weights": "1"}, repair, steps=(2, 4))
    for _ in range(2):
        rows = Rows(tmp_path / "rows.jsonl")
        made = measure(rows, {"case": "a"}, refiner, truth, truth.astype(np.float32), truth, score)
        assert [(row["refiner"], row["dice"]) for row in made] == [("r, 2 steps", 1.0), ("r, 4 steps", 0.0)]
    assert len(calls) == 1
    measure(rows, {"case": "a"}, replace(refiner, identity={"weights": "2"}), truth, truth * 1.0, truth, score)
    assert len(calls) == 2


def test_choice_is_the_best_on_validation_cases(tmp_path: Path) -> None:
    truth = disk(64, 20)
    holed = truth.astype(np.float32)
    holed[30:35, 30:35] = 0

    def score(mask: Mask, truth: Mask, before: Mask) -> dict[str, float]:
        return {"dice": dice(mask, truth)}

    candidates = [refiners.closing(radius) for radius in (1, 3, 9)]
    rows = Rows(tmp_path / "rows.jsonl")
    assert choose(rows, "t", candidates, [("a", truth, holed, truth)], score).identity == {"radius": 3}
    assert choose(rows, "t", candidates, [], score) is candidates[0]


def test_table_gives_mean_deviation_count_and_shares() -> None:
    rows = [
        {"base": "u", "refiner": "none", "dice": 0.5, "repaired": 0.0},
        {"base": "s", "refiner": "none", "dice": 0.1, "repaired": None},
        {"base": "u", "refiner": "rNCA", "dice": 0.25, "repaired": None},
        {"base": "u", "refiner": "none", "dice": 1.0, "repaired": 1.0},
    ]
    table = aggregate(rows, ["base", "refiner"], ["dice", "repaired"])
    assert [(row["base"], row["refiner"], row["n"]) for row in table] == [
        ("u", "none", 2),
        ("u", "rNCA", 1),
        ("s", "none", 1),
    ]
    text = markdown(table, ["base", "refiner"], {"dice": "Dice", "repaired": "repaired %"})
    assert "| u | none | 2 | 0.7500 ± 0.2500 | 50.0% (1/2) |" in text
    assert "| s | none | 1 | 0.1000 ± 0.0000 | – |" in text
    stored = list(csv.DictReader(as_csv(table).splitlines()))
    assert (float(stored[0]["dice"]), float(stored[0]["dice_std"]), stored[0]["dice_n"]) == (0.75, 0.25, "2")


# --- scores and damage ----------------------------------------------------------------------------------------------


def test_patches_overlap_by_a_quarter_reach_every_border_and_skip_the_empty() -> None:
    start = np.zeros((150, 64), bool)
    start[149, 63] = True
    assert [(box[0].start, box[1].start) for box in patch_boxes(start)] == [(86, 0)]
    start[:] = True
    assert [box[0].start for box in patch_boxes(start)] == [0, 48, 86]


def test_patch_scores_of_one_patch_are_the_metrics_of_the_image() -> None:
    truth = disk(64, 20) & ~disk(64, 12)
    start = truth.copy()
    start[:, 30:34] = False
    found = patch_scores(truth, truth, start)
    assert (found["patch_dice"], found["broken"], found["repaired"], found["sound"]) == (1.0, 1, 1, 0)
    found = patch_scores(start, truth, start)
    errors = betti_errors(start, truth)
    wanted = (dice(start, truth), cldice(start, truth), *errors, 0)
    names = ("patch_dice", "patch_cldice", "patch_betti0_error", "patch_betti1_error", "repaired")
    assert tuple(found[name] for name in names) == pytest.approx(wanted)
    assert patch_scores(start, truth, truth)["harmed"] == 1


def test_shares_of_patches_are_pooled_over_images() -> None:
    rows = [{"x": 1, "broken": 9.0, "repaired": 3.0, "sound": 0.0, "harmed": 0.0}]
    rows.append({"x": 1, "broken": 1.0, "repaired": 1.0, "sound": 0.0, "harmed": 0.0})
    table = aggregate(rows, ["x"], ["broken", "repaired", "sound", "harmed"])
    pool_patches(table)
    assert (table[0]["patch_repaired"], table[0]["patch_repaired_n"]) == (0.4, 10)
    assert math.isnan(table[0]["patch_harmed"])


@pytest.mark.parametrize("mask", [disk(96, 40), np.ones((12, 20, 16), bool)], ids=["2-D", "3-D"])
def test_cut_chunks_takes_away_only_and_reaches_about_dice_080(mask: Mask) -> None:
    cuts = [cut_chunks(mask, (0, n)) for n in range(40)]
    assert all(not (cut & ~mask).any() for cut in cuts)
    assert (cut_chunks(mask, (0, 3)) == cuts[3]).all()
    assert 0.75 < np.mean([dice(cut, mask) for cut in cuts]) < 0.85
    assert not cut_chunks(np.zeros_like(mask), (0, 0)).any()


@pytest.mark.parametrize("mask", [disk(60, 20), discs((24, 26, 28), ((12, 13, 14), 9))], ids=["2-D", "3-D"])
def test_one_small_chunk_is_cut_out_of_the_outline(mask: Mask) -> None:
    cuts = [cut_one(mask, (0, n)) for n in range(20)]
    assert (cuts[3] == cut_one(mask, (0, 3))).all()
    for cut in cuts:
        assert not (cut & ~mask).any()
        assert 0.01 <= 1 - cut.sum() / mask.sum() <= 0.06
        assert betti_numbers(cut) == betti_numbers(mask)
        assert ndimage.label(mask & ~cut)[1] == 1
    assert cut_one(np.zeros_like(mask), (0, 0)) is None
    assert cut_one(mask & (np.indices(mask.shape)[0] < 0), (0, 0)) is None


def test_boxes_of_a_tree_do_not_overlap_and_are_the_fullest() -> None:
    tree = np.zeros((30, 70, 40), bool)
    tree[:20, 35:55, :20] = True
    tree[:10, :10, :8] = True
    boxes = volumes.full_boxes(tree, 32, 2)
    assert [np.count_nonzero(tree[box]) for box in boxes] == [20 * 20 * 20, 800]
    image = volumes.render(tree, np.random.default_rng(0))
    assert image[tree].mean() > image[~tree].mean() + 0.1


# --- refiners -------------------------------------------------------------------------------------------------------


def test_closing_bridges_what_its_disk_spans_and_adds_no_border() -> None:
    mask = np.zeros((24, 30), np.float32)
    mask[4:20, :13] = mask[4:20, 16:] = 1
    (bridged,) = refiners.closing(2).repair(mask, mask).values()
    (kept,) = refiners.closing(1).repair(mask, mask).values()
    assert bridged[8:16].all()
    assert not bridged[:4].any() and not bridged[20:].any()
    assert (kept == (mask > 0.5)).all()


def test_reconstruction_fills_holes_of_any_size_and_nothing_outside() -> None:
    ring = disk(40, 15) & ~disk(40, 10)
    (filled,) = refiners.reconstruction(0).repair(ring, ring.astype(np.float32)).values()
    assert (filled == disk(40, 15)).all()


def test_grey_reconstruction_grows_into_connected_weak_pixels_only() -> None:
    soft = np.zeros((5, 20), np.float32)
    soft[2, 1:6] = soft[2, 9:12] = 0.9
    soft[2, 6:9] = 0.3
    soft[2, 15:18] = 0.3
    (mask,) = refiners.grey_reconstruction(0.2).repair(soft, soft).values()
    assert mask[2].nonzero()[0].tolist() == list(range(1, 12))
    binary = (soft > 0.5).astype(np.float32)
    assert (refiners.grey_reconstruction(0.2).repair(soft, binary)[0] == (binary > 0.5)).all()


def test_dense_crf_removes_a_weak_speck_and_keeps_the_object() -> None:
    pytest.importorskip("pydensecrf")
    soft = np.where(disk(40, 10), 0.9, 0.1).astype(np.float32)
    soft[2, 2] = 0.6
    image = (200 * disk(40, 10)).astype(np.uint8)
    assert (refiners.dense_crf().repair(image, soft)[0] == disk(40, 10)).all()


def test_missing_library_leaves_a_refiner_out_with_a_reason() -> None:
    def maker() -> refiners.Refiner:
        raise ModuleNotFoundError("No module named 'nowhere'", name="nowhere")

    made, missing = refiners.try_refiners([("Some CRF", maker), ("none", refiners.none)])
    assert [refiner.name for refiner in made] == ["none"]
    assert missing == ["Some CRF left out: nowhere is not installed."]


def test_automaton_at_several_steps_is_refine_at_each(tmp_path: Path) -> None:
    image, truth = rnca.phantoms.phantom("thin-rings", (64, 64), 1)
    start = truth.astype(np.float32) * 0.9
    start[:, 30:36] *= 0.4
    for soft in (True, False):
        refiner = refiners.automaton("ring-2d", [3, 9], soft=soft)
        found = refiner.repair(image, start)
        given = np.rint(255 * start).astype(np.uint8) if soft else (start > 0.5).astype(np.uint8)
        for steps in (3, 9):
            wanted = rnca.refine(image, given, "ring-2d", steps, soft=soft).mask
            assert (found[steps] == (np.asarray(wanted) > 0)).all()
        assert refiner.parameters == sum(p.numel() for p in rnca.load_model("ring-2d").definition.parameters())
        volume = sitk.GetImageFromArray(image)
        assert (refiner.repair(volume, start)[9] == found[9]).all()
    empty = refiners.automaton("ring-2d", [3, 9]).repair(image, 0 * start)
    assert not empty[3].any() and not empty[9].any()


@pytest.mark.parametrize("shape", [(40, 36), (3, 40, 36)], ids=["image", "stack of slices"])
def test_each_number_of_steps_is_a_repair_of_its_own_specks_undone(shape: tuple[int, ...]) -> None:
    net, rng = random_net(3), np.random.default_rng(0)
    image, start = rng.random(shape, np.float32), (rng.random(shape) < 0.2).astype(np.float32)
    tidy, raw = (Model(describe(net, "noisy", speck_size=n, nibble_size=n), rnca.compile(net), "") for n in (4, 0))
    found = refiners.automaton(tidy, [3, 6]).repair(image, start)
    kept = refiners.automaton(raw, [3, 6]).repair(image, start)
    for steps in (3, 6):
        assert (found[steps] == rnca.refine(image, start > 0.5, tidy, steps).mask).all()
        assert (found[steps] != kept[steps]).any()
    assert refiners.automaton(tidy).identity != refiners.automaton(raw).identity


@pytest.mark.parametrize("slices", [1, 3])
def test_each_number_of_steps_is_a_repair_of_its_own_with_growth_judged_by_the_image(slices: int) -> None:
    """A column grows that is nearer to the background."""
    start = np.zeros((5, 30), np.float32)
    start[:, :20] = 1
    image = 9 * start
    image[:, 20] = 2.4
    if slices > 1:
        start, image = np.stack([start] * slices), np.stack([image] * slices)
    told = [describe(filler(), "f", look_size=size, intensity={"kind": "none"}) for size in (5, 0)]
    looking, blind = (Model(metadata, rnca.compile(filler()), "") for metadata in told)
    found = refiners.automaton(looking, [1, 2]).repair(image, start)
    kept = refiners.automaton(blind, [1, 2]).repair(image, start)
    for steps in (1, 2):
        assert (found[steps] == (start > 0)).all() and (kept[steps] == (image > 0)).all()


def test_slice_in_its_volume_is_repaired_as_the_volume_is() -> None:
    slices = [rnca.phantoms.phantom("thin-rings", (64, 64), seed) for seed in (1, 2)]
    image = np.stack(
        [(n + 1) * pixels for n, (pixels, _) in enumerate(slices)]
    )  # normalised as a whole or not: differs
    truth = np.stack([mask for _, mask in slices])
    start = truth.astype(np.float32)
    start[:, :, 30:34] = 0
    refiner = refiners.automaton("ring-2d", [8])
    whole = refiner.repair(image, start)[8]
    assert (rings.in_volume(refiner, 1).repair(image, start[1])[8] == whole[1]).all()


# --- base networks --------------------------------------------------------------------------------------------------


def test_patches_keep_image_and_classes_aligned() -> None:
    columns = np.tile(np.arange(80, dtype=np.float32), (60, 1))
    both = np.stack([columns, np.ones_like(columns)])
    sample = Sample("a", "a", both, (columns % 7).astype(np.uint8))
    recipe = Recipe(1, batch=4, patch=32, grey=False)
    images, classes = draw_batch([sample], recipe, np.random.default_rng(0))
    assert (images.shape, classes.shape) == ((4, 2, 32, 32), (4, 1, 32, 32))
    column, inside = images[:, :1], images[:, 1:] > 0.999
    clear = (column - column.round()).abs() < 0.4  # elsewhere nearest may round either way
    assert (clear & inside).float().mean() > 0.5
    assert (column.round() % 7 == classes)[clear & inside].all()
    plain = replace(recipe, turn=0.0, zoom=(1.0, 1.0))
    images, _ = draw_batch([sample], plain, np.random.default_rng(1))
    assert images[:, 0].diff(dim=-1).abs().sub(1).abs().max() < 1e-3


def bright_disks() -> list[Sample]:
    mask = disk(48, 12)
    return [Sample("a", "a", np.where(mask, 0.9, 0.1).astype(np.float32)[None], mask.astype(np.uint8))]


def test_interrupted_training_ends_in_the_same_weights(tmp_path: Path) -> None:
    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Conv2d(1, 1, 3, padding=1)

    recipe, samples = Recipe(6, batch=2, patch=32, grey=False), bright_disks()
    whole, first, second = (Fit(net(), 1, recipe) for _ in range(3))
    for _ in range(6):
        whole.step(samples)
    for _ in range(3):
        first.step(samples)
    first.keep_best(0.5)
    first.save(tmp_path / "partly.pt")
    second.resume(tmp_path / "partly.pt")
    for _ in range(3):
        second.step(samples)
    assert all(torch.equal(a, b) for a, b in zip(whole.net.parameters(), second.net.parameters(), strict=True))
    assert (second.best_dice, second.best_at) == (0.5, 3)


def test_finished_network_is_read_not_trained(tmp_path: Path) -> None:
    recipe, samples = Recipe(2, batch=1, patch=32, grey=False, validate_every=0), bright_disks()
    first = fit("net", "unet", 1, recipe, samples, [], tmp_path, "cpu")
    about = json.loads((tmp_path / "net.json").read_text(encoding="utf-8"))
    assert (about["chosen_iteration"], about["patients"], about["validation_dice"]) == (2, ["a"], None)
    assert not (tmp_path / "net.partly.pt").exists()
    second = fit("net", "unet", 1, replace(recipe, iterations=10**6), samples, [], tmp_path, "cpu")
    image = samples[0].image[:, :40, :37]  # no multiple of anything
    assert predict(first, image, recipe).shape == (1, 40, 37)
    assert (predict(first, image, recipe) == predict(second, image, recipe)).all()


def test_folds_split_patients_of_every_set_evenly() -> None:
    names = [f"{n}_A" for n in range(9)] + [f"Image_0{n}{eye}" for n in (1, 2, 3) for eye in "LR"]
    sources = ["fives_amd"] * 9 + ["chase14"] * 6
    samples = [
        Sample(name, f"{source}/{segmenters.patient(name)}", np.zeros((3, 1, 1)), np.zeros((1, 1), np.uint8), source)
        for name, source in zip(names, sources, strict=True)
    ]
    folds = segmenters.deal_folds(samples)
    assert len(folds) == 12
    for fold in range(3):
        chosen = [group for group, dealt in folds.items() if dealt == fold]
        assert sorted(group.split("/")[0] for group in chosen) == ["chase14", "fives_amd", "fives_amd", "fives_amd"]


def test_static_training_leaves_the_perception_as_it_was() -> None:
    net = RNCA(state_channels=4, hidden=8)
    ablation.make_static(net)
    kept = [weight.clone() for weight in ablation.perception(net)]
    mask = disk(32, 8)
    case = Case("a", mask[None].astype(np.float32), mask)
    trainer = ablation.StaticTrainer(net, [case], Settings(batch=2, pool=4, patch=16, first=(2, 3), between=(1, 2)))
    before = net.delta.weight.clone()
    trainer.step()
    assert all(torch.equal(a, b) for a, b in zip(kept, ablation.perception(net), strict=True))
    assert not torch.equal(before, net.delta.weight)


@pytest.mark.parametrize("updates", [16, 64, 128])
def test_loss_moments_lie_between_half_of_the_updates_and_all(updates: int) -> None:
    settings = ablation.until(updates)
    assert settings["first"][0] == updates // 2
    assert settings["first"][1] + 2 * settings["between"][1] == updates


# --- whole tables ---------------------------------------------------------------------------------------------------


def test_fill_of_a_users_chaos_folder_writes_its_table_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_chaos(tmp_path / "data")
    words = ["--data-chaos-ct", str(tmp_path / "data"), "--model", "ring-2d", "--steps", "2", "4"]
    monkeypatch.setattr(sys, "argv", ["fill.py", *words, "-o", str(tmp_path / "out")])
    guarded(fill.main)
    text = (tmp_path / "out" / "fill.md").read_text(encoding="utf-8")
    assert "| CHAOS CT liver | rNCA ring-2d, 4 steps |" in text
    assert "harmed" in text and str(tmp_path) not in text
    monkeypatch.setattr(rnca, "stream", None)  # nothing is repaired again
    guarded(fill.main)
    assert (tmp_path / "out" / "fill.md").read_text(encoding="utf-8") == text


def test_vessels_of_a_users_drive_folder_writes_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_drive(tmp_path / "data")
    predictions = tmp_path / "base" / "drive" / "train" / "predictions" / "unet"
    words = ["--data-drive", str(tmp_path / "data"), "--base", str(tmp_path / "base"), "--model", "ring-2d"]
    monkeypatch.setattr(sys, "argv", ["vessels.py", *words, "--steps", "2", "-o", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="--task drive"):
        vessels.main()
    predictions.mkdir(parents=True)
    for case in read_drive(tmp_path / "data"):
        Image.fromarray((200 * case.truth).astype(np.uint8)).save(predictions / f"{case.name}.png")
    guarded(vessels.main)
    text = (tmp_path / "out" / "vessels-drive.md").read_text(encoding="utf-8")
    assert "| U-Net | none | 2 | 1.0000 ± 0.0000 |" in text
    assert "The conditional U-Net left out" in text


def test_links_make_one_folder_of_cases_of_both_sets(tmp_path: Path) -> None:
    for source, model in (("fives_amd", "antillia_unet"), ("chase14", "antillia_unet_tiled")):
        for place in ("images", "labels", f"predictions/{model}"):
            folder = tmp_path / "data" / source / "train" / place
            folder.mkdir(parents=True)
            Image.fromarray(np.full((8, 8), 200, np.uint8)).save(folder / "a.png")
    out = tmp_path / "out"
    segmenters.write_png(np.zeros((8, 8), np.uint8), out / "chase14" / "train" / "predictions" / "unet" / "a.png")
    for _ in range(2):
        segmenters.link_cases(tmp_path / "data", out)
    cases = {case.name: case for case in read_cases(out / "vessels" / "train")}
    assert set(cases) == {"fives_amd_a", "chase14_a"}
    assert (set(cases["fives_amd_a"].starts), set(cases["chase14_a"].starts)) == ({"antillia"}, {"antillia", "unet"})


def test_wrong_input_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise InputError("this is wrong: do that.")

    with pytest.raises(SystemExit) as stopped:
        guarded(main)
    assert (stopped.value.code, capsys.readouterr().err) == (2, "this is wrong: do that.\n")


def test_damaged_ring_is_seeded_and_mostly_broken() -> None:
    ring = disk(80, 24) & ~disk(80, 18)
    drawn = [rings.damage_ring(ring, np.random.default_rng(n)) for n in range(30)]
    assert all((rings.damage_ring(ring, np.random.default_rng(n)) == mask).all() for n, mask in enumerate(drawn[:3]))
    wrong = [mask for mask in drawn if any(betti_errors(mask, ring))]
    assert 0.4 < len(wrong) / len(drawn) < 0.95
    assert any((mask == ring).all() for mask in drawn)
    assert rings.score(ring, ring, wrong[0])["ring_broken"] == rings.score(ring, ring, wrong[0])["repaired"] == 1
    assert rings.score(wrong[0], ring, ring)["broken_anew"] == 1


def test_the_largest_piece_of_a_slice_is_the_one_of_most_pixels_diagonals_counted() -> None:
    mask = np.zeros((12, 12), bool)
    mask[:3, :3] = mask[6:, 2:4] = mask[5, 4] = True
    alone = mask.copy()
    alone[:3] = False
    assert (rings.largest_piece(mask) == alone).all()
    assert not rings.largest_piece(np.zeros((12, 12), bool)).any()


def test_organ_is_made_smaller_to_fit_never_larger() -> None:
    big, small = disk(256, 100), disk(64, 20)
    case = Picture("a", "a", (100 * big).astype(np.int16), big.astype(np.uint8))
    image, mask = fill.resize(case, big, 108)
    places = np.argwhere(mask)
    assert 106 <= (places.max(0) - places.min(0) + 1).max() <= 109
    assert dice(image > 50, mask) > 0.98
    assert fill.resize(Picture("b", "b", small, small), small, 108)[1] is small


# How the models are made


def test_an_inflated_network_does_in_a_slice_what_the_flat_one_does() -> None:
    flat = random_net(0, 2, 2, state_channels=16, hidden=48)
    image, mask = torch.randn(1, 2, 1, 9, 8), (torch.rand(1, 1, 1, 9, 8) > 0.6).float()
    with torch.no_grad():
        found, expected = inflate(flat, small=0).eval()(image, mask, 5), flat(image[:, :, 0], mask[:, :, 0], 5)
        assert torch.equal(found[:, :, 0], expected)
        assert expected.any()
        stack = image.repeat(1, 1, 4, 1, 1), mask.repeat(1, 1, 4, 1, 1)
        assert not torch.equal(inflate(flat).eval()(*stack, 5)[:, :, 0], expected)


def test_packed_cases_come_back(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    label = np.zeros((40, 40), np.uint8)
    label[15:20, 12:30] = 2
    image = draw.normal(0, 1, label.shape).astype(np.float32)
    whole = models.Packed("a", "b", models.quantise(image), label, [(255 * draw.random(label.shape)).astype(np.uint8)])
    models.write_packed([models.crop(whole, 4), whole], tmp_path / "cases.npz")
    cropped, found = models.read_packed(tmp_path / "cases.npz")
    assert (found.name, found.group, found.objects) == ("a", "b", ((1,),))
    np.testing.assert_array_equal(found.label, label)
    np.testing.assert_array_equal(found.starts[0], whole.starts[0])
    np.testing.assert_allclose(found.image / models.FULL, np.clip(image, -3, 3), atol=0.5 / models.FULL + 1e-6)
    assert (cropped.label > 0).sum() == (label > 0).sum()


def test_rows_of_a_model_that_sees_another_image_are_not_taken_for_its_own() -> None:
    model = as_model("ring-2d")
    other = replace(model, metadata=replace(model.metadata, colour="green"))
    assert refiners.automaton(model).identity != refiners.automaton(other).identity
    assert refiners.automaton(model).identity == refiners.automaton("ring-2d").identity


def test_a_recipe_trains_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label = np.zeros((40, 40), np.uint8)
    label[10:30, 12:28] = 1
    case = models.Packed("a", "b", models.quantise((label * 2.0 - 1).astype(np.float32)), label)
    recipe = replace(
        recipes.RECIPES["organ-2d"],
        phantoms=("blobs:4:48",),
        settings=replace(recipes.RECIPES["organ-2d"].settings, batch=2, pool=4, fresh=1, patch=24, first=(2, 3)),
    )
    monkeypatch.setitem(recipes.RECIPES, "organ-2d", recipe)
    models.write_packed([case], models.packed_path("hippocampus-slices", recipe, tmp_path, "train"))
    for iterations in ("2", "3"):
        words = ["models.py", "train", "organ-2d", "--cases", str(tmp_path), "-o", str(tmp_path / "runs")]
        monkeypatch.setattr(sys, "argv", [*words, "--iterations", iterations, "--device", "cpu", "--keep", "2"])
        models.main()
    about, weights = models.read_checkpoint(tmp_path / "runs" / "organ-2d" / "checkpoint.npz")
    assert about["iteration"] == 3
    kept = tmp_path / "runs" / "organ-2d" / "checkpoint-2.npz"
    mean, (last, earlier) = models.averaged([tmp_path / "runs" / "organ-2d" / "checkpoint.npz", kept])
    assert (last["iteration"], earlier["iteration"]) == (3, 2)
    for name, values in mean.state_dict().items():
        both = (weights[f"net/{name}"] + models.read_checkpoint(kept)[1][f"net/{name}"]) / 2
        np.testing.assert_allclose(values.numpy(), both, rtol=1e-6, atol=1e-7)
    first = ["--start", str(tmp_path / "runs" / "organ-2d" / "checkpoint.npz"), "-o", str(tmp_path / "second")]
    monkeypatch.setattr(sys, "argv", [*words[:5], *first, "--iterations", "1", "--device", "cpu"])
    models.main()
    about, found = models.read_checkpoint(tmp_path / "second" / "organ-2d" / "checkpoint.npz")
    assert (about["iteration"], about["settings"]["seed"]) == (1, recipe.settings.seed)
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--seed", "7", "-o", str(tmp_path / "third")])
    models.main()
    other, others = models.read_checkpoint(tmp_path / "third" / "organ-2d" / "checkpoint.npz")
    assert other["settings"]["seed"] == 7 and other["random"] != about["random"]
    assert any((others[name] != found[name]).any() for name in weights if name.startswith("net/"))
    for name in (n for n in weights if n.startswith("net/")):  # one step of the optimiser away
        np.testing.assert_allclose(found[name], weights[name], atol=2 * recipe.settings.learning_rate)
    monkeypatch.setattr(sys, "argv", ["models.py", "train", "organ-3d", "--cases", str(tmp_path), "-o", str(tmp_path)])
    with pytest.raises(InputError, match="pack --help"):
        models.main()


def test_the_mean_of_shipped_models_says_what_it_is_made_of() -> None:
    parents = [load_model(name) for name in ("organ-3d", "general-3d")]
    expected = {name: values.clone() / 2 for name, values in parents[0].definition.state_dict().items()}
    for name, values in parents[1].definition.state_dict().items():
        expected[name] += values / 2
    net, training = models.mean_of_shipped(["organ-3d", "general-3d"])
    for name, values in net.state_dict().items():
        torch.testing.assert_close(values, expected[name])
    assert [text.split()[0] for text in training["mean"]] == ["organ-3d", "general-3d"]
    assert [text.split()[2] for text in training["mean"]] == [model.metadata.weights_sha256 for model in parents]
    with pytest.raises(InputError, match="organ-2d is built differently from organ-3d; give models with"):
        models.mean_of_shipped(["organ-3d", "organ-2d"])


def test_the_mean_of_shipped_models_is_exported_with_its_figures_and_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(recipes.RECIPES["organ-2d"], sources=(), phantoms=("blobs:10:48",), steps=32)
    monkeypatch.setitem(recipes.RECIPES, "organ-2d", recipe)
    words = ["models.py", "export", "organ-2d", "--mean", "organ-2d", "general-2d", "--version", "2.0.0"]
    words += ["--trials", "1", "--cases", str(tmp_path), "-o", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    models.main()
    folder = tmp_path / "organ-2d" / "zoo"
    made, first = load_model(folder / "organ-2d.ts"), load_model("organ-2d").metadata
    assert made.metadata.version == "2.0.0" and made.metadata.tolerance == recipe.tidying.tolerance
    assert made.metadata.steps == recipe.steps == 32
    assert made.metadata.parent == f"organ-2d {first.version} {first.weights_sha256}"
    assert set(made.metadata.figures) == {f"validation, {steps} steps" for steps in (64, 128, 256)}
    expected, training = models.mean_of_shipped(["organ-2d", "general-2d"])
    assert made.metadata.training["mean"] == training["mean"]
    for name, values in made.definition.state_dict().items():
        assert torch.equal(values, expected.state_dict()[name])
    assert "models.py export organ-2d --mean organ-2d general-2d --cases" in (folder / "README.md").read_text(
        encoding="utf-8"
    )


def test_cases_are_packed_for_every_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    label = np.zeros((12, 40, 30), np.uint8)
    label[4:9, 4:24, 3:13], label[4:9, 4:24, 13:17] = 1, 2
    for split in ("train", "val"):
        stacks = [tmp_path / "data" / source / split for source in ("hippocampus_msd", "acdc", "chaos_mr_t2")]
        for folder, kind in product(stacks, ("images", "labels")):
            save(folder / kind / "one.nii.gz", label * np.float32(100) if kind == "images" else label, (1.0, 1.0, 4.0))
        save(tmp_path / "data" / "medrad_trees" / split / "labels" / "airway" / "one.nii.gz", label)
        for kind in ("images", "labels"):
            save(tmp_path / "base" / "vessels" / split / kind / "one.png", label[4] * np.uint8(100))
            save(tmp_path / "data" / "curvas_ct2d" / split / kind / "one.png", label[4] * np.uint8(3))
    words = ["models.py", "pack", "--data", str(tmp_path / "data"), "-o", str(tmp_path / "cases")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        guarded(models.main)
    assert ended.value.code == 2 and "give --base" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*words, "--base", str(tmp_path / "base")])
    models.main()
    names = {
        name: len(models.load(replace(r, phantoms=()), tmp_path / "cases", "val"))
        for name, r in recipes.RECIPES.items()
    }
    assert names == {
        "vessel-2d": 1,
        "organ-2d-nc": 6,  # a slice of CT and five of MR; the second label is below fill.SMALLEST
        "myocardium-2d": 5,  # slices with label 2
        "organ-2d": 2,  # every third of five slices
        "organ-3d": 3,  # both parts and each
        "organ-3d-nc": 5,  # two organs besides
        "vessel-3d": 0,
        "vessel-3d-nc": 1,
        "general-3d": 3,
        "general-2d": 4,  # the photograph four times
    }


def test_a_generated_tree_gets_a_second_image() -> None:
    found = models.phantoms("vessels:2:32:rendered", recipes.RECIPES["vessel-3d"], "train")
    assert len(found) == 4
    for case, other in zip(found[:2], found[2:], strict=True):
        assert np.array_equal(case.label, other.label) and not np.array_equal(case.image, other.image)
        assert other.image[0][other.label].mean() > other.image[0][~other.label].mean() + 0.3  # bright
    assert len(models.phantoms("vessels:20:32", recipes.RECIPES["vessel-3d"], "val")) == 2


def test_an_update_is_made_longer_in_the_same_direction() -> None:
    net, longer = random_net(2), random_net(2)
    models.lengthen(longer, 1.5)
    features = torch.rand(1, net.config["hidden"], 5, 5)
    torch.testing.assert_close(longer.delta(features), 1.5 * net.delta(features))
    assert torch.equal(longer.hidden.weight, net.hidden.weight)


def test_every_recipe_names_the_licences_of_its_data() -> None:
    for recipe in recipes.RECIPES.values():
        for text in recipe.trained_on:
            assert parse_source(text)["licence"].startswith(("CC BY", "Apache", "MIT"))


def test_a_model_is_saved_again_with_other_sizes_of_what_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    net = random_net(2)
    given = save_model(net, tmp_path / "mine.ts", describe(net, "mine", "1.0.0", speck_size=1, nibble_size=3))
    monkeypatch.setenv("PYTHONHASHSEED", "0")  # else it starts itself again
    words = ["reexport.py", str(given), "--specks", "5", "--keep-holes", "--betti", "1,1", "--version", "1.0.1"]
    words += [
        "--tolerance",
        "0.02",
        "--gaps",
        "2",
        "--bites",
        "4",
        "--bulges",
        "0.8",
        "--looks",
        "9",
        "--bays",
        "7",
        "--object-size",
        "90",
        "--steps",
        "32",
    ]
    monkeypatch.setattr(sys, "argv", [*words, "-o", str(tmp_path / "out")])
    reexport.main()
    first, second = load_model(given), load_model(tmp_path / "out" / "mine" / "mine.ts")
    assert second.metadata == replace(
        first.metadata,
        speck_size=5,
        keep_holes=True,
        object_betti=[1, 1],
        tolerance=0.02,
        gap_size=2,
        bite_size=4,
        bulge_ratio=0.8,
        look_size=9,
        bay_width=7,
        object_size=90,
        steps=32,
        version="1.0.1",
    )
    assert json.loads((tmp_path / "out" / "mine" / "metadata.json").read_text())["speck_size"] == 5
    assert "mine 1.0.1" in capsys.readouterr().out
    for name, values in first.definition.state_dict().items():
        assert torch.equal(values, second.definition.state_dict()[name])


def test_nothing_is_saved_again_where_todays_engine_repairs_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, other = random_net(2), random_net(3)
    given = save_model(net, tmp_path / "mine.ts", describe(net, "mine", "1.0.0"))
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    compiled = reexport.compile(other)
    monkeypatch.setattr(reexport, "compile", lambda _: compiled)
    monkeypatch.setattr(sys, "argv", ["reexport.py", str(given), "-o", str(tmp_path / "out")])
    with pytest.raises(InputError, match="voxels otherwise"):
        reexport.main()
    assert not (tmp_path / "out").exists()
