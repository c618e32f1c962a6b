"""Metrics: golden values, brute-force and MONAI oracles, invariances, and a defined value for every pair of masks."""

from math import hypot, isnan, nan, prod, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from scipy.spatial.distance import cdist

from rnca.errors import InputError
from rnca.metrics import (
    assd,
    betti_errors,
    cldice,
    dice,
    evaluate,
    hausdorff,
    hausdorff95,
    summarise,
)

OVERLAPS = [dice, cldice]
DISTANCES = [hausdorff, hausdorff95, assd]
SPACINGS = {2: (0.5, 1.25), 3: (3.0, 0.5, 1.25)}


@st.composite
def pairs(draw, dims=(2, 3), shortest=2, empty=False):
    """Two noisy masks of one shape with axes up to 9 (2-D) or 6 (3-D) voxels, neither empty unless asked for."""
    ndim = draw(st.sampled_from(dims))
    shape = draw(st.tuples(*[st.integers(shortest, 9 if ndim == 2 else 6)] * ndim))
    size = prod(shape)
    masks = []
    for _ in range(2):
        noise = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8).reshape(shape)
        mask = noise < draw(st.sampled_from([32, 128, 224]))
        if not empty:
            mask.flat[draw(st.integers(0, size - 1))] = True
        masks.append(mask)
    return tuple(masks)


def blank(*shape):
    return np.zeros(shape, bool)


def filled(shape, *box):
    mask = blank(*shape)
    mask[tuple(slice(*pair) for pair in box)] = True
    return mask


def brute_force_surfaces(pred, truth, spacing):
    """(max, larger 95th percentile, pooled mean) of the distances between surface voxels, each pair compared."""

    def surface(mask):
        padded = np.pad(mask, 1)
        inner = np.ones_like(mask)
        for axis in range(mask.ndim):
            for step in (-1, 1):
                inner &= np.roll(padded, step, axis)[(slice(1, -1),) * mask.ndim]
        return np.argwhere(mask & ~inner) * spacing

    distances = cdist(surface(pred), surface(truth))
    there, back = distances.min(1), distances.min(0)
    return (
        max(there.max(), back.max()),
        max(np.percentile(there, 95), np.percentile(back, 95)),
        np.concatenate([there, back]).mean(),
    )


def broken_bar():
    """A bar of 40×5 pixels, the same with a gap of 10 columns, in an image of 12×50."""
    whole = filled((12, 50), (4, 9), (5, 45))
    broken = whole.copy()
    broken[:, 20:30] = False
    return broken, whole


def test_dice_counts_the_shared_voxels_twice():
    assert dice(filled((4, 6), (0, 2), (0, 3)), filled((4, 6), (0, 2), (1, 5))) == 2 * 4 / (6 + 8)


def test_dice_of_wide_masks_does_not_overflow():
    whole = np.ones((300, 300), np.uint8)
    assert dice(whole * 255, whole) == 1.0


def test_cldice_of_a_line_with_a_gap():
    line = filled((7, 30), (3, 4), (5, 25))
    broken = line.copy()
    broken[3, 10:15] = False
    assert cldice(broken, line) == pytest.approx(2 * 1 * 0.75 / 1.75)


def test_cldice_ignores_width_where_dice_does_not():
    thin, thick = filled((15, 40), (7, 8), (5, 35)), filled((15, 40), (4, 11), (4, 36))
    assert cldice(thin, thick) > 0.95
    assert dice(thin, thick) < 0.3


def test_cldice_falls_with_a_gap_more_than_with_a_thinner_vessel():
    broken, whole = broken_bar()
    thinner = filled(whole.shape, (5, 8), (5, 45))
    assert dice(thinner, whole) < dice(broken, whole)
    assert cldice(thinner, whole) > cldice(broken, whole)


@settings(deadline=None, max_examples=50)
@given(pairs(shortest=1))
def test_overlap_is_one_for_the_same_mask_and_zero_for_disjoint_masks(pair):
    mask, other = pair
    for metric in OVERLAPS:
        assert metric(mask, mask) == 1.0
        assert metric(mask & other, mask & ~other) == float(not mask.any())


@pytest.mark.parametrize("size", [(2, 2, 2), (2, 4, 5), (4, 4, 30), (1, 4, 4)])
def test_pieces_that_thinning_erases_still_count_in_cldice(size):
    # skimage.morphology.skeletonize returns nothing at all for these blocks (scikit-image issue 3757).
    block = np.pad(np.ones(size), [(8, 8), (8, 8), (8, 40)])
    large = filled(block.shape, (2, 7), (2, 7), (0, 60))
    elsewhere = np.roll(block, size[2], axis=2)
    assert cldice(block, block) == 1.0
    assert cldice(block, elsewhere) == 0.0
    assert 0.3 < cldice(large, large + block) < 1.0


