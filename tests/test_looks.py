"""Growth is undone that looks like background, and bays that were left half filled are filled if they look like the
mask."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from drawings import Mask, masks, picture
from rnca.looks import fill_bays, without_background
from rnca.shape import is_compact
from rnca.tidy import Tidying, tidy

STRIP = "........\n########\n########\n########\n...+++..\n...+++..\n...+++..\n........\n........"


@pytest.mark.parametrize(
    ("mask", "background", "grown", "kept"),
    [
        (100, 0, 51, True),
        (100, 0, 49, False),
        (0, 100, 49, True),
        (0, 100, 51, False),
        (100, 0, 140, True),
        (100, 0, -40, False),
        (50, 50, 50, True),
    ],
)
def test_growth_that_looks_like_background_is_undone(mask: int, background: int, grown: int, kept: bool) -> None:
    before, after = picture(STRIP)
    image = np.where(before, mask, background)[None].astype(np.int16)
    image[0][after & ~before] = grown
    image[0, 4, 3] = 7 * mask - 6 * background  # noise: medians do not see it
    expected = after if kept else before
    assert (without_background(before, after, image, 9) == expected).all()
    assert (without_background(before, after, image, 10) == after).all(), "smaller"
    colours = np.concatenate([np.zeros_like(image), image])
    assert (tidy(before, after, Tidying(look_size=9), image=colours) == expected).all()
    stack, pictures = [np.stack([part, before], 1) for part in (before, after)], np.stack([image, image], 2)
    found = tidy(*stack, Tidying(look_size=9), axis=1, image=pictures)
    assert (found == np.stack([expected, before], 1)).all()


def test_growth_is_judged_piece_by_piece_and_what_is_removed_is_not() -> None:
    drawing = "........\n##++##..\n##++##..\n##--##..\n######++\n######++\n######..\n######.."
    before, after = (np.pad(mask, 3) for mask in picture(drawing))
    image = before[None].astype(np.float32)
    image[0, 4:6, 5:7] = 1
    expected = after.copy()
    expected[7:9, 9:11] = False
    assert (without_background(before, after, image, 2) == expected).all()


@pytest.mark.parametrize(("contrast", "kept"), [(9, True), (11, False)])
def test_growth_stays_where_mask_and_background_differ_by_no_more_than_noise(contrast: int, kept: bool) -> None:
    """A deviation of 33 within each, of which 0.3 are 10."""
    before, after = picture(STRIP)
    checks = np.indices(before.shape).sum(0) % 3 - 1
    image = np.where(before, contrast, 0) + 40.4 * checks
    image[after & ~before] = 0
    assert (without_background(before, after, image[None], 9) == (after if kept else before)).all()


def test_where_there_is_nothing_to_compare_with_growth_stays() -> None:
    before = np.ones((12, 12), bool)
    before[4:8, 4:8] = False
    dark = before[None].astype(np.float32)
    assert without_background(before, np.ones_like(before), dark, 1).all(), "a dark spot in an organ"
    assert without_background(~before, np.ones_like(before), 1 - dark, 1).all(), "all of the picture"
    drawing = ".............\n.............\n.............\n.....+++.....\n....#####....\n....#####....\n....#####...."
    before, after = picture(drawing + "\n....#####....")
    assert (without_background(before, after, before[None], 1) == before).all(), "twenty pixels within five"
    before[7, 4] = after[7, 4] = False
    assert (without_background(before, after, before[None], 1) == after).all(), "nineteen"


@given(masks, st.integers(1, 9), st.floats(0.02, 0.5), st.floats(0.1, 5))
def test_growth_into_background_is_what_the_definition_says_of_the_whole_array(
    pair: list[Mask], size: int, share: float, noisy: float
) -> None:
    before, noise = pair
    random = np.random.default_rng(0)
    after = np.where(random.random(before.shape) < share, noise, before)
    image = before + random.normal(0, noisy, before.shape)
    expected = after.copy()
    pieces, count = ndimage.label(after & ~before, np.ones((3,) * before.ndim))
    for piece in (pieces == number for number in range(1, count + 1)):
        far = ndimage.distance_transform_cdt(~piece, "taxicab")
        mask, background = before & (far <= 5), ~before & ~piece & (far <= 5)
        if piece.sum() < size or min(mask.sum(), background.sum()) < 20:
            continue
        bright, dark, grown = (np.median(image[part]) for part in (mask, background, piece))
        spread = (np.std(image[mask]) + np.std(image[background])) / 2
        if abs(grown - dark) < abs(grown - bright) and abs(bright - dark) > 0.3 * spread:
            expected[piece] = False
    # beyond both medians the nearer one is still the one on that side
    assert (without_background(before, after, image[None], size) == expected).all()


def pierced(shape: tuple[int, ...] = (30, 40), depth: int = 12, width: int = 8, filled: int = 6) -> tuple[Mask, ...]:
    """An object with a hole below its border, which growth filled up to some depth: before, after, and whole."""
    whole = np.zeros(shape, bool)
    whole[tuple(slice(5, n - 5) for n in shape)] = True
    before, after = whole.copy(), whole.copy()
    middle = tuple(slice(16, 16 + width) for _ in shape[1:])
    before[(slice(6, 6 + depth), *middle)] = False
    after[(slice(6, 6 + depth - filled), *middle)] = False
    return before, after, whole


def test_a_bay_open_to_the_outside_is_filled_up_to_its_mouth() -> None:
    before, after, whole = pierced()
    before[5, 16:24] = after[5, 16:24] = False
    found = fill_bays(before, after, 9.0 * whole[None], 20)
    assert (found <= whole).all() and found[7:].sum() == whole[7:].sum() and (whole & ~found).sum() < 9
    narrow = fill_bays(before, after, 9.0 * whole[None], 6)
    assert (narrow ^ after).sum() <= 10, "wider: a disk does not reach into its corners"


@pytest.mark.parametrize("shape", [(30, 40), (30, 34, 34)])
def test_a_hole_that_growth_left_half_filled_is_filled(shape: tuple[int, ...]) -> None:
    before, after, whole = pierced(shape)
    image = 100 * whole[None].astype(np.int16)
    assert (after != whole).any()
    assert (fill_bays(before, after, image, 10) == whole).all()
    assert (tidy(before, after, Tidying(bay_width=10), image=image) == whole).all()
    assert (fill_bays(after, after, image, 10) == after).all(), "nothing grew"
    assert (fill_bays(~before, np.zeros_like(before), image, 10) == 0).all(), "nothing is left"


def with_arms(mask: Mask) -> Mask:
    """An object and lines that go out from its middle: thin altogether."""
    out = np.pad(mask, ((0, 60), (0, 60)))
    out[mask.shape[0] // 2, 5:] = out[5:, mask.shape[1] // 2 + 6] = True
    return out


@pytest.mark.parametrize(("filled", "rest"), [(6, True), (5, False)])
def test_in_thin_masks_what_lacks_more_than_grew_is_another_place(filled: int, rest: bool) -> None:
    """Of nine rows above an arm six grew and three are missing, or four and five; in a compact mask it is all one."""
    before, after, whole = pierced(depth=9, filled=filled - (not rest))
    assert is_compact(after) and not is_compact(with_arms(after))
    assert (fill_bays(before, after, 9.0 * whole[None], 10) == whole).all()
    before, after, whole = (with_arms(mask) for mask in (before, after, whole))
    assert (fill_bays(before, after, 9.0 * whole[None], 10) == (whole if rest else after)).all()


@pytest.mark.parametrize(("missing", "filled"), [(23, True), (24, False)])
def test_a_quarter_of_a_compact_mask_is_a_room_of_its_own(missing: int, filled: bool) -> None:
    """Of 120 pixels, below four that grew."""
    whole = np.zeros((14, 16), bool)
    whole[2:12, 2:14] = True
    after = whole.copy()
    after[4:10, 4:8] = False
    after[9, 7] = missing == 23
    before = after.copy()
    before[3, 4:8] = False
    assert (whole & ~after).sum() == missing and is_compact(after)
    assert (fill_bays(before, after, 9.0 * whole[None], 10) == (whole if filled else after)).all()


@pytest.mark.parametrize(("grown", "broken"), [(56, True), (55, False)])
def test_a_bay_without_growth_is_filled_where_a_tenth_of_a_compact_mask_grew(grown: int, broken: bool) -> None:
    """Of 600 pixels, 40 in the bay; what grew is further down."""
    before, after, whole = pierced(depth=5, filled=0)
    before[20:22, 6:34] = False
    before[20, 6] = not broken
    assert (after & ~before).sum() == grown and after.sum() == 560 and is_compact(after)
    assert (fill_bays(before, after, 9.0 * whole[None], 10) == (whole if broken else after)).all()
    thin = [with_arms(mask) for mask in (before, after, whole)]
    assert (fill_bays(*thin[:2], 9.0 * thin[2][None], 10) == thin[1]).all(), "it grew between other branches"
    before[20:23, 6:34] = False  # broken in any case
    for row, filled in ((5, False), (9, True)):
        after[:20], before[:20] = whole[:20], whole[:20]
        before[row, 16:20] = after[row, 16:20] = False
        expected = whole if filled else after
        assert (fill_bays(before, after, 9.0 * whole[None], 10) == expected).all(), "a notch stays, a hole does not"


@pytest.mark.parametrize(
    ("mask", "background", "bay", "filled"),
    [
        (100, 0, 51, True),
        (100, 0, 49, False),
        (0, 100, 49, True),
        (0, 100, 51, False),
        (100, 0, 149, True),
        (100, 0, 151, False),
        (0, 100, -49, True),
        (0, 100, -51, False),
    ],
)
def test_a_bay_is_filled_if_it_looks_like_the_mask(mask: int, background: int, bay: int, filled: bool) -> None:
    before, after, whole = pierced()
    image = np.where(whole, mask, background)[None].astype(np.int16)
    image[0][whole & ~after] = bay
    image[0, 8, 18] = 7 * mask - 6 * background  # noise: medians do not see it
    expected = whole if filled else after
    assert (fill_bays(before, after, image, 10) == expected).all()
    stack, pictures = [np.stack([part, before], 1) for part in (before, after)], np.stack([image, image], 2)
    found = tidy(*stack, Tidying(bay_width=10), axis=1, image=pictures)
    assert (found == np.stack([expected, before], 1)).all()


@pytest.mark.parametrize(("noise", "filled"), [(20, True), (10, False)])
def test_a_bay_beyond_the_mask_is_filled_within_a_deviation(noise: int, filled: bool) -> None:
    """Three quarters further than the mask is from the background, 15 in a deviation of 16 or 8."""
    before, after, whole = pierced()
    image = np.where(whole, 100, 80) + noise * (np.indices(whole.shape).sum(0) % 3 - 1)
    image[whole & ~after] = 115
    assert (fill_bays(before, after, image[None], 10) == (whole if filled else after)).all()


@pytest.mark.parametrize(("away", "filled"), [(0.9, True), (1.1, False)])
def test_where_no_background_is_near_a_hole_is_filled_within_a_deviation_of_the_mask(away: float, filled: bool) -> None:
    whole = np.ones((41, 41), bool)
    before, after = whole.copy(), whole.copy()
    before[14:27, 14:27] = False
    after[14:27, 14:20] = False
    image = 10.0 * (np.indices(whole.shape).sum(0) % 3 - 1)[None]  # a median of 0, a deviation of 8.2
    image[0][~after] = 8.2 * away
    expected = whole if filled else after
    assert (fill_bays(before, after, image, 16) == expected).all()
    assert (fill_bays(before, after, np.concatenate([image, 0 * image]), 16) == expected).all(), "in each channel"


@pytest.mark.parametrize(("width", "filled"), [(19, True), (20, False)])
def test_a_bay_of_fewer_than_twenty_voxels_has_no_look(width: int, filled: bool) -> None:
    before, after, whole = pierced(depth=3, width=width, filled=2, shape=(30, 45))
    image = 100 * after[None]
    assert (whole & ~after).sum() == width
    assert (fill_bays(before, after, image, 40) == (whole if filled else after)).all()


@pytest.mark.parametrize(("dots", "filled"), [(5, True), (4, False)])
def test_a_bay_with_hardly_any_mask_near_it_is_left(dots: int, filled: bool) -> None:
    """Columns of three dots far apart, and a line that grew towards them: only five of its pixels are near."""
    before, after = np.zeros((20, 120), bool), np.zeros((20, 120), bool)
    before[8:15:3, 4 : 4 + 3 * dots : 3] = True
    after |= before
    after[11, 2 + 3 * dots :] = True
    found = fill_bays(before, after, np.zeros((1, *before.shape)), 9)
    assert ((found & ~after).sum() > 20) == filled


blobs = st.builds(
    lambda shape, seed, wide: [
        ndimage.gaussian_filter(np.random.default_rng(seed + n).normal(size=shape), wide) > 0 for n in (0, 1)
    ],
    st.sampled_from([(24, 26), (30, 12), (9, 10, 11)]),
    st.integers(0, 10_000),
    st.floats(0.5, 2.5),
)


@given(blobs, st.integers(1, 16), st.floats(0.02, 0.9), st.floats(0.1, 5))
def test_filled_bays_are_what_the_definition_says_of_the_whole_array(
    pair: list[Mask], width: int, share: float, noisy: float
) -> None:
    before, noise = pair
    random = np.random.default_rng(0)
    after = before | (noise & (ndimage.gaussian_filter(random.random(before.shape), 1) < share))
    image = (before | noise) + random.normal(0, noisy, before.shape)
    full, dims = np.ones((3,) * before.ndim), before.ndim
    wide = np.pad(after, width)
    if after.any():
        wide = ndimage.distance_transform_edt(~wide) <= width / 2
        wide = ndimage.distance_transform_edt(wide) > width / 2
    closed = ndimage.binary_fill_holes(wide[(slice(width, -width),) * dims])
    growths, many = ndimage.label(after & ~before, full)
    bays, count = ndimage.label(closed & ~after, full)
    expected = after.copy()
    for bay in (bays == number for number in range(1, count + 1)):
        edge = ndimage.binary_dilation(bay, full)
        grown = sum((growths == n).sum() for n in range(1, many + 1) if (edge & (growths == n)).any())
        far = ndimage.distance_transform_cdt(~bay, "taxicab")
        mask, background = after & (far <= 5), ~after & ~bay & (far <= 5)
        looks = bay.sum() < 20
        if not looks and mask.sum() >= 20:
            own, here = np.median(image[mask]), np.median(image[bay])
            looks = abs(here - own) <= np.std(image[mask])
            if background.sum() >= 20:
                other = np.median(image[background])
                spread = (np.std(image[mask]) + np.std(image[background])) / 2
                if abs(own - other) > 0.3 * spread:
                    beyond, near = (here - own) / (own - other), abs(here - own) <= np.std(image[mask])
                    looks = -0.5 <= beyond <= 0.5 or (beyond > 0 and near)
        room = 0.25 * after.sum() if is_compact(after) else 0
        near = grown or (after & ~before).sum() >= 0.1 * after.sum()
        hole = not (ndimage.binary_dilation(np.pad(bay, 1)) & ~np.pad(after | bay, 1)).any()
        near = grown or (near and (hole or bay.sum() >= 20))
        if (grown >= bay.sum() or (near and bay.sum() < room)) and looks:
            expected |= bay
    assert (fill_bays(before, after, image[None], width) == expected).all()
