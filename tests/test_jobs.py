"""From files to files: what the record says is true, what is written is right, inputs stay as they were."""

import hashlib
import json

import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk

from conftest import filler
from little import broken, case, load, ring, save, save_filler, tree
from rnca import __version__, betti_numbers, compile, jobs, load_model, metrics
from rnca.defects import damage
from rnca.errors import InputError
from rnca.geometry import Grid
from rnca.jobs import (
    Options,
    check_file,
    check_outputs,
    damage_file,
    evaluate_files,
    foreground,
    refine_file,
    shown_slice,
    write_csv,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(save_filler(tmp_path_factory.mktemp("model")))


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- refine_file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["case.png", "case.tif", "case.nii.gz", "case.nrrd", "case.mha"])
def test_the_repaired_mask_keeps_grid_type_and_label_in_every_format(tmp_path, model, name):
    image, mask = case(tmp_path, name)
    before = tree(tmp_path)
    out = tmp_path / f"out-{name}"
    refine_file(image, mask, out, Options(), model=model)
    given, written = sitk.ReadImage(str(mask)), sitk.ReadImage(str(out))
    assert Grid.of(written) == Grid.of(given)
    assert written.GetPixelID() == given.GetPixelID()
    value = load(mask).max()
    np.testing.assert_array_equal(load(out), ring(load(mask).shape) * value)
    assert {path: data for path, data in tree(tmp_path).items() if path in before} == before


def test_the_record_tells_files_model_options_topology_and_changes_as_they_are(tmp_path, model):
    image, mask = case(tmp_path)
    out, report = tmp_path / "out.png", tmp_path / "report.json"
    steps = []
    record = refine_file(image, mask, out, Options(steps=30, report=report), model=model, on_step=steps.append)
    assert json.loads(report.read_text(encoding="utf-8")) == record
    assert record["rnca"] == __version__
    assert record["notice"] == "For research use only; not a medical device."
    assert record["inputs"] == {
        "image": {"path": str(image), "sha256": digest(image)},
        "mask": {"path": str(mask), "sha256": digest(mask)},
    }
    assert record["output"] == {"path": str(out), "sha256": digest(out)}
    assert record["model"] == {"name": "filler", "version": "1.2.3", "sha256": model.sha256}
    assert record["options"]["steps"] == 30
    before, after = load(mask) != 0, load(out) != 0
    (row,) = record["labels"]
    assert row["label"] == 255
    assert (row["steps"], row["reason"]) == (30, "steps")
    assert row["topology"]["before"]["betti"] == [2, 0] == list(betti_numbers(before))
    assert row["topology"]["after"]["betti"] == [1, 1] == list(betti_numbers(after))
    assert (row["topology"]["after"]["pieces"], row["topology"]["after"]["holes"]) == (1, 1)
    assert row["topology"]["before"]["voxels"] == before.sum()
    assert (row["added"], row["removed"]) == ((after & ~before).sum(), (before & ~after).sum())
    assert record["changed"] == (before ^ after).sum()
    assert [step.index for step in steps] == list(range(1, 31))


def test_the_phases_of_the_record_add_up_to_its_total(tmp_path, model):
    image, mask = case(tmp_path)
    options = Options(confidence=tmp_path / "c.png", animate=tmp_path / "a.gif")
    seconds = refine_file(image, mask, tmp_path / "out.png", options, model=model)["seconds"]
    assert set(seconds) == {"load_model", "read", "first_step", "repair", "topology", "confidence", "write", "total"}
    assert 0 < seconds["first_step"] <= seconds["repair"]
    phases = sum(s for name, s in seconds.items() if name not in ("first_step", "total"))
    assert phases == pytest.approx(seconds["total"], abs=1e-3)


