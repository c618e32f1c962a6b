"""Cases: what training draws, where it was cut from, and who is kept for validation."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from conftest import discs
from rnca.cases import (
    Case,
    Starts,
    choose_box,
    draw_patch,
    load_cases,
    paint_neighbour,
    phantom_cases,
    split_cases,
)
from rnca.errors import InputError
from rnca.geometry import resample

Array = NDArray[Any]
LABEL = discs((24, 26), ((11, 12), 7)) & ~discs((24, 26), ((11, 12), 3.5))
GIVEN = discs((24, 26), ((4, 4), 3)).astype(np.float32)  # unlike anything that damage makes of the label
GREY = np.random.default_rng(0).random(LABEL.shape, np.float32)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def share_within(count: int, total: int, expected: float) -> bool:
    """Within four standard deviations of the binomial distribution."""
    return abs(count / total - expected) <= 4 * (expected * (1 - expected) / total) ** 0.5


# Starting states


def kind_of(start: Array) -> str:
    if np.array_equal(start, LABEL):
        return "clean"
    return "given" if np.array_equal(start, GIVEN) else "damaged"


@pytest.mark.parametrize("has_given", [True, False])
def test_starts_are_clean_given_and_damaged_in_their_shares(has_given: bool) -> None:
    starts, generator = Starts(kinds=("thick", "islands"), clean=0.25, given=0.6, soft=0.0), rng()
    drawn = Counter(kind_of(starts.draw(LABEL, [GIVEN] if has_given else [], generator)) for _ in range(600))
    given = 0.75 * 0.6 if has_given else 0
    assert share_within(drawn["clean"], 600, 0.25)
    assert share_within(drawn["given"], 600, given)
    assert share_within(drawn["damaged"], 600, 0.75 - given)


def test_starts_are_soft_in_their_share_and_binary_otherwise() -> None:
    starts, generator = Starts(soft=0.3), rng()
    drawn = [starts.draw(LABEL, [], generator) for _ in range(500)]
    assert all(start.dtype == np.float32 and start.shape == LABEL.shape for start in drawn)
    assert all(start.min() >= 0 and start.max() <= 1 for start in drawn)
    assert share_within(sum(not np.isin(start, (0, 1)).all() for start in drawn), 500, 0.3)


def test_every_given_start_is_used() -> None:
    starts, generator = Starts(clean=0, given=1, soft=0), rng()
    others = [GIVEN, np.flipud(GIVEN), np.fliplr(GIVEN)]
    drawn = [starts.draw(LABEL, others, generator) for _ in range(300)]
    for other in others:
        assert share_within(sum(np.array_equal(start, other) for start in drawn), 300, 1 / 3)


def test_a_soft_start_that_is_given_is_taken_as_it_is_or_cut_at_a_half() -> None:
    np.testing.assert_array_equal(Starts(clean=0, given=1, soft=1).draw(LABEL, [GREY], rng()), GREY)
    np.testing.assert_array_equal(Starts(clean=0, given=1, soft=0).draw(LABEL, [GREY], rng()), GREY > 0.5)


def test_a_clean_binary_start_is_the_label_itself() -> None:
    np.testing.assert_array_equal(Starts(clean=1, soft=0).draw(LABEL, [GIVEN], rng()), LABEL)


def test_a_clean_soft_start_is_the_label_blurred() -> None:
    for seed in range(20):
        start = Starts(clean=1, soft=1).draw(LABEL, [GIVEN], rng(seed))
        assert np.corrcoef(start.ravel(), LABEL.ravel())[0, 1] > 0.75
        assert not np.isin(start, (0, 1)).all()


@pytest.mark.parametrize(("kind", "sign"), [("thick", 1), ("thin", -1), ("islands", 1), ("gaps", -1)])
def test_damage_is_of_the_kinds_asked_for(kind: str, sign: int) -> None:
    for seed in range(10):
        start = Starts(kinds=(kind,), clean=0, soft=0).draw(LABEL, [], rng(seed)) > 0
        added, removed = (start & ~LABEL).any(), (LABEL & ~start).any()
        assert (added, removed) == (sign > 0, sign < 0)


def test_severity_stays_in_its_range() -> None:
    lost = {}
    for severity in (0.0, 1.0):
        starts = Starts(kinds=("chunks",), severity=(severity, severity), clean=0, soft=0)
        lost[severity] = np.mean([1 - starts.draw(LABEL, [], rng(n)).sum() / LABEL.sum() for n in range(40)])
    assert lost[0.0] < lost[1.0] / 2


def test_the_same_seed_draws_the_same_start() -> None:
    one, again, other = (Starts().draw(LABEL, [GIVEN], rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


# Patches


def coded_case(shape: tuple[int, ...], share: float = 0.1) -> Case:
    """A case whose image says where each of its pixels comes from: the label, and the pixel's number."""
    label = rng(1).random(shape) < share
    code = np.arange(label.size, dtype=np.float32).reshape(shape)
    return Case("coded", np.stack([label, code]).astype(np.float32), label, [rng(2).random(shape, np.float32)])


