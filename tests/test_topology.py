"""Topology: golden values, two independent oracles (gudhi, scikit-image), invariances, and where defects are found."""

import json
import subprocess
import sys
from collections import Counter
from math import prod

import gudhi
import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import euler_number

from rnca.errors import InputError
from rnca.topology import (
    _two_edge_connected,
    as_foreground,
    betti_numbers,
    bounding_box,
    changes,
    find_defects,
    summary,
)


@st.composite
def masks(draw, dims=(2, 3)):
    """Random noise from almost empty to almost full, axes from 1 to 12 (2-D) or 7 (3-D) voxels."""
    ndim = draw(st.sampled_from(dims))
    shape = draw(st.tuples(*[st.integers(1, 12 if ndim == 2 else 7)] * ndim))
    noise = np.frombuffer(draw(st.binary(min_size=prod(shape), max_size=prod(shape))), np.uint8)
    return noise.reshape(shape) < draw(st.sampled_from([16, 64, 128, 192, 240]))


def annulus(shape=(15, 15), inner=3, outer=6):
    radius = np.hypot(*(np.indices(shape) - np.reshape(shape, (-1, 1, 1)) // 2))
    return (radius >= inner) & (radius <= outer)


def torus(centre=(8, 15, 15), shape=(17, 31, 31), ring=9, tube=4, wall=None):
    """A torus that lies in the last two axes; with `wall`, a hollow one."""
    z, y, x = np.indices(shape) - np.reshape(centre, (3, 1, 1, 1))
    from_tube_axis = np.hypot(np.hypot(y, x) - ring, z)
    return (from_tube_axis <= tube) & (from_tube_axis > (-1 if wall is None else tube - wall))


def ball(radius=6, hole=0):
    r = np.linalg.norm(np.indices((15, 15, 15)) - 7, axis=0)
    return (r <= radius) & (r >= hole)


def gap(mask):
    broken = mask.copy()
    broken[7, 7:] = False
    return broken


def tube():
    return np.repeat(annulus()[None], 9, axis=0)


DIAMOND = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
GOLDEN = {
    "ring": (annulus(), (1, 1)),
    "ring with a one-pixel gap": (gap(annulus()), (1, 0)),
    "two diagonal pixels": (np.eye(2), (1, 0)),
    "diagonal diamond": (DIAMOND, (1, 1)),
    "empty": (np.zeros((5, 5)), (0, 0)),
    "full": (np.ones((5, 5)), (1, 0)),
    "one pixel": (np.ones((1, 1)), (1, 0)),
    "hollow sphere": (ball(hole=4), (1, 0, 1)),
    "solid torus": (torus(), (1, 1, 0)),
    "hollow torus": (torus(wall=2), (1, 2, 1)),
    "open tube": (tube(), (1, 1, 0)),
    "empty volume": (np.zeros((4, 5, 6)), (0, 0, 0)),
    "full volume": (np.ones((4, 5, 6)), (1, 0, 0)),
    "one voxel": (np.ones((1, 1, 1)), (1, 0, 0)),
    "no voxels at all": (np.zeros((0, 4)), (0, 0)),
}


@pytest.mark.parametrize(("mask", "expected"), GOLDEN.values(), ids=GOLDEN)
def test_betti_numbers_of_known_shapes(mask, expected):
    assert betti_numbers(mask) == expected


def test_cavities_that_touch_along_an_edge_are_two():
    solid = np.ones((4, 4, 3))
    solid[1, 1, 1] = solid[2, 2, 1] = 0
    assert betti_numbers(solid) == (1, 0, 2)


def test_pieces_that_touch_at_a_corner_are_one():
    cubes = np.zeros((2, 2, 2))
    cubes[0, 0, 0] = cubes[1, 1, 1] = 1
    assert betti_numbers(cubes) == (1, 0, 0)


@settings(deadline=None, max_examples=200)
@given(masks())
def test_betti_numbers_equal_the_homology_of_the_union_of_closed_voxels(mask):
    # Foreground voxels as top-dimensional cells bring their faces, edges and vertices: what touches at a corner is
    # connected, as it is in an 8- or 26-connected foreground. (As vertices they would be 4- or 6-connected.)
    complex_ = gudhi.CubicalComplex(top_dimensional_cells=np.where(mask, 0.0, 1.0))
    complex_.compute_persistence()
    assert betti_numbers(mask) == tuple(complex_.persistent_betti_numbers(0.0, 0.5)[: mask.ndim])


@settings(deadline=None, max_examples=100)
@given(masks())
def test_alternating_sum_is_the_euler_number(mask):
    signs = [1, -1, 1][: mask.ndim]
    assert np.dot(signs, betti_numbers(mask)) == euler_number(mask, connectivity=mask.ndim)


@settings(deadline=None, max_examples=50)
@given(masks(), st.randoms())
def test_betti_numbers_ignore_orientation_and_empty_margin(mask, random):
    turned = np.flip(mask, random.sample(range(mask.ndim), random.randint(0, mask.ndim)))
    turned = np.transpose(turned, random.sample(range(mask.ndim), mask.ndim))
    turned = np.pad(turned, [(random.randint(0, 3), random.randint(0, 3)) for _ in range(mask.ndim)])
    assert betti_numbers(turned) == betti_numbers(mask)


@settings(deadline=None, max_examples=50)
@given(masks(dims=(2,)), st.integers(0, 2))
def test_volume_of_one_slice_has_the_numbers_of_the_slice(image, axis):
    assert betti_numbers(np.expand_dims(image, axis)) == (*betti_numbers(image), 0)


@pytest.mark.parametrize("value", [True, np.uint8(255), np.int16(-3), np.float32(0.2)])
def test_any_non_zero_value_is_foreground(value):
    assert betti_numbers(np.where(annulus(), value, np.zeros_like(value))) == (1, 1)


@pytest.mark.parametrize("shape", [(), (4,), (2, 2, 2, 2)])
@pytest.mark.parametrize("function", [betti_numbers, find_defects, summary])
def test_masks_without_two_or_three_axes_are_refused(function, shape):
    with pytest.raises(InputError, match="two or three axes"):
        function(np.ones(shape))


@settings(deadline=None, max_examples=300)
@given(masks())
def test_defects_are_as_many_as_the_betti_numbers_say(mask):
    found = Counter()
    for defect in find_defects(mask):
        found[defect.kind] += defect.count
    pieces, *others = betti_numbers(mask)
    names = ("component", "hole") if mask.ndim == 2 else ("component", "tunnel", "cavity")
    assert found == +Counter(dict(zip(names, (pieces - 1, *others), strict=True)))


@settings(deadline=None, max_examples=100)
@given(masks())
def test_size_box_and_centroid_are_those_of_the_voxels(mask):
    def regions(labels):
        for label in np.unique(labels[labels > 0]):
            voxels = np.argwhere(labels == label)
            box = tuple((low, high + 1) for low, high in zip(voxels.min(0), voxels.max(0), strict=True))
            yield len(voxels), box, tuple(np.round(voxels.mean(0), 6))

    def found(*kinds):
        return Counter((d.size, d.bbox, tuple(np.round(d.centroid, 6))) for d in find_defects(mask) if d.kind in kinds)

    pieces = Counter(regions(scipy.ndimage.label(mask, np.ones((3,) * mask.ndim))[0]))
    kept = pieces - found("component")
    assert not found("component") - pieces
    assert kept.total() == min(pieces.total(), 1)
    assert all(size == max(pieces)[0] for size, *_ in kept)

    background = scipy.ndimage.label(np.pad(~mask, 1, constant_values=True))[0][(slice(1, -1),) * mask.ndim]
    background[background == 1] = 0  # the margin comes first in array order
    assert found("hole", "cavity") == Counter(regions(background))


def test_component_is_located_in_the_coordinates_of_the_whole_image():
    mask = np.zeros((30, 40))
    mask[5:15, 5:15] = 1
    mask[20:22, 30:33] = 1
    (island,) = find_defects(mask)
    assert (island.kind, island.size, island.count) == ("component", 6, 1)
    assert island.centroid == (20.5, 31.0)
    assert island.bbox == ((20, 22), (30, 33))


def test_hole_and_cavity_are_located_at_their_own_voxels():
    image = np.ones((9, 9))
    image[3, 2:5] = 0
    (hole,) = find_defects(image)
    assert (hole.kind, hole.size, hole.centroid, hole.bbox) == ("hole", 3, (3.0, 3.0), ((3, 4), (2, 5)))
    (cavity,) = find_defects(np.stack([np.ones((9, 9)), image, np.ones((9, 9))]))
    assert (cavity.kind, cavity.size, cavity.centroid) == ("cavity", 3, (1.0, 3.0, 3.0))


def test_opening_at_the_border_of_the_image_is_neither_hole_nor_cavity():
    image = np.ones((5, 5))
    image[0, 2] = 0
    assert find_defects(image) == []
    assert find_defects(np.stack([np.ones((5, 5)), image])) == []


def test_defects_come_by_kind_and_largest_first():
    mask = np.zeros((12, 30))
    mask[:, :12] = 1
    mask[2, 2] = mask[5:8, 5:8] = 0
    mask[0, 20] = mask[4:6, 20:25] = mask[9, 20:23] = 1
    assert [(d.kind, d.size) for d in find_defects(mask)] == [
        ("component", 10),
        ("component", 3),
        ("component", 1),
        ("hole", 9),
        ("hole", 1),
    ]


def test_first_of_two_equally_large_pieces_is_kept():
    (second,) = find_defects([[1, 1, 0, 1, 1]])
    assert second.bbox == ((0, 1), (3, 5))


def test_tunnel_of_a_torus_is_a_loop_round_its_opening():
    (tunnel,) = find_defects(torus())
    assert (tunnel.kind, tunnel.count) == ("tunnel", 1)
    assert tunnel.centroid == pytest.approx((8, 15, 15), abs=1)
    (z0, z1), *plane = tunnel.bbox
    assert z1 - z0 <= 4
    for start, stop in plane:
        assert stop - start == pytest.approx(2 * 9 + 1, abs=3)


def test_tunnel_leaves_out_branches_that_end():
    mask = np.pad(torus(), [(0, 0), (0, 0), (0, 40)])
    (alone,) = find_defects(mask)
    mask[7:10, 14:17, 27:70] = 1
    (tunnel,) = find_defects(mask)
    assert tunnel.bbox[2][1] <= alone.bbox[2][1] + 2


def test_rings_joined_by_a_bar_are_two_tunnels_each_in_its_place():
    shape = (17, 31, 80)
    mask = torus((8, 15, 15), shape) | torus((8, 15, 64), shape)
    mask[7:10, 14:17, 26:54] = 1
    tunnels = sorted(find_defects(mask), key=lambda d: d.centroid[2])
    assert [(d.kind, d.count) for d in tunnels] == [("tunnel", 1)] * 2
    assert [d.centroid[2] for d in tunnels] == pytest.approx([15, 64], abs=2)


def test_loops_that_share_tissue_are_one_tunnel_with_their_number():
    ladder = np.zeros((3, 5, 13), bool)
    ladder[1] = True
    ladder[1, 1:4, 1:4] = ladder[1, 1:4, 5:8] = ladder[1, 1:4, 9:12] = False
    (tunnel,) = find_defects(ladder)
    assert (tunnel.kind, tunnel.count) == ("tunnel", 3)


def test_ring_shaped_cavity_is_a_cavity_and_a_tunnel():
    block = ~np.pad(torus(), 2)
    cavity, tunnel = sorted(find_defects(block), key=lambda d: d.kind)
    assert (cavity.kind, tunnel.kind, tunnel.count) == ("cavity", "tunnel", 1)
    assert (cavity.size, cavity.bbox) == (tunnel.size, tunnel.bbox)
    assert betti_numbers(block) == (1, 1, 1)


def test_hollow_torus_has_both_its_tunnels():
    kinds = Counter({"tunnel": 0, "cavity": 0})
    for defect in find_defects(torus(wall=2)):
        kinds[defect.kind] += defect.count
    assert kinds == {"tunnel": 2, "cavity": 1}


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 9), st.data())
def test_classes_without_a_separating_link_equal_cutting_every_link_in_turn(nodes, data):
    pairs = [(a, b) for a in range(nodes) for b in range(a)]
    links = np.array(data.draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else [], int).reshape(-1, 2)

    def connected(kept):
        graph = scipy.sparse.csr_array((np.ones(len(kept)), kept.T), shape=(nodes, nodes))
        classes = scipy.sparse.csgraph.connected_components(graph, directed=False)[1]
        return classes[:, None] == classes

    expected = connected(links)
    for i in range(len(links)):
        expected &= connected(np.delete(links, i, axis=0))
    classes = _two_edge_connected(nodes, links)
    np.testing.assert_array_equal(classes[:, None] == classes, expected)


