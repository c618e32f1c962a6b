"""Geometry: orders of axes, regions, slices, and what resampling there and back may and may not move."""

from collections.abc import Sequence

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scipy.spatial.transform import Rotation

from rnca.errors import InputError
from rnca.geometry import (
    Grid,
    as_array,
    bounding_box,
    check_roi,
    check_same_grid,
    grow_box,
    image_channels,
    parse_roi,
    resample,
    slice_axis,
    transfer_change,
)

cases = settings(deadline=None, max_examples=60)

shapes = st.integers(2, 3).flatmap(lambda dims: st.tuples(*[st.integers(1, 9)] * dims))
spacings = st.floats(0.1, 8)


@st.composite
def images(draw: st.DrawFn, dims: Sequence[int] = (2, 3)) -> sitk.Image:
    """Small images with anisotropic voxels, oblique and flipped axes and one-voxel extents."""
    n = draw(st.sampled_from(list(dims)))
    shape = draw(st.tuples(*[st.integers(1, 7)] * n))
    dtype = draw(st.sampled_from([np.uint8, np.int16, np.uint16, np.float32]))
    image = sitk.GetImageFromArray(draw(hnp.arrays(dtype, shape, elements={"min_value": 0, "max_value": 9})))
    image.SetSpacing(draw(st.tuples(*[spacings] * n)))
    image.SetOrigin(draw(st.tuples(*[st.floats(-500, 500)] * n)))
    angles = draw(st.tuples(*[st.floats(-180, 180)] * 3))
    rotation = Rotation.from_euler("xyz", angles, degrees=True) if n == 3 else Rotation.from_euler("z", angles[0], True)
    flips = np.diag(draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * n)))
    image.SetDirection((rotation.as_matrix()[:n, :n] @ flips).ravel())
    image.SetMetaData("Segment0_Name", "vessel")
    return image


def refusal(call: object, *arguments: object) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments)  # type: ignore[operator]
    return str(caught.value)


# Grids


@cases
@given(images())
def test_wrapped_voxels_get_their_place_and_header_back(image: sitk.Image) -> None:
    out = Grid.of(image).wrap(as_array(image))
    assert isinstance(out, sitk.Image)
    assert out.GetPixelID() == image.GetPixelID()
    assert (out.GetSize(), out.GetSpacing(), out.GetOrigin(), out.GetDirection()) == (
        image.GetSize(),
        image.GetSpacing(),
        image.GetOrigin(),
        image.GetDirection(),
    )
    assert out.GetMetaData("Segment0_Name") == "vessel"
    np.testing.assert_array_equal(as_array(out), as_array(image))


def test_wrapped_image_has_the_pixel_type_of_the_array() -> None:
    grid = Grid.of(sitk.Image(4, 5, 6, sitk.sitkInt16))
    assert grid.wrap(np.zeros((6, 5, 4), np.float32)).GetPixelID() == sitk.sitkFloat32
    assert grid.wrap(np.ones((6, 5, 4), bool)).GetPixelID() == sitk.sitkUInt8


def test_shape_and_spacing_are_in_array_order() -> None:
    image = sitk.Image(4, 5, 6, sitk.sitkUInt8)
    image.SetSpacing((0.4, 0.5, 0.6))
    image[1, 2, 3] = 1
    grid = Grid.of(image)
    assert (grid.dims, grid.shape, grid.spacing) == (3, (6, 5, 4), (0.6, 0.5, 0.4))
    assert as_array(image)[3, 2, 1] == 1


def test_arrays_stay_arrays() -> None:
    array = np.zeros((3, 4), np.int32)
    grid = Grid.of(array)
    assert grid == Grid((3, 4), (1, 1), (0, 0), (1, 0, 0, 1))
    assert grid.wrap(array) is array


def test_voxels_of_another_shape_are_not_wrapped() -> None:
    with pytest.raises(ValueError, match="shape"):
        Grid.of(sitk.Image(4, 5, sitk.sitkUInt8)).wrap(np.zeros((4, 5)))


def test_header_fields_that_are_not_text_are_left_out(tmp_path: object) -> None:
    sitk.WriteImage(sitk.Image(4, 5, 6, sitk.sitkUInt8), f"{tmp_path}/a.nii")
    image = sitk.ReadImage(f"{tmp_path}/a.nii")
    out = Grid.of(image).wrap(as_array(image))
    assert out.GetMetaData("sform_code_name") == image.GetMetaData("sform_code_name")
    assert not any("UNKNOWN_PRINT" in out.GetMetaData(key) for key in out.GetMetaDataKeys())