def test_one_label_is_repaired_and_no_voxel_of_the_others_changes(tmp_path, model):
    truth = ring()
    mask = broken(truth).astype(np.int16) * 5
    mask[:4, 20:] = 3  # in the dark: the filler would clear it
    mask[6, 12] = 2  # in the gap: the repair may not take it
    image = save(tmp_path / "image.nrrd", (truth * 200).astype(np.uint8))
    path = save(tmp_path / "mask.nrrd", mask)
    record = refine_file(image, path, tmp_path / "out.nrrd", Options(label=5), model=model)
    after = load(tmp_path / "out.nrrd")
    np.testing.assert_array_equal(after[mask == 3], 3)
    assert after[6, 12] == 2
    expected = truth.copy()
    expected[6, 12] = False
    np.testing.assert_array_equal(after == 5, expected)
    assert [row["label"] for row in record["labels"]] == [5]
    assert record["changed"] == (after != mask).sum()


def test_all_labels_are_repaired_in_turn_and_each_has_its_row(tmp_path, model):
    truth = ring((24, 60))
    truth[:, 27:33] = False  # two half rings ...
    image = save(tmp_path / "image.png", (truth * 200).astype(np.uint8))
    labels = np.where(np.arange(60) < 30, 1, 2).astype(np.uint8)
    mask = (truth * labels).astype(np.uint8)
    mask[10:14, :8] = 0
    mask[10:14, -8:] = 0  # ... each with a gap
    path = save(tmp_path / "mask.png", mask)
    record = refine_file(image, path, tmp_path / "out.png", Options(label="all"), model=model)
    np.testing.assert_array_equal(load(tmp_path / "out.png"), truth * labels)
    assert [row["label"] for row in record["labels"]] == [1, 2]
    assert [row["topology"]["before"]["pieces"] for row in record["labels"]] == [2, 2]
    assert [row["topology"]["after"]["pieces"] for row in record["labels"]] == [1, 1]
    assert record["changed"] == sum(row["added"] for row in record["labels"])


def test_a_soft_mask_is_judged_above_a_half_and_written_as_0_and_255(tmp_path, model):
    truth = ring()
    grey = np.where(broken(truth), 255, np.where(truth, 100, 0)).astype(np.uint8)  # the gap is only faint
    image = save(tmp_path / "image.png", (truth * 200).astype(np.uint8))
    mask = save(tmp_path / "mask.png", grey)
    record = refine_file(image, mask, tmp_path / "out.png", Options(soft=True), model=model)
    np.testing.assert_array_equal(load(tmp_path / "out.png"), truth * 255)
    (row,) = record["labels"]
    assert row["topology"]["before"]["betti"] == [2, 0]
    assert row["topology"]["after"]["betti"] == [1, 1]
    assert record["changed"] == (truth ^ broken(truth)).sum()


def test_an_empty_mask_stays_empty_and_the_record_says_why(tmp_path, model):
    image, _ = case(tmp_path)
    mask = save(tmp_path / "empty.png", np.zeros((24, 26), np.uint8))
    options = Options(animate=tmp_path / "a.gif", confidence=tmp_path / "c.png")
    record = refine_file(image, mask, tmp_path / "out.png", options, model=model)
    assert not load(tmp_path / "out.png").any()
    assert record["labels"][0]["reason"] == "empty"
    assert record["changed"] == 0
    assert (load(tmp_path / "c.png") == 255).all()


def test_nothing_outside_the_region_changes_and_inside_it_is_repaired_as_without(tmp_path, model):
    image, mask = case(tmp_path)
    refine_file(image, mask, tmp_path / "all.png", Options(), model=model)
    refine_file(image, mask, tmp_path / "some.png", Options(roi="9:26,0:24"), model=model)
    given, whole, some = (load(path) for path in (mask, tmp_path / "all.png", tmp_path / "some.png"))
    np.testing.assert_array_equal(some[:, :9], given[:, :9])  # the island is still there
    np.testing.assert_array_equal(some[:, 9:], whole[:, 9:])
    assert (some != whole).any()


def test_patience_ends_a_repair_when_nothing_changes_any_more(tmp_path, model):
    image, mask = case(tmp_path)
    record = refine_file(image, mask, tmp_path / "a.png", Options(steps=500, patience=5), model=model)
    (row,) = record["labels"]
    assert row["reason"] == "converged"
    assert row["steps"] < 100
    np.testing.assert_array_equal(load(tmp_path / "a.png"), ring() * 255)