def decode(image: Array, case: Case) -> tuple[Array, Array]:
    """The label that the image shows, and where each pixel comes from, (dims, *size)."""
    low, high = image[0].min(), image[0].max()  # gain and offset are the same for all channels
    gain = high - low
    code = np.rint((image[1] - low) / gain).astype(int)
    return (image[0] - low) / gain > 0.5, np.array(np.unravel_index(code, case.label.shape))


ALWAYS_GIVEN = Starts(clean=0, given=1, soft=1)


@pytest.mark.parametrize(
    ("shape", "size"), [((30, 41), (16, 16)), ((30, 41), (12, 20)), ((16, 16), (16, 16)), ((12, 14, 13), (8, 8, 8))]
)
def test_patches_are_crops_of_the_case_in_some_orientation(shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    case, orientations, corners = coded_case(shape), set(), set()
    for seed in range(40):
        image, start, target = draw_patch(case, size, ALWAYS_GIVEN, rng(seed))
        assert image.shape == (2, *size)
        assert start.shape == target.shape == size
        assert {image.dtype, start.dtype, target.dtype} == {np.dtype(np.float32)}
        assert target.any(), "a patch without foreground"
        shown, source = decode(image, case)
        np.testing.assert_array_equal(target > 0, shown)
        np.testing.assert_array_equal(target, case.label[tuple(source)])
        np.testing.assert_array_equal(start, case.starts[0][tuple(source)])
        # Neighbours stay neighbours: along each axis of the patch one coordinate runs by one, the others stand still.
        directions = []
        for axis in range(1, source.ndim):
            step = np.diff(source, axis=axis).reshape(len(shape), -1)
            assert (step == step[:, :1]).all()
            directions.append(tuple(step[:, 0]))
        assert np.array_equal(np.abs(directions).sum(0), np.ones(len(shape)))
        orientations.add(tuple(directions))
        corners.add(tuple(source.reshape(len(shape), -1).min(1)))
    possible = 2 ** len(shape) * ({2: 2, 3: 6}[len(shape)] if len(set(size)) == 1 else 1)
    assert len(orientations) >= min(possible, 20) - (possible > 8) * 5
    assert len(corners) > 20 or shape == size


def test_contrast_and_brightness_vary_and_masks_do_not() -> None:
    case = coded_case((20, 20))
    spans = [np.ptp(draw_patch(case, (16, 16), ALWAYS_GIVEN, rng(seed))[0][0]) for seed in range(60)]
    offsets = [draw_patch(case, (16, 16), ALWAYS_GIVEN, rng(seed))[0][0].min() for seed in range(60)]
    assert 0.8 <= min(spans) < 0.9
    assert 1.15 < max(spans) <= 1.2501
    assert -0.1001 <= min(offsets) < -0.05
    assert 0.05 < max(offsets) <= 0.1001


def test_a_case_smaller_than_the_patch_is_padded_with_background() -> None:
    case = coded_case((9, 11), share=0.5)
    for seed in range(20):
        image, start, target = draw_patch(case, (16, 16), ALWAYS_GIVEN, rng(seed))
        assert target.sum() == case.label.sum()
        inside = start > 0
        assert np.isin(start[inside], case.starts[0]).all()
        assert inside.sum() <= 9 * 11
        assert not target[~inside].any()
        assert image[0][target > 0].min() > image[0][target == 0].max()


def test_patches_show_what_is_in_a_start_and_not_in_the_label_too() -> None:
    label, start = np.zeros((60, 60), bool), np.zeros((60, 60), np.float32)
    label[4:8, 4:8] = start[50:54, 50:54] = 1
    case = Case("island", np.zeros((1, 60, 60), np.float32), label, [start])
    shown = [draw_patch(case, (12, 12), ALWAYS_GIVEN, rng(seed))[1:] for seed in range(20)]
    assert {bool(start.any()) for start, _ in shown} == {bool(target.any()) for _, target in shown} == {True, False}


@pytest.mark.parametrize("shape", [(60, 50), (20, 30, 25)])
def test_boxes_have_the_size_asked_for_as_far_as_the_case_goes(shape: tuple[int, ...]) -> None:
    label = np.zeros(shape, bool)
    label[tuple(n - 1 for n in shape)] = True  # in the corner: the box must not leave the case
    case = Case("corner", np.zeros((1, *shape), np.float32), label)
    for seed in range(10):
        for size in (8, 27, 100):
            box = choose_box(case, (size,) * len(shape), rng(seed))
            assert label[box].any()
            assert label[box].shape == tuple(min(size, n) for n in shape)


def test_noise_is_added_to_the_image_only() -> None:
    case = coded_case((20, 20))
    plain, noisy = (draw_patch(case, (20, 20), ALWAYS_GIVEN, rng(5), noise) for noise in (0.0, 0.1))
    assert 0 < np.std(noisy[0] - plain[0]) <= 0.11
    for a, b in zip(plain[1:], noisy[1:], strict=True):
        np.testing.assert_array_equal(a, b)


def test_zoomed_patches_keep_their_size_and_show_objects_larger_or_smaller() -> None:
    label = discs((96, 96), ((48, 48), 6))
    case = Case("disc", label[None].astype(np.float32), label)
    areas = []
    for seed in range(40):
        image, start, target = draw_patch(case, (40, 40), Starts(clean=1, soft=0), rng(seed), 0.0, (0.5, 2.0))
        assert image.shape == (1, 40, 40)
        assert start.shape == target.shape == (40, 40)
        assert set(np.unique(target)) <= {0, 1}
        assert np.array_equal(start, target)
        if not (target[[0, -1]].any() or target[:, [0, -1]].any()):  # whole
            areas.append(target.sum() / label.sum())
            inside = image[0] > (image[0].min() + image[0].max()) / 2
            assert np.mean(inside != (target > 0.5)) < 0.02  # image and mask go together
    assert min(areas) < 0.5
    assert max(areas) > 2
    assert all(0.2 < area < 4.4 for area in areas)


def test_a_neighbour_is_as_bright_as_the_object_and_leaves_it_and_its_mask_alone() -> None:
    label = discs((64, 64), ((32, 32), 12))
    image = np.stack([label * 2.0 + 0.05 * rng(1).standard_normal(label.shape), label * 1.0]).astype(np.float32)
    case, painted = Case("disc", image, label), 0
    for seed in range(20):
        plain, beside = (
            draw_patch(case, (64, 64), Starts(clean=1, soft=0), rng(seed), neighbours=share) for share in (0.0, 1.0)
        )
        for a, b in zip(plain[1:], beside[1:], strict=True):
            np.testing.assert_array_equal(a, b)
        changed, inside = np.abs(beside[0] - plain[0]) > 0.5, plain[2] > 0.5
        assert not (changed[0] & inside).any()
        if changed.any():
            painted += 1
            reach = ndimage.binary_dilation(inside, iterations=3)
            assert (changed[0] & reach).any()  # beside the object
            for new, old, where in zip(beside[0], plain[0], changed, strict=True):
                assert abs(np.median(new[where]) - np.median(old[inside])) < 0.2
    assert painted > 10


def test_nothing_is_painted_beside_specks_and_in_full_patches() -> None:
    image = rng(2).standard_normal((1, 20, 20)).astype(np.float32)
    for label in (discs((20, 20), ((10, 10), 2)), np.ones((20, 20), bool)):
        np.testing.assert_array_equal(paint_neighbour(image, label, rng(3)), image)


def test_several_defects_can_follow_one_another() -> None:
    label = discs((40, 40), ((20, 20), 12))
    made = []
    for most in (1, 3):
        starts, generator = Starts(("chunks",), (0.5, 0.5), clean=0, soft=0, most=most), rng()
        made.append(np.mean([label.sum() - starts.draw(label, [], generator).sum() for _ in range(60)]))
    assert made[1] > 1.3 * made[0] > 0


def test_an_empty_case_gives_patches_too() -> None:
    case = Case("empty", np.zeros((1, 30, 30), np.float32), np.zeros((30, 30), bool))
    image, start, target = draw_patch(case, (8, 8), Starts(), rng())
    assert image.shape == (1, 8, 8)
    assert not start.any()
    assert not target.any()


def test_drawing_does_not_change_the_case() -> None:
    case = coded_case((20, 20))
    copies = case.image.copy(), case.label.copy(), case.starts[0].copy()
    for seed in range(10):
        for part in draw_patch(case, (20, 20), Starts(), rng(seed)):
            part[...] = -1
    for found, expected in zip((case.image, case.label, case.starts[0]), copies, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_same_seed_draws_the_same_patch() -> None:
    case = coded_case((30, 30))
    one, again, other = (draw_patch(case, (16, 16), Starts(), rng(seed)) for seed in (3, 3, 4))
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one[0], other[0])


# Folders


def write(folder: Path, name: str, array: Array, spacing: tuple[float, ...] | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    if spacing:
        image.SetSpacing(spacing)
    sitk.WriteImage(image, str(folder / name))


def test_images_and_labels_are_matched_by_name_with_their_starts(tmp_path: Path) -> None:
    pixels = rng().integers(0, 255, LABEL.shape).astype(np.uint8)
    for name in ("b.png", "a.png", "only-image.png"):
        write(tmp_path / "images", name, pixels)
    for name in ("a.png", "b.png", "only-label.png"):
        write(tmp_path / "labels", name, LABEL.astype(np.uint8) * 255)
    write(tmp_path / "states", "a.png", (GREY * 255).astype(np.uint8))
    write(tmp_path / "predictions" / "unet", "a.png", GIVEN.astype(np.uint8) * 255)
    write(tmp_path / "predictions" / "other", "b.png", GIVEN.astype(np.uint8))
    first, second = load_cases(tmp_path, dims=2, intensity={"kind": "unit"})
    assert (first.name, second.name) == ("a", "b")
    assert first.group != second.group
    np.testing.assert_allclose(first.image, pixels[None] / np.float32(255), rtol=1e-6)
    np.testing.assert_array_equal(first.label, LABEL)
    np.testing.assert_allclose(first.starts[0], (GREY * 255).astype(np.uint8) / np.float32(255), rtol=1e-6)
    np.testing.assert_array_equal(first.starts[1], GIVEN)
    np.testing.assert_array_equal(second.starts, [GIVEN])


def test_float_probabilities_are_soft_starts(tmp_path: Path) -> None:
    for folder, values in (("images", GREY), ("labels", LABEL.astype(np.uint8)), ("predictions/unet", GREY)):
        write(tmp_path / folder, "a.mha", values)
    (case,) = load_cases(tmp_path, dims=2)
    np.testing.assert_array_equal(case.starts[0], GREY)


def test_grey_predictions_stay_soft_where_one_label_of_several_is_asked_for(tmp_path: Path) -> None:
    labels = LABEL.astype(np.uint8) * 2
    for folder, values in (("images", GREY), ("labels", labels), ("predictions/unet", (GREY * 255).astype(np.uint8))):
        write(tmp_path / folder, "a.mha", values)
    (case,) = load_cases(tmp_path, dims=2, label=2)
    np.testing.assert_allclose(case.starts[0], GREY, atol=1 / 255)


def test_a_class_that_only_the_prediction_has_does_not_make_it_grey(tmp_path: Path) -> None:
    predicted = LABEL.astype(np.uint8) * 4
    for folder, values in (("images", GREY), ("labels", LABEL.astype(np.uint8)), ("predictions/unet", predicted)):
        write(tmp_path / folder, "a.mha", values)
    (case,) = load_cases(tmp_path, dims=2)
    np.testing.assert_array_equal(case.starts[0], LABEL)


def test_one_label_of_several_is_taken_if_asked_for(tmp_path: Path) -> None:
    labels = LABEL.astype(np.uint8) * 2 + GIVEN.astype(np.uint8) * 3
    for folder, values in (("images", GREY), ("labels", labels), ("predictions/unet", labels)):
        write(tmp_path / folder, "a.mha", values)
    (two,) = load_cases(tmp_path, dims=2, label=2)
    np.testing.assert_array_equal(two.label, labels == 2)
    np.testing.assert_array_equal(two.starts, [labels == 2])
    (every,) = load_cases(tmp_path, dims=2)
    np.testing.assert_array_equal(every.label, labels > 0)
    np.testing.assert_array_equal(every.starts, [labels > 0])
    each = load_cases(tmp_path, dims=2, label="each")
    assert [(case.name, case.group) for case in each] == [("a_2", "a"), ("a_3", "a")]
    for value, case in zip((2, 3), each, strict=True):
        np.testing.assert_array_equal(case.label, labels == value)
        np.testing.assert_array_equal(case.starts, [labels == value])


def test_a_volume_becomes_the_slices_that_hold_the_label_for_a_2d_model(tmp_path: Path) -> None:
    image = rng().random((6, 7, 8), np.float32)
    label, start = np.zeros(image.shape, np.uint8), np.zeros(image.shape, np.uint8)
    label[:, 2:5, 3:6], start[:, 2, :] = 1, 1
    label[:, 4] = 0
    spacing = (1.0, 3.0, 1.0)  # x, y, z: slices along y, the second axis
    for folder, values in (("images", image), ("labels", label), ("states", start)):
        write(tmp_path / folder, "case.nii.gz", values, spacing)
    cases = load_cases(tmp_path, dims=2, intensity={"kind": "none"})
    assert [case.name for case in cases] == ["case_2", "case_3"]
    assert {case.group for case in cases} == {"case"}
    for index, case in zip((2, 3), cases, strict=True):
        np.testing.assert_array_equal(case.image, image[None, :, index])
        np.testing.assert_array_equal(case.label, label[:, index] > 0)
        np.testing.assert_array_equal(case.starts, [start[:, index]])
    (whole,) = load_cases(tmp_path, dims=3, intensity={"kind": "none"})
    np.testing.assert_array_equal(whole.image, image[None])
    np.testing.assert_array_equal(whole.label, label > 0)


def test_objects_larger_than_the_model_knows_are_trained_on_as_they_are_repaired(tmp_path: Path) -> None:
    label = np.zeros((60, 90), np.uint8)
    label[10:50, 5:85] = 1
    image = np.kron(rng().random((15, 30), np.float32), np.ones((4, 3), np.float32))
    for folder, values in (("images", image), ("labels", label), ("states", 200 * label)):
        write(tmp_path / folder, "a.mha", values)
    (case,) = load_cases(tmp_path, dims=2, intensity={"kind": "none"}, object_size=40)
    assert case.label.shape == (30, 45) and case.image.shape == (1, 30, 45)
    assert case.label[5:25, 3:42].all() and case.label.sum() == pytest.approx(label.sum() / 4, rel=0.03)
    np.testing.assert_allclose(case.image[0], resample(image, (1, 1), (2, 2))[0], atol=1e-6)
    np.testing.assert_allclose(case.starts[0][6:24, 4:41], 200 / 255)
    (same,) = load_cases(tmp_path, dims=2, intensity={"kind": "none"}, object_size=80)
    np.testing.assert_array_equal(same.image[0], image)


def test_a_folder_without_cases_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    write(tmp_path / "images", "a.png", GIVEN.astype(np.uint8))
    for _ in range(2):
        with pytest.raises(InputError, match=r"no cases: expected images/NAME and labels/NAME") as caught:
            load_cases(tmp_path, dims=2)
        assert str(tmp_path) in str(caught.value)
        write(tmp_path / "labels", "b.png", GIVEN.astype(np.uint8))


def test_images_and_labels_of_different_size_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "images", "a.png", np.zeros((9, 8), np.uint8))
    write(tmp_path / "labels", "a.png", np.ones((9, 7), np.uint8))
    with pytest.raises(InputError, match="8×9 against 7×9"):
        load_cases(tmp_path, dims=2)


def test_images_are_refused_for_a_model_for_volumes(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        write(tmp_path / folder, "a.png", LABEL.astype(np.uint8))
    with pytest.raises(InputError, match=r"a\.png is 2-D.*volumes"):
        load_cases(tmp_path, dims=3)


# Phantoms and the split


def test_phantom_cases_are_the_same_for_the_same_seed_and_differ_among_themselves() -> None:
    one, again, other = (phantom_cases("rings", (32, 32), 3, seed, channels=2) for seed in (1, 1, 2))
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.label, b.label)
    labels = {case.label.tobytes() for case in [*one, *other]}
    assert len(labels) == 6
    assert one[0].image.shape == (2, 32, 32)
    assert len({case.group for case in one}) == 3


def cases_of(*groups: str) -> list[Case]:
    blank = np.zeros((1, 2, 2), np.float32)
    return [Case(f"{group}_{n}", blank, blank[0] > 0, group=group) for n, group in enumerate(groups)]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.99, 1.0])
def test_a_group_is_never_on_both_sides_of_the_split_and_nobody_is_lost(share: float) -> None:
    cases = cases_of(*"aaabbcddddefgggghij")
    for seed in range(20):
        training, validation = split_cases(cases, share, seed)
        assert training
        assert validation
        assert not {c.group for c in training} & {c.group for c in validation}
        assert sorted(c.name for c in training + validation) == sorted(c.name for c in cases)
        assert len({c.group for c in validation}) == min(max(round(share * 10), 1), 9)


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_the_cases() -> None:
    cases = cases_of(*"aabbccddeeff")

    def held(cases: list[Case], seed: int) -> set[str]:
        return {c.group for c in split_cases(cases, 0.5, seed)[1]}

    assert held(cases, 1) == held(cases, 1) == held(cases[::-1], 1)
    assert len({frozenset(held(cases, seed)) for seed in range(10)}) > 3


def test_one_group_cannot_be_split() -> None:
    with pytest.raises(InputError, match=r"1 case.*at least 2"):
        split_cases(cases_of(*"aaa"), 0.2, 0)


def test_a_case_is_a_group_of_its_own_unless_told() -> None:
    assert Case("x", np.zeros((1, 2, 2), np.float32), np.zeros((2, 2), bool)).group == "x"