@pytest.mark.parametrize("components", [1, 3])
def test_voxels_outlive_the_image_they_are_a_view_of(components: int) -> None:
    """SimpleITK's own view would show whatever takes the memory next."""
    values = np.random.default_rng(0).integers(0, 9, (90, 90, 90, components)).astype(np.uint16)
    voxels = as_array(sitk.GetImageFromArray(values.squeeze(), isVector=components > 1))
    first = image_channels(sitk.GetImageFromArray(values.squeeze(), isVector=components > 1), (90, 90, 90))[0]
    others = [np.full(values.shape, 77, np.uint16) for _ in range(8)]
    np.testing.assert_array_equal(voxels, values.squeeze())
    np.testing.assert_array_equal(first, values[..., 0])
    assert len(others) == 8
    assert not voxels.flags.writeable


# Channels


@cases
@given(shapes, st.integers(1, 4))
def test_channels_come_first_whatever_the_image_is(shape: tuple[int, ...], count: int) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (count, *shape)).astype(np.uint8)
    last = np.ascontiguousarray(np.moveaxis(colours, 0, -1))
    given_as: list = [colours, sitk.GetImageFromArray(last, isVector=True)]
    if (count, *shape[:-1]) != shape:  # else the array could be either, and is taken as channels first
        given_as.append(last)
    for image in given_as:
        out = image_channels(image, shape)
        assert out.dtype == np.uint8
        np.testing.assert_array_equal(out, colours)
    for scalar in (colours[0], sitk.GetImageFromArray(colours[0])):
        np.testing.assert_array_equal(image_channels(scalar, shape), colours[:1])


def test_image_of_another_size_is_refused_in_index_order() -> None:
    image = sitk.Image([4, 5, 6], sitk.sitkVectorUInt8, 3)
    assert "4×5×6 against 7×5×6 voxels (i×j×k)" in refusal(image_channels, image, (6, 5, 7))
    assert "4×5×6 against 5×6" in refusal(image_channels, sitk.Image(4, 5, 6, sitk.sitkUInt8), (6, 5))
    assert "5×4 against" in refusal(image_channels, np.zeros((4, 5)), (5, 5))


# One grid for image and mask


@cases
@given(images())
def test_rounding_of_headers_is_no_difference(image: sitk.Image) -> None:
    mask = sitk.Image(image)
    mask.SetSpacing([s * (1 + 1e-5) for s in image.GetSpacing()])
    mask.SetOrigin(np.float32(image.GetOrigin()).astype(float))
    check_same_grid(image, mask)


@cases
@given(images(dims=(3,)), st.data())
def test_another_place_is_refused(image: sitk.Image, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, 2))
    mask = sitk.Image(image)
    what = data.draw(st.sampled_from(["spacing", "origin", "direction"]))
    if what == "spacing":
        mask.SetSpacing([s * (1.01 if a == axis else 1) for a, s in enumerate(image.GetSpacing())])
    elif what == "origin":
        mask.SetOrigin(image.TransformContinuousIndexToPhysicalPoint([0.01 * (a == axis) for a in range(3)]))
    else:
        flip = np.diag([-1.0 if a == axis else 1.0 for a in range(3)])
        mask.SetDirection((np.reshape(image.GetDirection(), (3, 3)) @ flip).ravel())
    message = refusal(check_same_grid, image, mask)
    assert f"differ in {what}" in message and "resample" in message


def test_pixel_size_of_pictures_is_not_compared() -> None:
    scan, mask = sitk.Image(4, 5, sitk.sitkUInt8), sitk.Image(4, 5, sitk.sitkUInt8)
    scan.SetSpacing((0.08, 0.08))
    check_same_grid(scan, mask)
    for image in (scan, mask):
        image.SetOrigin((1, 2))
    assert "spacing: 0.08 0.08 against 1 1 (x y z)" in refusal(check_same_grid, scan, mask)