def test_tube_that_thinning_erases_is_represented_by_its_core():
    tube = filled((12, 12, 40), (4, 8), (4, 8), (5, 35))
    core = filled((12, 12, 40), (5, 7), (5, 7), (6, 34))
    assert cldice(tube, core) == 1.0
    assert cldice(tube, tube & ~core) < 0.1


@settings(deadline=None, max_examples=100)
@given(pairs(), st.booleans())
def test_surface_distances_equal_comparing_every_pair_of_surface_voxels(pair, isotropic):
    # The noise reaches the border of the image, where a foreground voxel is surface too.
    spacing = None if isotropic else SPACINGS[pair[0].ndim]
    expected = brute_force_surfaces(*pair, np.ones(pair[0].ndim) if isotropic else spacing)
    assert [metric(*pair, spacing) for metric in DISTANCES] == pytest.approx(expected, rel=1e-6)


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges")
@pytest.mark.parametrize("ndim", [2, 3])
def test_surface_distances_are_those_of_monai(ndim):
    rng = np.random.default_rng(ndim)
    p, t = rng.random((2, 1, 1, *[12] * ndim)) < 0.3
    monai = {"y_pred": torch.tensor(p), "y": torch.tensor(t), "include_background": True, "spacing": SPACINGS[ndim]}
    pair = (p[0, 0], t[0, 0], SPACINGS[ndim])
    assert hausdorff(*pair) == pytest.approx(compute_hausdorff_distance(**monai).item())
    assert hausdorff95(*pair) == pytest.approx(compute_hausdorff_distance(**monai, percentile=95).item())
    assert assd(*pair) == pytest.approx(compute_average_surface_distance(**monai, symmetric=True).item())


def test_surface_along_the_border_of_the_image_is_surface():
    # Two slabs against the left border: their outlines differ in the right edge and in two runs of the short edges.
    left, wider = filled((9, 9), (0, 9), (0, 3)), filled((9, 9), (0, 9), (0, 7))
    assert hausdorff(left, wider) == 4.0
    assert assd(left, wider) == pytest.approx(brute_force_surfaces(left, wider, np.ones(2))[2])
    corner, opposite = filled((9, 9), (0, 1), (0, 1)), filled((9, 9), (8, 9), (8, 9))
    assert hausdorff(corner, opposite, (1.0, 2.0)) == pytest.approx(hypot(8, 16))


@pytest.mark.parametrize("metric", DISTANCES)
def test_distance_of_a_shifted_point_is_the_shift_in_physical_units(metric):
    point, shifted = filled((5, 6, 7), (2, 3), (2, 3), (2, 3)), filled((5, 6, 7), (2, 3), (2, 3), (5, 6))
    assert metric(point, shifted) == 3.0
    assert metric(point, shifted, 2) == 6.0
    assert metric(point, shifted, (5.0, 7.0, 0.5)) == 1.5
    assert metric(point, shifted, np.array([5, 7, 4])) == 12.0


def test_hausdorff95_leaves_out_one_stray_voxel_in_a_long_surface():
    line = filled((40, 60), (5, 6), (0, 60))
    stray = line | filled((40, 60), (35, 36), (30, 31))
    assert hausdorff(stray, line) == 30.0
    assert hausdorff95(stray, line) == 0.0


@settings(deadline=None, max_examples=40)
@given(pairs(shortest=1, empty=True))
def test_metrics_do_not_depend_on_which_mask_is_the_truth(pair):
    for metric in (*OVERLAPS, *DISTANCES, betti_errors):
        assert metric(*pair) == pytest.approx(metric(*pair[::-1]), rel=1e-6)


@settings(deadline=None, max_examples=40)
@given(pairs(), st.randoms())
def test_distances_ignore_orientation_and_empty_margin(pair, random):
    ndim = pair[0].ndim
    flips = random.sample(range(ndim), random.randint(0, ndim))
    order = random.sample(range(ndim), ndim)
    margin = [(random.randint(0, 3), random.randint(0, 3)) for _ in range(ndim)]
    turned = [np.pad(np.transpose(np.flip(mask, flips), order), margin) for mask in pair]
    spacing = SPACINGS[ndim]
    for metric in DISTANCES:
        assert metric(*turned, [spacing[axis] for axis in order]) == pytest.approx(metric(*pair, spacing), rel=1e-6)
    assert dice(*turned) == dice(*pair)


