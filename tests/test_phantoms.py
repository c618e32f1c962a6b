"""Phantoms: the topology they promise, and images that tell where the mask is without giving it away."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import euler_number

from rnca.errors import InputError
from rnca.phantoms import KINDS, SMALLEST, phantom

Mask = NDArray[np.bool_]
seeds = st.integers(0, 2**32)
shapes_2d = st.tuples(st.integers(SMALLEST, 90), st.integers(SMALLEST, 90))
shapes_3d = st.tuples(st.integers(SMALLEST, 36), st.integers(SMALLEST, 36), st.integers(SMALLEST, 36))
shapes = st.one_of(shapes_2d, shapes_3d)


def objects(mask: Mask) -> list[Mask]:
    """The 8- or 26-connected components, each alone in its box."""
    parts, _ = ndimage.label(mask, np.ones((3,) * mask.ndim))
    return [parts[box] == n for n, box in enumerate(ndimage.find_objects(parts), start=1)]


def betti(mask: Mask) -> tuple[int, ...]:
    padded = np.pad(mask, 1)
    b0, enclosed = len(objects(mask)), ndimage.label(~padded)[1] - 1
    return (b0, enclosed) if mask.ndim == 2 else (b0, b0 + enclosed - euler_number(padded, 3), enclosed)


def on_border(mask: Mask) -> bool:
    return mask.sum() != mask[(slice(1, -1),) * mask.ndim].sum()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), shapes, seeds)
def test_same_seed_gives_same_image_and_mask(kind, shape, seed):
    image, mask = phantom(kind, shape, seed)
    again = phantom(kind, shape, np.random.default_rng(seed))
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(mask, again[1])


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(KINDS), shapes, seeds)
def test_image_fills_0_to_1_and_mask_is_never_empty_nor_full(kind, shape, seed):
    image, mask = phantom(kind, shape, seed)
    assert image.shape == mask.shape == shape
    assert image.dtype == np.float32
    assert mask.dtype == bool
    assert image.min() == 0
    assert image.max() == 1
    assert 0 < mask.mean() < 0.7


@settings(max_examples=200, deadline=None)
@given(shapes_2d, seeds)
def test_rings_are_closed_apart_and_off_the_border(shape, seed):
    _, mask = phantom("rings", shape, seed)
    rings = objects(mask)
    assert 1 <= len(rings) <= 3
    assert all(betti(ring) == (1, 1) for ring in rings)
    assert not on_border(mask)
    narrow = mask & ~ndimage.binary_opening(mask, np.ones((2, 2)))
    assert np.count_nonzero(narrow) <= 5 + 0.02 * np.count_nonzero(mask)


@settings(max_examples=80, deadline=None)
@given(shapes_3d, seeds)
def test_rings_in_3d_have_one_loop_and_no_cavity(shape, seed):
    _, mask = phantom("rings", shape, seed)
    assert all(betti(ring) == (1, 1, 0) for ring in objects(mask))
    assert not on_border(mask)


@settings(max_examples=100, deadline=None)
@given(shapes_2d, seeds)
def test_thin_rings_are_closed_apart_off_the_border_and_3_to_4_pixels_wide(shape, seed):
    _, mask = phantom("thin-rings", shape, seed)
    assert all(betti(ring) == (1, 1) for ring in objects(mask))
    assert not on_border(mask)
    depth = ndimage.distance_transform_edt(mask)
    ridge = depth[mask & (depth >= ndimage.maximum_filter(depth, 3))]
    assert 1.4 <= np.median(ridge) <= 2.3


@settings(max_examples=40, deadline=None)
@given(shapes_3d, seeds)
def test_thin_rings_in_3d_are_one_ring_a_slice_and_one_tube_together(shape, seed):
    _, mask = phantom("thin-rings", shape, seed)
    assert betti(mask) == (1, 1, 0)
    assert all(betti(ring) == (1, 1) for ring in mask)


@settings(max_examples=200, deadline=None)
@given(shapes_2d, seeds)
def test_blobs_have_no_hole(shape, seed):
    _, mask = phantom("blobs", shape, seed)
    assert betti(mask) in ((1, 0), (2, 0))
    assert not on_border(mask)


@settings(max_examples=60, deadline=None)
@given(shapes_3d, seeds)
def test_blobs_in_3d_have_no_handle_and_no_cavity(shape, seed):
    _, mask = phantom("blobs", shape, seed)
    assert betti(mask) in ((1, 0, 0), (2, 0, 0))


@settings(max_examples=150, deadline=None)
@given(shapes, seeds)
def test_vessels_are_a_few_whole_trees_at_least_two_voxels_wide(shape, seed):
    _, mask = phantom("vessels", shape, seed)
    assert 1 <= len(objects(mask)) <= 3
    # A strand two voxels wide (2 x 2 in 3-D) has that many times three voxels in a cube of three about its middle.
    block = np.ones((3,) * mask.ndim)
    around = ndimage.convolve(mask.astype(int), block.astype(int), mode="nearest")
    wide = ndimage.binary_dilation(mask & (around >= 3 * 2 ** (mask.ndim - 1)), block)
    # But for a few voxels: the tips of branches, and what the array's edge cuts off.
    assert np.count_nonzero(mask & ~wide) <= 5 + 0.03 * np.count_nonzero(mask)


def test_vessels_branch_and_some_cross():
    crossings = [betti(phantom("vessels", (96, 96), seed)[1])[1] for seed in range(30)]
    assert np.mean(np.array(crossings) > 0) > 0.2
    tapering = []
    for seed in range(10):
        depth = ndimage.distance_transform_edt(phantom("vessels", (96, 96), seed)[1])
        ridge = depth[(depth > 0) & (depth == ndimage.maximum_filter(depth, 3))]
        tapering.append(ridge.max() / np.quantile(ridge, 0.25))
    assert np.median(tapering) >= 1.5


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_vary_size_and_contrast(kind):
    share, brighter = [], []
    for seed in range(60):
        image, mask = phantom(kind, (64, 64), seed)
        near = ndimage.binary_dilation(mask, iterations=3) & ~mask
        share.append(mask.mean())
        brighter.append(image[mask].mean() > image[near].mean())
    assert max(share) > 3 * min(share)
    assert np.mean(brighter) > 0.8 if kind == "thin-rings" else 0.2 < np.mean(brighter) < 0.8


@pytest.mark.parametrize(
    ("kind", "shape", "count"), [(k, s, n) for k in KINDS for s, n in (((64, 64), 60), ((40,) * 3, 12))]
)
def test_the_image_shows_the_outline_of_the_mask(kind, shape, count):
    """The lightly smoothed image is steeper on the outline than elsewhere."""
    ratio = []
    for seed in range(count):
        image, mask = phantom(kind, shape, seed)
        steepness = ndimage.gaussian_gradient_magnitude(image, 1.0)
        outline = ndimage.binary_dilation(mask) ^ ndimage.binary_erosion(mask)
        ratio.append(steepness[outline].mean() / steepness[~outline].mean())
    assert np.mean(np.array(ratio) > 1.2) >= 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_no_threshold_of_the_image_gives_the_mask_in_most_seeds(kind):
    best = []
    for seed in range(30):
        image, mask = phantom(kind, (64, 64), seed)
        cuts = [side for t in np.linspace(0, 1, 41) for side in (image > t, image < t)]
        best.append(max(2 * np.count_nonzero(cut & mask) / (cut.sum() + mask.sum()) for cut in cuts))
    assert np.median(best) < 0.9


def test_unknown_kind_is_told_the_known_ones():
    with pytest.raises(InputError, match=r"'bones'.*rings, blobs, vessels"):
        phantom("bones", (64, 64))


@pytest.mark.parametrize("shape", [(64,), (64, 15), (32, 32, 1), (32,) * 4, ()])
def test_a_shape_that_does_not_fit_is_refused(shape):
    with pytest.raises(InputError, match="shape"):
        phantom("rings", shape)


def test_a_negative_seed_is_refused():
    with pytest.raises(InputError, match="seed is -2"):
        phantom("rings", (32, 32), -2)