def test_arrays_are_compared_by_size_alone() -> None:
    scan = sitk.Image(4, 5, 6, sitk.sitkInt16)
    scan.SetSpacing((0.5, 0.5, 2))
    check_same_grid(scan, np.zeros((6, 5, 4)))
    check_same_grid(np.zeros((2, 6, 5, 4)), scan)
    assert "size" in refusal(check_same_grid, scan, np.zeros((4, 5, 6)))
    assert "size" in refusal(check_same_grid, sitk.Image(4, 5, sitk.sitkUInt8), sitk.Image(4, 5, 1, sitk.sitkUInt8))


# Slices


@pytest.mark.parametrize(
    ("spacing", "shape", "axis"),
    [
        ((5, 0.7, 0.7), (20, 512, 512), 0),
        ((0.7, 5, 0.7), (512, 20, 512), 1),
        ((0.7, 0.7, 5), (512, 512, 20), 2),
        ((1, 1, 1), (30, 30, 30), 0),
        ((0.5, 1, 1.0001), (30, 30, 30), 1),
        ((1, 1.5, 1.5), (1, 512, 512), 0),
        ((1, 1, 1), (512, 1, 512), 1),
    ],
    ids=["axial", "coronal", "sagittal", "isotropic", "tie", "one slice", "one slice, isotropic"],
)
def test_slices_lie_across_the_largest_spacing(spacing: tuple[float, ...], shape: tuple[int, ...], axis: int) -> None:
    assert slice_axis(spacing, shape) == axis


def test_slice_axis_can_be_told() -> None:
    told = [slice_axis((5, 1, 1), (9, 9, 9), rule) for rule in ("k", "j", "i", 0, 1, 2)]
    assert told == [0, 1, 2, 0, 1, 2]
    for rule in ("z", 3, -1):
        assert "slice axis" in refusal(slice_axis, (5, 1, 1), (9, 9, 9), rule)
    assert "3-D" in refusal(slice_axis, (1, 1), (9, 9))


# Regions


@st.composite
def regions(draw: st.DrawFn) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
    """Ranges i, j(, k) and the shape of an image that holds them."""
    ranges = draw(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=2, max_size=3))
    bounds = [(start, start + length) for start, length in ranges]
    return bounds, tuple(stop + draw(st.integers(0, 3)) for _, stop in bounds)[::-1]


@cases
@given(regions())
def test_typed_region_is_the_one_simpleitk_cuts_out(region: tuple[list[tuple[int, int]], tuple[int, ...]]) -> None:
    bounds, shape = region
    roi = check_roi(parse_roi(",".join(f"{start}:{stop}" for start, stop in bounds)), shape)
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    cut = sitk.GetImageFromArray(array)[tuple(slice(*pair) for pair in bounds)]
    np.testing.assert_array_equal(array[roi], as_array(cut))


def test_open_ends_reach_to_the_border() -> None:
    roi = parse_roi(" 10: , :,3:9")
    assert roi == (slice(3, 9), slice(None), slice(10, None))
    assert check_roi(roi, (20, 30, 40)) == (slice(3, 9), slice(0, 30), slice(10, 40))


@pytest.mark.parametrize("text", ["", "1:2", "1:2,3", "1:2,-3:4", "1:2,a:b", "1:2:3,4:5", "1:2,3:4,5:6,7:8", "1.5:2,:"])
def test_regions_of_another_form_are_refused(text: str) -> None:
    assert "i0:i1" in refusal(parse_roi, text)


def test_regions_that_do_not_fit_are_refused() -> None:
    assert "along i is outside the image: ranges along i lie within 0:40" in refusal(
        check_roi, parse_roi("0:41,:,:"), (20, 30, 40)
    )
    assert "along k is outside" in refusal(check_roi, parse_roi(":,:,19:21"), (20, 30, 40))
    assert "empty" in refusal(check_roi, parse_roi("5:5,:,:"), (20, 30, 40))
    assert "3 axes and the image 2" in refusal(check_roi, parse_roi(":,:,:"), (20, 30))
    assert "outside" in refusal(check_roi, (slice(-5, 3), slice(None)), (20, 30))


# Boxes


@cases
@given(hnp.arrays(np.int8, hnp.array_shapes(max_dims=4, max_side=6), elements=st.sampled_from([0] * 9 + [-1, 3])))
def test_bounding_box_holds_every_voxel_and_no_more(mask: np.ndarray) -> None:
    used = np.argwhere(mask)
    box = bounding_box(mask)
    if not len(used):
        assert box is None
    else:
        assert box == tuple(slice(a, b + 1) for a, b in zip(used.min(0), used.max(0), strict=True))