@settings(deadline=None, max_examples=20)
@given(pairs(dims=(2,), shortest=1), st.integers(0, 2))
def test_volume_of_one_slice_is_measured_as_the_image_it_is(pair, axis):
    volumes = [np.expand_dims(mask, axis) for mask in pair]
    spacing = np.insert(SPACINGS[2], axis, 10.0)
    for metric in OVERLAPS:
        assert metric(*volumes) == metric(*pair)
    for metric in DISTANCES:
        assert metric(*volumes, spacing) == metric(*pair, SPACINGS[2])


@pytest.mark.parametrize("shape", [(6, 8), (3, 6, 8), (1, 6, 8), (1, 1), (1, 1, 1)])
def test_two_empty_masks_agree_in_every_metric(shape):
    row = evaluate(blank(*shape), blank(*shape))
    assert {name: value for name, value in row.items() if value} == {"dice": 1, "cldice": 1, "topology_right": 1}


@pytest.mark.parametrize("swap", [False, True])
def test_one_empty_mask_has_no_overlap_and_the_largest_distance(swap):
    masks = (blank(3, 6, 8), filled((3, 6, 8), (0, 1), (0, 1), (0, 1)))
    row = evaluate(*(masks[::-1] if swap else masks), spacing=(5.0, 0.5, 0.25))
    diagonal = sqrt(15**2 + 3**2 + 2**2)
    assert (row["dice"], row["cldice"], row["topology_right"]) == (0, 0, 0)
    assert (row["hd"], row["hd95"], row["assd"]) == pytest.approx((diagonal,) * 3)
    assert row["betti0_error"] == row["betti0_error_tile64"] == 1


def test_an_empty_prediction_is_farther_than_any_other():
    truth = filled((7, 9), (0, 1), (0, 1))
    farthest = filled((7, 9), (6, 7), (8, 9))
    for metric in DISTANCES:
        assert metric(blank(7, 9), truth) > metric(farthest, truth)


@settings(deadline=None, max_examples=60)
@given(pairs(shortest=1, empty=True))
def test_every_metric_is_finite_and_in_range(pair):
    row = evaluate(*pair)
    assert all(type(value) is float and np.isfinite(value) and value >= 0 for value in row.values())
    assert max(row["dice"], row["cldice"], row["topology_right"]) <= 1
    assert row["hd"] >= max(row["hd95"], row["assd"])


def test_betti_errors_of_the_whole_image_count_each_dimension():
    ring = filled((9, 9), (2, 7), (2, 7)) & ~filled((9, 9), (4, 5), (4, 5))
    opened = ring & ~filled((9, 9), (4, 5), (5, 7))
    islands = opened.copy()
    islands[0, 0] = islands[8, 8] = True
    assert betti_errors(opened, ring) == (0, 1)
    assert betti_errors(islands, ring) == (2, 1)
    hollow = np.pad(np.ones((3, 3, 3)), 1)
    hollow[2, 2, 2] = 0
    assert betti_errors(hollow, np.pad(np.ones((3, 3, 3)), 1)) == (0, 0, 1)


def test_errors_that_cancel_over_the_image_show_in_its_tiles():
    pred, truth = blank(128, 128), blank(128, 128)
    pred[10, 10] = truth[100, 100] = True
    assert betti_errors(pred, truth) == (0, 0)
    assert betti_errors(pred, truth, tile=64) == (1, 0)


def test_tiles_without_foreground_do_not_dilute_the_mean():
    truth = filled((256, 256), (0, 10), (0, 10))
    pred = truth | filled((256, 256), (20, 30), (20, 30)) | filled((256, 256), (100, 101), (100, 101))
    assert betti_errors(pred, truth, tile=64) == (1, 0)
    assert betti_errors(truth, truth, tile=64) == (0, 0)


def test_tiles_at_the_far_border_are_what_remains():
    truth = blank(70, 64)
    pred = filled((70, 64), (0, 2), (0, 2))
    pred[65, ::2] = True
    assert betti_errors(pred, truth, tile=64) == ((1 + 32) / 2, 0)


def test_tiles_of_a_volume_are_cubes():
    truth, pred = blank(4, 4, 4), blank(4, 4, 4)
    pred[0, 0, 0] = pred[3, 0, 0] = pred[3, 0, 1] = pred[3, 3, 3] = True
    assert betti_errors(pred, truth) == (3, 0, 0)
    assert betti_errors(pred, truth, tile=2) == (1, 0, 0)


@settings(deadline=None, max_examples=30)
@given(pairs(shortest=1, empty=True))
def test_one_tile_over_the_whole_image_is_the_whole_image(pair):
    assert betti_errors(*pair, tile=9) == betti_errors(*pair)


@pytest.mark.parametrize("tile", [0, -64])
def test_tiles_without_an_edge_are_refused(tile):
    with pytest.raises(InputError, match="at least 1"):
        betti_errors(np.ones((3, 3)), np.ones((3, 3)), tile=tile)


