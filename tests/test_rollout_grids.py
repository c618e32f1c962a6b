"""Rollouts on a grid of the model's own: its spacing, or a coarser one where the object is larger than it knows."""

from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import filler, random_net
from rnca.geometry import Grid
from rnca.intensity import NetworkInput
from rnca.rollout import open_window, refine, stream
from rollouts import itk, model_of, noise, sleeper, spots, voxels

both_dims = pytest.mark.parametrize("dims", [2, 3])


# Models with a spacing of their own


@pytest.mark.parametrize(
    ("dims", "shape", "spacing"),
    [(2, (41, 37), (0.5, 0.7)), (3, (14, 15, 13), (0.5, 0.7, 2.2)), (2, (6, 21, 20), (0.4, 0.5, 3.0))],
    ids=["image", "volume", "slices"],
)
@pytest.mark.parametrize("model_spacing", [0.4, 1.0, 2.3])
def test_resampling_alone_changes_no_voxel(
    dims: int, shape: tuple[int, ...], spacing: tuple[float, ...], model_spacing: float
) -> None:
    mask = spots(shape, share=0.3).astype(np.int16) * 4
    model = model_of(sleeper(dims), spacing=[model_spacing] * dims, resample=True)
    for roi in (None, ",".join(["2:9"] * (len(shape) - 1) + ["1:5"])):
        steps = list(stream(itk(noise(*shape), spacing), itk(mask, spacing), model, 3, roi=roi))
        assert [step.changed for step in steps] == [0, 0, 0]
        np.testing.assert_array_equal(voxels(steps[-1].mask), mask)


@both_dims
def test_a_resampling_model_changes_voxels_only_near_what_it_repaired(dims: int) -> None:
    """A gap is closed at half the resolution; a line too thin for that resolution stays, bit for bit."""
    shape = {2: (60, 50), 3: (24, 26, 40)}[dims]
    block = np.zeros(shape, bool)
    block[(*[slice(8, 16)] * (dims - 1), slice(4, -4))] = True
    mask = block.copy()
    gap = (*[slice(8, 16)] * (dims - 1), slice(18, 22))
    mask[gap] = False
    line = np.zeros(shape, bool)
    line[(*[21] * (dims - 1), slice(1, -1))] = True
    spacing = (0.5,) * dims
    model = model_of(filler(dims), spacing=[1.0] * dims, resample=True)
    found = refine(itk(block.astype(np.float32), spacing), itk((mask | line).astype(np.uint8), spacing), model, 20)
    result = voxels(found.mask) > 0
    assert result[gap].all(), "the gap is not closed"
    places = np.argwhere(result != (mask | line))
    reach = [(s.start - 4, s.stop + 4) for s in gap]
    assert all(low <= p < high for place in places for p, (low, high) in zip(place, reach, strict=True))


def test_a_model_works_at_its_own_spacing_along_its_axes() -> None:
    """Halving the resolution of both halves the steps a gap needs."""
    shape = (24, 90)
    block = np.zeros(shape, np.float32)
    block[8:16, 4:-4] = 1
    mask = block > 0
    mask[:, 25:65] = False
    spacing = (0.5, 0.5)
    images = itk(block, spacing), itk(mask.astype(np.uint8), spacing)
    done = {}
    for wanted in (0.5, 1.0):
        model = model_of(filler(), spacing=[wanted] * 2, resample=True)
        closed = [bool(voxels(s.mask)[10, 4:-4].all()) for s in stream(*images, model, 40)]
        done[wanted] = closed.index(True)
    assert done[1.0] == pytest.approx(done[0.5] / 2, abs=3)


# Objects larger than a model knows


def plain_input(shape: tuple[int, ...]) -> NetworkInput:
    return NetworkInput(noise(1, *shape), 1, {"kind": "none"})


def test_a_gap_in_a_large_object_is_filled_in_fewer_steps_on_a_coarser_grid() -> None:
    """A block of 80 pixels at a size of 20: a step reaches four pixels far."""
    block = np.zeros((60, 100), np.float32)
    block[10:50, 10:90] = 1
    mask = (block > 0).astype(np.uint8)
    mask[10:50, 40:72] = 0
    done = {}
    for size in (0, 20):
        steps = stream(block, mask, model_of(filler(), object_size=size), 30)
        closed = [bool(step.mask[30, 10:90].all()) for step in steps]
        done[size] = closed.index(True) + 1
    assert done[0] >= 16 and done[20] < 0.6 * done[0], done