def test_grown_box_stays_in_the_image() -> None:
    box = (slice(2, 4), slice(5, 9))
    assert grow_box(box, 3, (20, 10)) == (slice(0, 7), slice(2, 10))
    assert grow_box(box, (0, 1), (20, 10)) == (slice(2, 4), slice(4, 10))


# Resampling


@cases
@given(images(), st.tuples(*[spacings] * 3))
def test_resampling_is_that_of_simpleitk(image: sitk.Image, wanted: tuple[float, ...]) -> None:
    """An independent implementation of linear interpolation, on a grid placed by hand over the same extent."""
    array, spacing = as_array(image).astype(np.float32), Grid.of(image).spacing
    out, new = resample(array, spacing, wanted[: array.ndim])
    plain = sitk.GetImageFromArray(array)
    plain.SetSpacing(spacing[::-1])
    origin = [(b - a) / 2 for a, b in zip(spacing[::-1], new[::-1], strict=True)]
    size, direction = out.shape[::-1], np.eye(array.ndim).ravel()
    expected = sitk.Resample(
        plain, size, sitk.Transform(array.ndim, sitk.sitkIdentity), sitk.sitkLinear, origin, new[::-1], direction
    )
    np.testing.assert_allclose(out, as_array(expected), atol=1e-4)


@cases
@given(shapes, st.tuples(*[spacings] * 3), st.tuples(*[spacings] * 3))
def test_extent_is_kept_and_spacing_is_as_near_as_whole_voxels_allow(
    shape: tuple[int, ...], spacing: tuple[float, ...], wanted: tuple[float, ...]
) -> None:
    spacing, wanted = spacing[: len(shape)], wanted[: len(shape)]
    out, new = resample(np.zeros(shape), spacing, wanted)
    np.testing.assert_allclose(np.multiply(out.shape, new), np.multiply(shape, spacing))
    for n, got, want, extent in zip(out.shape, new, wanted, np.multiply(shape, spacing), strict=True):
        assert n == 1 or abs(n - extent / want) <= 0.5 + 1e-9
        assert got == pytest.approx(extent / n)


@cases
@given(images(), st.tuples(*[spacings] * 3))
def test_constants_stay_exactly_constant(image: sitk.Image, wanted: tuple[float, ...]) -> None:
    array = np.full(as_array(image).shape, 0.1, np.float32)
    out, _ = resample(array, Grid.of(image).spacing, wanted[: array.ndim])
    assert (out == np.float32(0.1)).all()


def test_same_spacing_changes_nothing() -> None:
    array = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    out, spacing = resample(array, (2, 0.5, 0.5), (2, 0.5, 0.5))
    assert spacing == (2, 0.5, 0.5)
    np.testing.assert_array_equal(out, array)


def test_nearest_neighbour_keeps_labels_and_type() -> None:
    labels = np.array([[1, 7], [0, 3]], np.int16)
    out, spacing = resample(labels, (1, 1), (0.5, 0.5), linear=False)
    assert (out.dtype, spacing) == (np.int16, (0.5, 0.5))
    np.testing.assert_array_equal(out, labels.repeat(2, 0).repeat(2, 1))


def test_given_shape_goes_back_to_the_grid() -> None:
    array = np.zeros((7, 11, 13), np.float32)
    low, spacing = resample(array, (2.5, 0.7, 0.7), (1.1, 1.1, 1.1))
    back, again = resample(low, spacing, shape=array.shape)
    assert back.shape == array.shape
    np.testing.assert_allclose(again, (2.5, 0.7, 0.7))


# Changes back to the original grid