def test_confidence_is_1_where_stochastic_rollouts_agree_and_lower_on_what_they_leave_undecided(tmp_path, model):
    image, mask = case(tmp_path, "case.nrrd")
    options = Options(steps=6, confidence=tmp_path / "agree.nrrd")  # stopped while the gap is still closing
    refine_file(image, mask, tmp_path / "out.nrrd", options, model=model)
    agree = load(tmp_path / "agree.nrrd")
    assert agree.dtype == np.float32
    assert (agree[broken(ring((4, 24, 26))) & ring((4, 24, 26))] == 1).all()
    assert 0 <= agree.min() < 1
    assert (load(tmp_path / "agree.nrrd")[:, -1] == 1).all()  # out of reach
    assert Grid.of(sitk.ReadImage(str(tmp_path / "agree.nrrd"))) == Grid.of(sitk.ReadImage(str(mask)))


def test_the_animation_shows_the_given_mask_and_then_every_step_of_the_busiest_slice(tmp_path, model):
    truth = ring((3, 24, 26))
    mask = truth.copy()
    mask[1] = broken(truth[1])
    image = save(tmp_path / "image.nrrd", (truth * 200).astype(np.uint8))
    path = save(tmp_path / "mask.nrrd", mask)
    frames = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "write_gif", lambda shown, path: frames.extend(shown))
        refine_file(image, path, tmp_path / "o.nrrd", Options(steps=9, animate=tmp_path / "a.gif"), model=model)
    assert len(frames) == 10
    pixels = [frame[-24 * 14 :: 14, : 26 * 14 : 14].astype(int) for frame in frames]  # one of each that was enlarged
    coloured = np.abs(pixels[0] - pixels[0][0, -1]).sum(-1) > 60  # unlike the dark ground
    np.testing.assert_array_equal(coloured & ~truth[1], broken(truth[1]) & ~truth[1])  # the island of slice 1
    assert (pixels[-1] != pixels[0]).any()
    refine_file(image, path, tmp_path / "o.nrrd", Options(steps=9, animate=tmp_path / "a.gif"), model=model)
    with PIL.Image.open(tmp_path / "a.gif") as gif:
        assert gif.format == "GIF"
        assert 1 < gif.n_frames <= 10


@pytest.mark.parametrize("option", ["confidence", "animate", "report"])
def test_outputs_never_take_the_place_of_an_input_or_of_each_other(tmp_path, model, option):
    image, mask = case(tmp_path)
    before = tree(tmp_path)
    for target in (image, mask, tmp_path / "out.png"):
        with pytest.raises(InputError, match=r"one of the inputs|the same name"):
            refine_file(image, mask, tmp_path / "out.png", Options(**{option: target}), model=model)
    assert tree(tmp_path) == before


def test_a_confidence_map_that_cannot_be_written_leaves_no_mask_either(tmp_path, model):
    image, mask = case(tmp_path, "case.nrrd")
    before = tree(tmp_path)
    with pytest.raises(InputError, match="PNG holds no volumes"):
        refine_file(image, mask, tmp_path / "o.nrrd", Options(confidence=tmp_path / "c.png"), model=model)
    assert tree(tmp_path) == before


def test_the_same_input_gives_the_same_bytes(tmp_path, model):
    image, mask = case(tmp_path, "case.nii.gz")
    for out in ("a.nii.gz", "b.nii.gz"):
        refine_file(image, mask, tmp_path / out, Options(), model=model)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_volume_is_repaired_by_a_3d_model_as_a_whole(tmp_path):
    image, mask = case(tmp_path, "case.nrrd")
    model = load_model(save_filler(tmp_path / "three", dims=3))
    record = refine_file(image, mask, tmp_path / "out.nrrd", Options(), model=model)
    np.testing.assert_array_equal(load(tmp_path / "out.nrrd") != 0, ring((4, 24, 26)))
    assert record["labels"][0]["topology"]["after"]["betti"] == [1, 1, 0]


# --- the parts ------------------------------------------------------------------------------------------------------


