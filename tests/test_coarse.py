"""Objects larger than a model knows are repaired on a coarser grid, and what that does not show is completed."""

import numpy as np
import pytest

from conftest import discs
from drawings import Mask
from rnca.coarse import LARGER, complete_details, object_spacing
from rnca.geometry import centres_between, resample
from rnca.topology import betti_numbers


def disc(radius: float, shape: tuple[int, ...] = (200, 220)) -> Mask:
    return discs(shape, (tuple(n / 2 for n in shape), radius))


def block(shape: tuple[int, ...], sides: tuple[int, ...]) -> Mask:
    out = np.zeros(shape, bool)
    out[tuple(slice(2, 2 + side) for side in sides)] = True
    return out


@pytest.mark.parametrize("dims", [2, 3])
def test_the_longest_side_of_a_large_object_has_as_many_voxels_as_the_model_knows(dims: int) -> None:
    mask = block((90, 70, 60)[:dims], (80, 40, 20)[:dims])
    assert object_spacing(mask, (0.5,) * dims, 20) == (2.0,) * dims
    assert object_spacing(mask, (0.5,) * dims, 80) == (0.5,) * dims
    assert object_spacing(mask, (0.5,) * dims, int(80 / LARGER) + 1) == (0.5,) * dims, "hardly larger"
    assert object_spacing(~mask & False, (0.5,) * dims, 20) == (0.5,) * dims


def test_voxels_get_larger_towards_cubes_and_slices_stay_apart_as_they_are() -> None:
    mask = block((12, 90, 90), (8, 80, 60))
    assert object_spacing(mask, (6.0, 1.0, 1.0), 20) == (6.0, 4.0, 4.0)
    assert object_spacing(mask, (3.0, 1.0, 1.0), 20) == (4.0, 4.0, 4.0)
    assert object_spacing(mask, (3.0, 1.0, 1.0), 20, slice_axis=0) == (3.0, 4.0, 4.0)
    tall = np.moveaxis(block((12, 90, 90), (8, 20, 80)), 2, 0)
    assert object_spacing(tall, (1.0, 1.0, 1.0), 20, slice_axis=0) == (1.0, 1.0, 1.0), "long across the slices alone"


def test_two_objects_far_apart_are_no_larger_than_one() -> None:
    mask = np.zeros((60, 300), bool)
    mask[10:50, 10:60] = mask[10:50, 240:290] = True
    assert object_spacing(mask, (1.0, 1.0), 40) == (1.25, 1.25)


def test_what_is_too_thin_for_larger_voxels_keeps_its_own() -> None:
    lines = np.zeros((200, 200), bool)
    lines[::20, :], lines[:, ::20] = True, True
    assert object_spacing(lines, (1.0, 1.0), 50) == (1.0, 1.0)
    wide = disc(95) & ~disc(70)
    assert object_spacing(wide, (1.0, 1.0), 95) != (1.0, 1.0)


def completed(mask: Mask, factor: float, slice_axis: int | None = None, keep_holes: bool = False) -> Mask:
    """What a model that changes nothing on its grid leaves."""
    sides = tuple(max(1, round(n / (1 if a == slice_axis else factor))) for a, n in enumerate(mask.shape))
    low = resample(mask, [1.0] * mask.ndim, shape=sides)[0] > 0.5
    everywhere, whole = (tuple(slice(0, n) for n in shape) for shape in (sides, mask.shape))
    centres = centres_between(everywhere, sides, whole, mask.shape)
    factors = [n / m for n, m in zip(mask.shape, sides, strict=True)]
    return complete_details(mask, low, centres, factors, slice_axis, keep_holes)


def test_slits_and_pinholes_are_closed_and_specks_go_where_the_models_grid_has_none() -> None:
    right = disc(80)
    broken = right.copy()
    broken[101] = broken[60, 110] = broken[130:132, 90] = False
    broken[5, 5] = broken[20, 201] = True
    assert betti_numbers(broken) == (4, 2)
    found = completed(broken, 3)
    assert betti_numbers(found) == (1, 0)
    assert np.count_nonzero(found != right) <= 2, "the ends of the slit"
    assert (completed(right, 3) == right).all()


def test_what_the_models_grid_shows_stays() -> None:
    mask = disc(80)
    mask[90:95, 90:112] = False  # narrow enough to be closed, and shown
    mask[5:15, 5:15] = True
    assert betti_numbers(mask) == (2, 1)
    assert (completed(mask, 3) == mask).all()


def test_a_narrow_bay_stays_open_and_an_outline_rough() -> None:
    mask = block((90, 100), (80, 90))
    mask[2:60, 40:42] = False
    mask[2, 2:90:2] = mask[4:80:3, 2] = False
    assert (completed(mask, 3) == mask).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_completed_alone_and_lose_no_piece(axis: int) -> None:
    right = disc(80)
    holed, more = right.copy(), right.copy()
    holed[60, 110] = False
    more[5, 5] = True
    stack = np.stack([holed, more], axis)
    expected = np.stack([right, more], axis)
    assert (completed(stack, 3, axis) == expected).all()


def test_holes_that_are_the_objects_own_stay() -> None:
    holed = disc(80)
    holed[60, 110] = False
    holed[5, 5] = True
    kept = holed.copy()
    kept[5, 5] = False
    assert (completed(holed, 3, keep_holes=True) == kept).all()