@st.composite
def two_grids(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A mask on an original grid, and the same mask on a model's grid, finer or coarser by axis."""
    shape = draw(shapes)
    mask = draw(hnp.arrays(bool, shape))
    low_shape = draw(st.tuples(*[st.integers(1, 12)] * len(shape)))
    return mask, resample(mask, (1,) * mask.ndim, shape=low_shape)[0] >= 0.5


def reach(before: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Original voxels whose centre is within one model voxel, along every axis, of a changed one; brute force."""
    scale = np.divide(changed.shape, before.shape)
    at = (np.stack(np.indices(before.shape), -1) + 0.5) * scale - 0.5
    near = np.zeros(before.shape, bool)
    for voxel in np.argwhere(changed):
        near |= (abs(np.clip(at, 0, np.array(changed.shape) - 1) - voxel) < 1).all(-1)
    return near


@cases
@given(two_grids())
def test_unchanged_result_gives_the_mask_back_bit_for_bit(grids: tuple[np.ndarray, np.ndarray]) -> None:
    before, low = grids
    np.testing.assert_array_equal(transfer_change(before, low, low.copy()), before)


@cases
@given(two_grids(), st.data())
def test_only_voxels_near_a_change_move_and_in_its_direction(
    grids: tuple[np.ndarray, np.ndarray], data: st.DataObject
) -> None:
    before, low = grids
    low_after = low ^ data.draw(hnp.arrays(bool, low.shape, elements=st.sampled_from([False] * 6 + [True])))
    after = transfer_change(before, low, low_after)
    assert not (after & ~before & ~reach(before, low_after & ~low)).any()
    taken = before & ~after & ~reach(before, low & ~low_after)
    if taken.any():  # crumbs: whole pieces that a removal cut off, where the model sees nothing
        pieces, _ = ndimage.label(after | taken, np.ones((3,) * before.ndim))
        assert not (after & np.isin(pieces, pieces[taken])).any()
        assert (low & ~low_after).any()


@cases
@given(st.tuples(*[st.floats(0.5, 3)] * 3))
def test_added_block_comes_back_to_within_a_voxel(ratio: tuple[float, ...]) -> None:
    before = np.zeros((24, 30, 36), bool)
    block = (slice(6, 18), slice(8, 22), slice(9, 27))
    wanted = before.copy()
    wanted[block] = True
    low = [resample(mask, (1, 1, 1), ratio)[0] >= 0.5 for mask in (before, wanted)]
    after = transfer_change(before, *low)
    voxels = np.ceil(ratio).astype(int)  # a voxel of the coarser grid
    inner = tuple(slice(s.start + n, s.stop - n) for s, n in zip(block, voxels, strict=True))
    outer = tuple(slice(s.start - n, s.stop + n) for s, n in zip(block, voxels, strict=True))
    assert after[inner].all()
    after[outer] = False
    assert not after.any()


@cases
@given(st.tuples(*[st.floats(1, 2.5)] * 3), st.integers(0, 2**32 - 1))
def test_bridge_reaches_both_ends_and_removal_leaves_no_crumbs(ratio: tuple[float, ...], seed: int) -> None:
    """The model closes a gap in a tube and takes away an island: on the original grid too, one piece is left."""
    rng = np.random.default_rng(seed)
    where = np.stack(np.indices((28, 28, 40)), -1)
    axis = np.array([9, 9]) + rng.uniform(-2, 2, 2) + np.outer(np.linspace(-1, 1, 40), rng.uniform(-4, 4, 2))
    wanted = np.linalg.norm(where[..., :2] - axis, axis=-1) <= 3.2
    middle = rng.uniform(14, 26)
    gap = abs(where[..., 2] - middle) <= rng.uniform(2.5, 5)
    island = np.linalg.norm(where - np.array([21, 21, middle]) - rng.uniform(-1, 1, 3), axis=-1) <= rng.uniform(2, 4)
    before = wanted & ~gap | island
    low, low_wanted = (resample(mask, (1, 1, 1), ratio)[0] >= 0.5 for mask in (before, wanted))
    assume(ndimage.label(low, np.ones((3, 3, 3)))[1] == 3)
    after = transfer_change(before, low, low_wanted)
    assert ndimage.label(after, np.ones((3, 3, 3)))[1] == 1
    assert 2 * (after & wanted).sum() / (after.sum() + wanted.sum()) > 0.85


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_line_whose_voxels_touch_at_corners_stays_one_piece(dims: int, factor: int) -> None:
    low = np.zeros((8,) * dims, bool)
    line = low.copy()
    line[(np.arange(1, 7),) * dims] = True
    after = transfer_change(np.zeros((8 * factor,) * dims, bool), low, line)
    assert ndimage.label(after, np.ones((3,) * dims))[1] == 1


def test_change_between_much_larger_voxels_is_ignored() -> None:
    before = np.zeros((2, 2), bool)
    low = np.zeros((40, 40), bool)
    after = low.copy()
    after[0, 0] = True
    assert not transfer_change(before, low, after).any()