@pytest.mark.parametrize("metric", [*OVERLAPS, *DISTANCES, betti_errors, evaluate])
def test_masks_of_different_shape_are_refused_in_one_sentence(metric):
    with pytest.raises(InputError, match=r"^The masks differ in shape, prediction \(4, 5\) and truth \(5, 4\); .*\.$"):
        metric(np.ones((4, 5)), np.ones((5, 4)))


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 1.0, 1.0), 0.0, (1.0, -1.0), (1.0, nan), ((1.0, 1.0),)])
def test_spacing_that_does_not_fit_is_refused(spacing):
    for mask in (np.ones((4, 5)), np.zeros((4, 5))):
        with pytest.raises(InputError, match="one positive number for each of the 2 axes"):
            hausdorff(mask, mask, spacing)


def test_evaluation_of_an_image_holds_each_metric_under_its_name():
    pred, truth = broken_bar()
    assert evaluate(pred, truth, (0.5, 2.0)) == {
        "dice": dice(pred, truth),
        "cldice": cldice(pred, truth),
        "hd": hausdorff(pred, truth, (0.5, 2.0)),
        "hd95": hausdorff95(pred, truth, (0.5, 2.0)),
        "assd": assd(pred, truth, (0.5, 2.0)),
        "betti0_error": 1.0,
        "betti1_error": 0.0,
        "betti0_error_tile64": 1.0,
        "betti1_error_tile64": 0.0,
        "topology_right": 0.0,
    }


def test_evaluation_of_a_volume_has_a_third_betti_error():
    truth = np.pad(np.ones((5, 5, 5)), 1)
    hollow = truth.copy()
    hollow[3, 3, 3] = 0
    row = evaluate(hollow, truth)
    assert (row["betti2_error"], row["betti2_error_tile64"], row["topology_right"]) == (1, 1, 0)


def test_evaluation_with_the_mask_before_measures_both():
    before, truth = broken_bar()
    pred = truth.copy()
    pred[4, 5] = False
    row = evaluate(pred, truth, (0.5, 2.0), before)
    old = evaluate(before, truth, (0.5, 2.0))
    assert row == {
        **evaluate(pred, truth, (0.5, 2.0)),
        **{f"before_{name}": value for name, value in old.items()},
        "repaired": 1.0,
        "harmed": pytest.approx(nan, nan_ok=True),
    }


BLOCK = filled((60, 60), (10, 50), (10, 50))
HOLED = BLOCK & ~filled((60, 60), (20, 21), (20, 21))


@pytest.mark.parametrize(
    ("before", "after", "repaired", "harmed"),
    [
        pytest.param(HOLED, BLOCK, 1, nan, id="wrong, then right"),
        pytest.param(HOLED, HOLED, 0, nan, id="wrong, still wrong"),
        pytest.param(BLOCK, BLOCK, nan, 0, id="right, untouched"),
        pytest.param(BLOCK, HOLED, nan, 1, id="right, then wrong"),
        pytest.param(BLOCK, filled((60, 60), (11, 50), (10, 50)), nan, 1, id="right, then a row short"),
        pytest.param(BLOCK, BLOCK & ~filled((60, 60), (10, 11), (10, 11)), nan, 0, id="right, then one pixel short"),
        pytest.param(filled((60, 60), (13, 50), (10, 50)), HOLED, nan, nan, id="right but 0.96 Dice, then wrong"),
        pytest.param(blank(60, 60), blank(60, 60), 0, nan, id="empty before and after"),
    ],
)
def test_repair_and_harm_are_judged_only_where_they_apply(before, after, repaired, harmed):
    row = evaluate(after, BLOCK, before=before)
    assert [row["repaired"], row["harmed"]] == pytest.approx([repaired, harmed], nan_ok=True)


def test_summary_has_mean_deviation_and_number_without_nan():
    rows = [{"dice": 0.5, "repaired": nan}, {"dice": 0.75, "repaired": 1.0}, {"dice": 1.0, "repaired": nan}]
    assert summarise(rows) == {"dice": (0.75, pytest.approx(sqrt(0.125 / 3)), 3), "repaired": (1.0, 0.0, 1)}


def test_summary_of_a_metric_that_no_case_has_is_nan_with_number_zero():
    mean, deviation, n = summarise([{"harmed": nan}])["harmed"]
    assert (isnan(mean), isnan(deviation), n) == (True, True, 0)
    assert summarise([]) == {}


def test_summary_of_images_and_volumes_counts_each_metric_where_it_exists():
    table = summarise([{"betti0_error": 1.0}, {"betti0_error": 3.0, "betti2_error": 2.0}])
    assert table == {"betti0_error": (2.0, 1.0, 2), "betti2_error": (2.0, 0.0, 1)}