def test_defects_survive_a_json_round_trip():
    defect = max(find_defects(torus(wall=2)), key=lambda d: d.size)
    read = json.loads(json.dumps(defect.as_dict()))
    assert read == {
        "kind": defect.kind,
        "size": defect.size,
        "centroid": list(defect.centroid),
        "bbox": [list(pair) for pair in defect.bbox],
        "count": defect.count,
    }


def test_masks_are_not_written_to():
    mask = torus(wall=2)
    mask[0, 0, 0] = True
    mask.setflags(write=False)
    copy = mask.copy()
    find_defects(mask)
    np.testing.assert_array_equal(mask, copy)


def test_summary_of_an_image_names_pieces_and_holes():
    assert json.loads(json.dumps(summary(DIAMOND))) == {
        "voxels": 4,
        "betti": [1, 1],
        "connectivity": {"foreground": 8, "background": 4},
        "pieces": 1,
        "holes": 1,
    }


def test_summary_of_a_volume_names_pieces_tunnels_and_cavities():
    assert json.loads(json.dumps(summary(torus(wall=2)))) == {
        "voxels": int(torus(wall=2).sum()),
        "betti": [1, 2, 1],
        "connectivity": {"foreground": 26, "background": 6},
        "pieces": 1,
        "tunnels": 2,
        "cavities": 1,
    }