def test_foreground_is_one_label_or_all_and_of_a_soft_mask_what_exceeds_a_half():
    values = np.array([0, 1, 2, 127, 128], np.uint8)
    np.testing.assert_array_equal(foreground(values), values > 0)
    np.testing.assert_array_equal(foreground(values, "all"), values > 0)
    np.testing.assert_array_equal(foreground(values, 2), values == 2)
    np.testing.assert_array_equal(foreground(values, soft=True), values == 128)
    np.testing.assert_array_equal(foreground(np.array([0.4, 0.6]), soft=True), [False, True])


def test_of_a_volume_the_slice_that_changed_most_across_the_models_axis_is_shown():
    image = np.zeros((4, 5, 6))
    image[:, 3] = 1
    before = np.zeros((4, 5, 6), bool)
    after = before.copy()
    after[:, 3, 2:4] = True
    volume = sitk.GetImageFromArray(before.astype(np.uint8))
    volume.SetSpacing((1, 4, 1))  # x y z: slices are along j
    picture, flat = shown_slice(sitk.GetImageFromArray(image), volume, before, after, "largest_spacing")
    np.testing.assert_array_equal(flat(after), after[:, 3])
    assert picture.shape == (4, 6, 3)


def test_outputs_need_a_folder_and_may_not_lie_among_the_inputs(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()
    check_outputs([tmp_path / "b.json", None], tmp_path / "in", None)
    check_outputs([tmp_path / "in" / "new.csv"], tmp_path / "in")
    with pytest.raises(InputError, match="create it first"):
        check_outputs([tmp_path / "no" / "b.json"])
    with pytest.raises(InputError, match="never overwritten"):
        check_outputs([tmp_path / "in" / "a.png"], tmp_path / "in")
    (tmp_path / "link.png").symlink_to(tmp_path / "in" / "a.png")
    with pytest.raises(InputError, match="never overwritten"):
        check_outputs([tmp_path / "link.png"], tmp_path / "in" / "a.png")
    with pytest.raises(InputError, match="same name"):
        check_outputs([tmp_path / "b.json", tmp_path / "in" / ".." / "b.json"])


# --- check, damage, evaluate ----------------------------------------------------------------------------------------


def test_check_lists_the_topology_and_the_defects_of_every_label(tmp_path):
    mask = np.zeros((20, 30), np.uint8)
    mask[2:12, 3:13] = 4
    mask[6, 8:10] = 0  # a hole of two pixels
    mask[15:18, 20:25] = 4  # a second piece
    mask[15:18, 2:6] = 9
    record = check_file(save(tmp_path / "mask.png", mask), None, None)
    first, second = record["labels"]
    assert (first["label"], second["label"]) == (4, 9)
    assert first["topology"]["betti"] == [2, 1]
    piece, hole = first["defects"]
    assert (piece["kind"], piece["size"], piece["bbox"]) == ("component", 15, [[15, 18], [20, 25]])
    assert (hole["kind"], hole["size"], hole["centroid"]) == ("hole", 2, [6.0, 8.5])
    assert second["defects"] == []
    assert record["inputs"]["mask"]["sha256"] == digest(tmp_path / "mask.png")
    assert [row["label"] for row in check_file(tmp_path / "mask.png", None, 9)["labels"]] == [9]


def test_check_refuses_an_image_on_another_grid(tmp_path):
    image, _ = case(tmp_path)
    mask = save(tmp_path / "other.png", np.ones((9, 9), np.uint8))
    with pytest.raises(InputError, match="differ in size"):
        check_file(mask, image, None)


def test_damage_breaks_one_label_as_the_library_does_and_spares_the_others(tmp_path):
    values = (ring() * 6).astype(np.uint16)
    values[0, :5] = 2
    path = save(tmp_path / "mask.tif", values)
    report = tmp_path / "report.json"
    record = damage_file(path, tmp_path / "out.tif", "gaps", 0.6, 4, label=6, report=report)
    after = load(tmp_path / "out.tif")
    assert after.dtype == np.uint16
    np.testing.assert_array_equal(after == 6, damage(ring(), "gaps", 0.6, 4))
    np.testing.assert_array_equal(after == 2, values == 2)
    (row,) = record["labels"]
    assert row["removed"] == ((values == 6) & (after != 6)).sum() > 0
    assert row["topology"]["before"]["betti"] == [1, 1]
    assert row["topology"]["after"]["betti"] == list(betti_numbers(after == 6))
    assert record["output"]["sha256"] == digest(tmp_path / "out.tif")
    assert record["options"] == {"kind": "gaps", "severity": 0.6, "seed": 4}
    assert json.loads(report.read_text(encoding="utf-8")) == record


def test_damage_that_adds_does_not_grow_over_another_label(tmp_path):
    values = (ring() * 6).astype(np.uint8)
    values[9:-9, 9:-9] = 2
    path = save(tmp_path / "mask.png", values)
    damage_file(path, tmp_path / "out.png", "thick", 1.0, 0, label=6)
    after = load(tmp_path / "out.png")
    np.testing.assert_array_equal(after[values == 2], 2)
    assert (after == 6).sum() > ring().sum()


def test_evaluate_measures_each_case_of_a_folder_in_its_spacing(tmp_path):
    truth, before = ring((3, 24, 26)), broken(ring((3, 24, 26)))
    half = truth.copy()
    half[:, :, 11:13] = before[:, :, 11:13]
    for name, pred in (("a", truth), ("b", half)):
        save(tmp_path / "pred" / f"{name}.nrrd", pred)
        save(tmp_path / "truth" / f"{name}.nii.gz", truth)
        save(tmp_path / "before" / f"{name}.mha", before)
    rows, means = evaluate_files(tmp_path / "pred", tmp_path / "truth", tmp_path / "before", None)
    assert [row["case"] for row in rows] == ["a", "b"]
    for row, pred in zip(rows, (truth, half), strict=True):
        expected = metrics.evaluate(pred, truth, (3.0, 0.75, 0.5), before)
        np.testing.assert_equal({k: v for k, v in row.items() if k != "case"}, expected)
    assert rows[0]["repaired"] == 1
    assert rows[1]["repaired"] == 0
    assert means["dice"] == pytest.approx((np.mean([1, rows[1]["dice"]]), (1 - rows[1]["dice"]) / 2, 2))


def test_evaluate_takes_single_files_and_a_folder_for_the_rest(tmp_path):
    pred = save(tmp_path / "pred.png", ring().astype(np.uint8) * 3)
    truth = save(tmp_path / "truth" / "pred.png", ring().astype(np.uint8) * 3)
    by_file, _ = evaluate_files(pred, truth, None, None)
    by_folder, _ = evaluate_files(pred, tmp_path / "truth", None, None)
    assert by_file == by_folder
    assert by_file[0]["dice"] == 1
    assert evaluate_files(pred, truth, None, 2)[0][0]["dice"] == 1  # both without label 2: they agree


def test_evaluate_refuses_names_that_do_not_match_and_grids_that_differ(tmp_path):
    save(tmp_path / "pred" / "a.png", ring())
    save(tmp_path / "truth" / "b.png", ring())
    with pytest.raises(InputError, match="no mask named a"):
        evaluate_files(tmp_path / "pred", tmp_path / "truth", None, None)
    with pytest.raises(InputError, match="differ in size"):
        evaluate_files(tmp_path / "pred" / "a.png", save(tmp_path / "c.png", ring((30, 30))), None, None)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="holds no masks"):
        evaluate_files(tmp_path / "none", tmp_path / "truth", None, None)


def test_a_table_has_the_columns_of_all_rows(tmp_path):
    write_csv(tmp_path / "a.csv", [{"case": "a,b", "x": 1}, {"case": 'c"', "y": None}])
    assert (tmp_path / "a.csv").read_bytes().decode() == 'case,x,y\r\n"a,b",1,\r\n"c""",,\r\n'


def test_a_model_in_memory_has_no_digest_and_works_the_same(tmp_path, model):
    from rnca.zoo import as_model

    image, mask = case(tmp_path)
    record = refine_file(image, mask, tmp_path / "o.png", Options(steps=24), model=as_model(compile(filler())))
    assert record["model"]["sha256"] == ""
    np.testing.assert_array_equal(load(tmp_path / "o.png"), ring() * 255)
