"""Damage: what each kind does, and what none of them may do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import euler_number

from rnca.defects import KINDS, damage, generator, smooth_noise, soften
from rnca.errors import InputError

Mask = NDArray[np.bool_]
REMOVE = ("gaps", "holes", "chunks", "wedges", "thin", "open")
ADD = ("thick", "islands", "bridges")


def components(mask: Mask) -> int:
    return ndimage.label(mask, np.ones((3,) * mask.ndim))[1]


def loops(mask: Mask) -> int:
    """b1 of a mask; in 3-D from the Euler number, b0 - b1 + b2."""
    padded = np.pad(mask, 1)
    enclosed = ndimage.label(~padded)[1] - 1
    return enclosed if mask.ndim == 2 else components(mask) + enclosed - euler_number(padded, 3)


def disc(size: int = 64, radius: float = 20) -> Mask:
    y, x = np.ogrid[:size, :size]
    return np.hypot(y - size / 2, x - size / 2) <= radius


def ring() -> Mask:
    """3 voxels thick on the left, 9 on the right."""
    y, x = np.ogrid[:64, :64]
    off, angle = np.hypot(y - 32, x - 32) - 18, np.arctan2(y - 32, x - 32)
    return np.abs(off) <= 3 + 1.6 * np.cos(angle)


def two_strands() -> Mask:
    out = np.zeros((48, 64), bool)
    out[18:21, 4:60] = out[26:29, 4:60] = True
    return out


def tube() -> Mask:
    y, x = np.ogrid[:32, :32]
    wall = np.abs(np.hypot(y - 15.5, x - 15.5) - 10) <= 2
    return np.pad(np.repeat(wall[None], 20, 0), ((4, 4), (0, 0), (0, 0)))


def torus(tilt: float = 0.6) -> Mask:
    z, y, x = np.ogrid[-20:20, -20:20, -20:20]
    up, along = z * np.cos(tilt) - y * np.sin(tilt), z * np.sin(tilt) + y * np.cos(tilt)
    return np.hypot(np.hypot(along, x) - 12, up) <= 3.5


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    """Smooth or speckled, 2-D or 3-D, down to one voxel a side, at the border, empty and full."""
    shape = draw(st.lists(st.integers(1, 14), min_size=2, max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    return smooth_noise(shape, draw(st.sampled_from([1.0, 3.0, 6.0])), rng) > draw(st.floats(-3, 3))


kinds = st.sampled_from(KINDS)
severities = st.floats(0, 1)
seeds = st.integers(0, 2**32)


# --- what holds for every kind --------------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None)
@given(masks(), kinds, severities, seeds)
def test_any_mask_gives_a_mask_of_the_same_shape_and_is_left_untouched(mask, kind, severity, seed):
    before = mask.copy()
    out = damage(mask, kind, severity, seed)
    assert out.shape == mask.shape
    assert out.dtype == bool
    assert not np.shares_memory(out, mask)
    np.testing.assert_array_equal(mask, before)


@settings(max_examples=200, deadline=None)
@given(masks(), kinds, severities, seeds)
def test_a_mask_is_emptied_never_and_an_empty_one_stays_empty(mask, kind, severity, seed):
    assert damage(mask, kind, severity, seed).any() == mask.any()


@settings(max_examples=200, deadline=None)
@given(masks(), kinds, severities, seeds)
def test_same_seed_gives_same_result(mask, kind, severity, seed):
    np.testing.assert_array_equal(damage(mask, kind, severity, seed), damage(mask, kind, severity, seed))
    np.testing.assert_array_equal(
        damage(mask, kind, severity, seed), damage(mask, kind, severity, np.random.default_rng(seed))
    )


@settings(max_examples=200, deadline=None)
@given(masks(), st.sampled_from(REMOVE), severities, seeds)
def test_removing_kinds_only_remove(mask, kind, severity, seed):
    assert not (damage(mask, kind, severity, seed) & ~mask).any()


@settings(max_examples=200, deadline=None)
@given(masks(), st.sampled_from(ADD), severities, seeds)
def test_adding_kinds_only_add(mask, kind, severity, seed):
    assert not (mask & ~damage(mask, kind, severity, seed)).any()


@settings(deadline=None)
@given(masks(), severities, seeds)
def test_none_changes_nothing(mask, severity, seed):
    np.testing.assert_array_equal(damage(mask, "none", severity, seed), mask)


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("none", "mixed")])
@pytest.mark.parametrize("shape", ["ring", "tube"])
def test_damage_grows_with_severity(kind, shape):
    mask, count = (ring(), 40) if shape == "ring" else (tube(), 12)
    mild, middle, severe = (
        np.mean([np.count_nonzero(damage(mask, kind, severity, seed) ^ mask) for seed in range(count)])
        for severity in (0, 0.5, 1)
    )
    assert mild < middle < severe


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("none", "mixed", "open")])
def test_the_mildest_form_is_still_damage(kind):
    assert all((damage(ring(), kind, 0, seed) != ring()).any() for seed in range(30))


@pytest.mark.parametrize("kind", KINDS)
def test_different_seeds_differ(kind):
    results = {damage(ring(), kind, 0.5, seed).tobytes() for seed in range(10)}
    assert len(results) == 1 if kind == "none" else len(results) > 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_of_one_slice_is_damaged_as_the_image_it_is(kind):
    for axis in range(3):
        volume = np.expand_dims(ring(), axis)
        expected = np.expand_dims(damage(ring(), kind, 0.5, 3), axis)
        np.testing.assert_array_equal(damage(volume, kind, 0.5, 3), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_empty_space_about_an_object_does_not_matter(kind):
    near, far = np.pad(ring(), 10), np.pad(ring(), ((40, 10), (17, 90)))
    expected = np.pad(damage(near, kind, 0.5, 5), ((30, 0), (7, 80)))
    np.testing.assert_array_equal(damage(far, kind, 0.5, 5), expected)


def test_a_generator_is_drawn_from():
    rng = np.random.default_rng(0)
    assert (damage(ring(), "gaps", 0.5, rng) != damage(ring(), "gaps", 0.5, rng)).any()


def test_any_value_but_zero_is_foreground():
    labels = np.where(ring(), -3.5, 0)
    np.testing.assert_array_equal(damage(labels, "gaps", 0.5, 1), damage(ring(), "gaps", 0.5, 1))


def test_unknown_kind_is_told_the_known_ones():
    with pytest.raises(InputError, match=r"'cracks'.*" + ", ".join(KINDS)):
        damage(ring(), "cracks")


@pytest.mark.parametrize("severity", [-0.01, 1.01, float("nan")])
def test_severity_outside_its_range_is_refused(severity):
    with pytest.raises(InputError, match="severity"):
        damage(ring(), "gaps", severity)


@pytest.mark.parametrize("shape", [(), (5,), (2, 2, 2, 2)])
def test_other_than_two_or_three_dimensions_are_refused(shape):
    with pytest.raises(InputError, match=f"{len(shape)} dimensions"):
        damage(np.ones(shape, bool), "gaps")
    with pytest.raises(InputError, match=f"{len(shape)} dimensions"):
        soften(np.ones(shape, bool))


def test_a_negative_seed_is_refused():
    for use in (lambda: damage(ring(), "gaps", 0.5, -1), lambda: soften(ring(), -1), lambda: generator(-1)):
        with pytest.raises(InputError, match="seed is -1"):
            use()


# --- what each kind is for ------------------------------------------------------------------------------------------


def test_gaps_open_rings_of_uneven_thickness():
    assert all(loops(damage(ring(), "gaps", severity, seed)) == 0 for severity in (0, 0.5, 1) for seed in range(20))


def test_gaps_sever_a_strand():
    strand = two_strands()
    strand[24:] = False
    severed = [components(damage(strand, "gaps", 0.5, seed)) > 1 for seed in range(60)]
    assert np.mean(severed) > 0.8  # the others fall on an end and shorten it


def test_a_gap_spares_the_strand_beside_it():
    close = np.zeros((48, 64), bool)
    close[18:21, 4:60] = close[22:25, 4:60] = True
    for seed in range(40):
        changed = damage(close, "gaps", 0, seed) != close
        assert changed[:21].any() != changed[21:].any()


def test_gaps_vary_in_length():
    strand = two_strands()
    strand[24:] = False
    lengths = {np.count_nonzero(~damage(strand, "gaps", 0.5, seed)[19, 4:60]) for seed in range(40)}
    assert len(lengths) > 10


def test_gaps_sever_vessels_in_3d():
    z, y, x = np.ogrid[:24, :24, :48]
    vessel = np.broadcast_to(np.hypot(z - 12, y - 12) <= 2, (24, 24, 48)) & (x >= 2) & (x < 46)
    assert np.mean([components(damage(vessel, "gaps", 0.5, seed)) > 1 for seed in range(30)]) > 0.8


def test_gaps_bite_a_compact_object_and_leave_most_of_it():
    assert min(damage(disc(), "gaps", 0.5, seed).sum() for seed in range(30)) > 0.5 * disc().sum()


@settings(max_examples=150, deadline=None)
@given(masks(), severities, seeds)
def test_holes_stay_inside(mask, severity, seed):
    image = mask.squeeze(mask.shape.index(1)) if mask.ndim == 3 and 1 in mask.shape else mask
    inner = ndimage.binary_erosion(image).reshape(mask.shape)
    assert not (mask & ~damage(mask, "holes", severity, seed) & ~inner).any()


def test_holes_are_cavities():
    assert all(loops(damage(disc(), "holes", 0.5, seed)) > 0 for seed in range(20))
    ball = np.linalg.norm(np.mgrid[-12:12, -12:12, -12:12], axis=0) <= 10
    for seed in range(10):
        assert ndimage.label(~np.pad(damage(ball, "holes", 0.5, seed), 1))[1] > 1


def test_chunks_are_boxes_and_balls():
    full = np.ones((64, 64), bool)
    filled = []
    for seed in range(40):
        lost = ~damage(full, "chunks", 0, seed)
        y, x = (np.flatnonzero(lost.any(axis)) for axis in (1, 0))
        filled.append(lost.sum() / (len(y) * len(x)))
    assert 0.2 < np.mean(np.array(filled) == 1) < 0.9


def test_wedges_open_a_ring():
    for severity in (0, 0.5, 1):
        assert np.mean([loops(damage(ring(), "wedges", severity, seed)) == 0 for seed in range(60)]) >= 0.95


def test_wedges_open_every_ring_of_several():
    rings = np.block([[ring(), ring()], [ring(), ring()]])
    assert all(loops(damage(rings, "wedges", 0.5, seed)) == 0 for seed in range(10))


def test_wedges_open_a_ring_with_a_hole_of_one_voxel():
    small = np.zeros((9, 9), bool)
    small[2:7, 2:7] = True
    small[4, 4] = False
    assert all(loops(damage(small, "wedges", 0, seed)) == 0 for seed in range(40))


@pytest.mark.parametrize("whole", [tube(), torus(), torus(1.2)], ids=["tube", "torus", "tilted torus"])
def test_wedges_open_tubes_and_tori(whole):
    assert loops(whole) == 1
    assert np.mean([loops(damage(whole, "wedges", 0.5, seed)) == 0 for seed in range(30)]) >= 0.95


def test_wedges_leave_the_other_side():
    for seed in range(30):
        lost = disc() & ~damage(disc(), "wedges", 1, seed)
        y, x = np.argwhere(lost).mean(0) - 32
        assert lost.sum() < 0.4 * disc().sum()
        assert np.hypot(y, x) > 6  # off the centre: to one side


@settings(max_examples=150, deadline=None)
@given(masks(), severities, seeds)
def test_thin_and_thick_move_the_surface_by_three_voxels_at_most(mask, severity, seed):
    grown = damage(mask, "thick", severity, seed)
    near = ndimage.distance_transform_edt(~mask) <= 3 if mask.any() else mask
    assert not (grown & ~near).any()
    if not mask.all() and mask.ndim == 2:
        deep = ndimage.distance_transform_edt(mask) > 3
        assert not (deep & ~damage(mask, "thin", severity, seed)).any()


@pytest.mark.parametrize("kind", ["thin", "thick"])
def test_thickness_changes_everywhere_or_in_parts(kind):
    """Looked at on both ends of a bar: some seeds change one end only."""
    bar = np.zeros((40, 64), bool)
    bar[14:26, 4:60] = True
    left, right = np.array(
        [
            [change[:, 8:16].any(), change[:, 48:56].any()]
            for seed in range(60)
            for change in [damage(bar, kind, 0.5, seed) ^ bar]
        ]
    ).T
    assert (left & right).mean() > 0.2
    assert (left ^ right).mean() > 0.2


def test_a_full_mask_has_no_surface_to_thin_or_open():
    full = np.ones((20, 20), bool)
    for kind in ("thin", "open", "thick", "islands", "bridges"):
        np.testing.assert_array_equal(damage(full, kind, 1, 0), full)


def test_a_strand_is_not_thinned_where_it_leaves_the_image():
    strand = np.zeros((32, 32), bool)
    strand[10:22] = True
    for seed in range(20):
        assert damage(strand, "thin", 1, seed)[16].all()


def test_opening_breaks_a_ring_where_it_is_thin():
    broken = [damage(ring(), "open", 0.5, seed) for seed in range(40)]
    assert np.mean([loops(b) == 0 for b in broken]) > 0.5
    thick_side = ring().copy()
    thick_side[:, :44] = False
    core = ndimage.binary_erosion(thick_side, iterations=2)
    assert all(b[core].all() for b in broken)


@settings(max_examples=150, deadline=None)
@given(masks(), severities, seeds)
def test_islands_never_touch_the_object(mask, severity, seed):
    islands = damage(mask, "islands", severity, seed) & ~mask
    assert not (islands & ndimage.binary_dilation(mask, np.ones((3,) * mask.ndim))).any()


@pytest.mark.parametrize("mask", [ring(), tube()], ids=["2-D", "3-D"])
def test_islands_add_components_near_the_object(mask):
    distance = ndimage.distance_transform_edt(~mask)
    for seed in range(20):
        out = damage(mask, "islands", 0.5, seed)
        assert components(out) > components(mask)
        assert distance[out].max() < 14


def test_bridges_link_strands_that_are_close():
    assert all(components(damage(two_strands(), "bridges", 0.5, seed)) == 1 for seed in range(30))


def test_bridges_split_the_hole_of_a_ring():
    split = [loops(damage(ring(), "bridges", 1, seed)) > 1 for seed in range(40)]
    assert np.mean(split) > 0.5


def test_bridges_link_vessels_in_3d():
    vessels = np.zeros((20, 20, 40), bool)
    vessels[8:12, 3:7] = vessels[8:12, 12:16] = True
    assert np.mean([components(damage(vessels, "bridges", 0.5, seed)) == 1 for seed in range(20)]) > 0.9


def test_a_convex_object_has_nothing_to_bridge():
    box = np.pad(np.ones((20, 20), bool), 10)
    np.testing.assert_array_equal(damage(box, "bridges", 1, 0), box)


def test_mixed_adds_removes_both_or_sometimes_neither():
    outs = [damage(ring(), "mixed", 0.5, seed) for seed in range(200)]
    added = np.array([(out & ~ring()).any() for out in outs])
    removed = np.array([(ring() & ~out).any() for out in outs])
    assert 0.03 < (~added & ~removed).mean() < 0.25
    for share in ((added & removed).mean(), (added & ~removed).mean(), (removed & ~added).mean()):
        assert share > 0.08


# --- soft starts ----------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(masks(), seeds)
def test_soft_starts_are_probabilities_and_repeatable(mask, seed):
    before = mask.copy()
    soft = soften(mask, seed)
    assert soft.shape == mask.shape
    assert soft.dtype == np.float32
    assert soft.min() >= 0
    assert soft.max() <= 1
    assert soft.any() == mask.any()
    np.testing.assert_array_equal(soft, soften(mask, seed))
    np.testing.assert_array_equal(mask, before)


@pytest.mark.parametrize("mask", [disc(), torus()], ids=["2-D", "3-D"])
def test_soft_starts_are_certain_far_from_the_border_and_not_at_it(mask):
    outside, inside = ndimage.distance_transform_edt(~mask), ndimage.distance_transform_edt(mask)
    for seed in range(10):
        soft = soften(mask, seed, sigma=(0.5, 0.75))
        assert (soft[outside > 4] == 0).all()
        assert (soft[inside > 3] > 0.99).all()
        border = soft[(inside == 1) | (outside == 1)]
        assert ((border > 0.05) & (border < 0.95)).mean() > 0.9


def test_soft_starts_keep_the_outline_at_one_half():
    for seed in range(20):
        assert np.count_nonzero((soften(disc(), seed) > 0.5) ^ disc()) < 0.1 * disc().sum()


def test_soft_starts_vary_in_width_and_noise():
    undecided = [((s := soften(disc(), seed)) > 0).sum() - (s == 1).sum() for seed in range(10)]
    assert max(undecided) > 1.5 * min(undecided)
    same_width = [soften(disc(), seed, sigma=(1, 1)) for seed in range(2)]
    assert 0.005 < np.abs(same_width[0] - same_width[1]).max() < 0.6


def test_a_mask_is_not_dimmed_where_it_leaves_the_image():
    assert (soften(np.ones((9, 12), bool), 0) > 0.99).all()


def test_no_blur_is_no_change():
    np.testing.assert_array_equal(soften(ring(), 0, sigma=(0, 0)), ring())


@pytest.mark.parametrize("sigma", [(2, 1), (-1, 1), (float("nan"), 1)])
def test_an_impossible_range_of_blur_is_refused(sigma):
    with pytest.raises(InputError, match="sigma"):
        soften(ring(), 0, sigma)


# --- noise ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [1, 2.5, 7, 40])
def test_noise_has_unit_variance_at_every_voxel_and_is_smooth(cell):
    rng = np.random.default_rng(0)
    draws = np.stack([smooth_noise((24, 11), cell, rng) for _ in range(2000)])
    assert np.abs(draws.mean(0)).max() < 0.12
    np.testing.assert_allclose(draws.var(0), 1, atol=0.2)
    roughness = (np.diff(draws, axis=1) ** 2).mean()
    assert roughness < 2.0 / cell**2


def test_noise_can_be_one_voxel_wide():
    assert smooth_noise((1, 9, 1), 4, np.random.default_rng(0)).shape == (1, 9, 1)