def test_changes_count_added_and_removed_voxels_and_box_them():
    before = np.zeros((8, 9))
    before[2, 3] = 1
    after = np.zeros((8, 9))
    after[4, 1:3] = 7
    expected = {"added": 2, "removed": 1, "changed": 3, "bbox": [[2, 5], [1, 4]]}
    assert json.loads(json.dumps(changes(before, after))) == expected


def test_other_non_zero_values_are_no_change():
    nothing = {"added": 0, "removed": 0, "changed": 0, "bbox": None}
    assert changes(annulus(), annulus() * 255) == nothing
    assert changes(np.zeros((3, 3)), np.zeros((3, 3))) == nothing


def test_changes_between_different_shapes_are_refused():
    with pytest.raises(InputError, match=r"before \(3, 3\) and after \(3, 4\)"):
        changes(np.zeros((3, 3)), np.zeros((3, 4)))


@settings(deadline=None, max_examples=50)
@given(masks())
def test_bounding_box_holds_the_foreground_and_is_tight(mask):
    box = bounding_box(mask)
    if box is None:
        assert not mask.any()
        return
    inside = mask[box]
    assert inside.sum() == mask.sum()
    for axis in range(mask.ndim):
        assert inside.take(0, axis).any()
        assert inside.take(-1, axis).any()


def test_boolean_mask_is_not_copied():
    mask = annulus()
    assert as_foreground(mask) is mask


def test_importing_the_module_loads_nothing_heavy():
    heavy = {"torch", "monai", "scipy.ndimage", "skimage.morphology", "SimpleITK"}
    code = "import sys, rnca.topology; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not heavy & set(loaded.split())