def test_the_rules_for_the_end_hold_on_the_grid_that_a_large_object_is_repaired_on() -> None:
    """Noise of a voxel there, 16 of the mask's, is a nibble of one voxel; slits close, and labels stay."""
    right = np.zeros((96, 120), bool)
    right[16:80, 20:100] = True
    values = right.astype(np.uint8)
    values[40, :], values[60:62, 50] = 0, 0
    values[66:70, 60:70] = 2
    model = model_of(random_net(3), object_size=20, nibble_size=10_000, speck_size=10_000)
    found = refine(noise(96, 120), values, model, 4, label=1).mask
    assert ((found == 2) == (values == 2)).all()
    expected = right & (values != 2)
    assert np.count_nonzero((found == 1) != expected) <= 2, "the ends of the slit"
    kept = refine(noise(96, 120), values, model, 4, label=1, roi="0:40,:").mask
    np.testing.assert_array_equal(kept[:, 40:], values[:, 40:])
    np.testing.assert_array_equal(kept[:, :40], found[:, :40])


def test_on_a_coarser_grid_growth_stops_at_other_labels() -> None:
    values = np.zeros((60, 100), np.uint8)
    values[10:50, 10:90] = 1
    values[10:50, 40:60] = 2
    model = model_of(filler(), object_size=20)
    window = open_window(values, 1, Grid.of(values), model.metadata, plain_input(values.shape), 20)
    assert window is not None and window.low is not None
    grown = [window.low_now.sum() for _ in window.unroll(model.module, 20)]
    assert grown[-1] > window.low_before.sum(), "elsewhere it grows"
    assert not (window.low_now & (window.low.sample(values == 2) > 0.5)).any()


def test_the_looks_of_growth_are_judged_on_the_coarser_grid() -> None:
    image = np.zeros((90, 130), np.float32)
    image[25:65, 30:110] = 9
    mask = image > 0
    mask[25:65, 60:80] = False
    found = refine(image, mask.astype(np.uint8), model_of(filler(), object_size=20, look_size=4), 20).mask > 0
    assert found[30:60, 62:78].all(), "as bright as the mask"
    image[25:65, 60:80] = 3
    for size, kept in ((0, True), (4, False)):
        dim = refine(image, mask.astype(np.uint8), model_of(filler(), object_size=20, look_size=size), 20).mask > 0
        assert dim[30:60, 65:75].all() == dim[30:60, 65:75].any() == kept, "nearer to the background"


@pytest.mark.parametrize(("holes", "filled"), [(4, False), (5, True)])
def test_a_large_right_volume_keeps_a_few_holes_of_a_voxel(holes: int, filled: bool) -> None:
    whole = np.zeros((44, 44, 44), bool)
    whole[2:42, 2:42, 2:42] = True
    mask = whole.copy()
    mask[20, 20, 7 : 7 + 6 * holes : 6] = False
    model = model_of(sleeper(3), object_size=20, speck_size=3, tolerance=0.03)
    found = refine(noise(*mask.shape), mask.astype(np.uint8), model, 2).mask > 0
    np.testing.assert_array_equal(found, whole if filled else mask)


def test_a_faint_halo_makes_no_object_larger() -> None:
    soft = np.full((60, 100), 0.3, np.float32)
    soft[20:40, 40:60] = 0.9
    grid = Grid.of(soft)
    metadata = model_of(filler(), object_size=20).metadata
    window = open_window(soft, 1, grid, metadata, plain_input(soft.shape), 3, soft=True)
    assert window is not None and window.low is None


# Regions


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
@pytest.mark.parametrize(
    "known",
    [
        {"spacing": 1.0, "resample": True},
        {"object_size": 5},
        {"object_size": 5, "speck_size": 3, "nibble_size": 2, "bay_width": 3},
    ],
    ids=["spacing", "large", "large and tidied"],
)
@given(st.data())
@settings(max_examples=25)
def test_a_resampling_model_gives_a_region_what_it_would_get_without_it(
    dims: int, soft: bool, known: dict[str, Any], data: st.DataObject
) -> None:
    shape = data.draw(st.tuples(*[st.integers(5, 60 if dims == 2 else 20)] * dims))
    spacing = data.draw(st.tuples(*[st.sampled_from([0.5, 0.7, 1.0, 1.3, 2.1])] * dims))
    seed = data.draw(st.integers(0, 1000))
    region = tuple(slice(low := data.draw(st.integers(0, n - 1)), data.draw(st.integers(low + 1, n))) for n in shape)
    blobs = spots(shape, seed, 0.4)
    mask = np.kron(spots(tuple(-(-n // 4) for n in shape), seed, 0.3), np.ones((4,) * dims, bool))
    mask = (mask[tuple(slice(n) for n in shape)] & blobs).astype(np.uint8)
    if soft:
        mask *= np.uint8(200)
    image = itk(noise(*shape, seed=seed + 1), spacing[::-1])
    own = {"spacing": [known["spacing"]] * dims} if "spacing" in known else {}
    model = model_of(random_net(seed, dims), **known | own)
    with mock.patch("rnca.coarse.KEPT", 0.0):  # noise does not survive a coarser grid
        whole = voxels(refine(image, itk(mask, spacing[::-1]), model, 3, soft=soft).mask)
        found = voxels(refine(image, itk(mask, spacing[::-1]), model, 3, roi=region, soft=soft).mask)
    expected = mask.copy()
    expected[region] = whole[region]
    np.testing.assert_array_equal(found, expected)
