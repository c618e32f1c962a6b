"""What a repair left almost joined is joined."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from drawings import Mask, masks, picture
from rnca.joins import join_pieces
from rnca.tidy import Tidying, tidy
from rnca.topology import betti_numbers


@pytest.mark.parametrize(
    ("name", "drawing", "gap", "expected"),
    [
        ("a pixel apart", "....+.\n##.###", 1, "....+.\n######"),
        ("two apart", "....+.\n#..###", 2, "....+.\n######"),
        ("two are more than one", "....+.\n#..###", 1, None),
        ("across a corner", "##...\n##...\n.....\n...##\n...#+", 1, "##...\n##...\n..#..\n...##\n...#+"),
        ("three in a row", "#.#.#\n....+", 1, "#####\n....+"),
        ("the nearest of two", "#.##..#\n#....+#\n#.....#\n#######", 1, "####..#\n#....+#\n#.....#\n#######"),
    ],
)
def test_pieces_that_few_pixels_part_are_joined_by_the_shortest_line(
    name: str, drawing: str, gap: int, expected: str | None
) -> None:
    before, after = picture(drawing)
    assert (join_pieces(before, after, gap) == picture(expected or drawing)[1]).all()
    assert (join_pieces(after, after, gap) == after).all(), "the repair left it as it was"
    share = 1 / before.sum()
    assert (join_pieces(before, after, gap, share) == after).all(), "a pixel changed, and a pixel is the tolerance"
    assert (join_pieces(before, after, gap, 0.9 * share) == join_pieces(before, after, gap)).all()


def test_a_line_that_would_make_a_hole_is_not_drawn() -> None:
    before, after = picture("###..-\n....#.\n#.#...\n.##...\n......")
    assert betti_numbers(join_pieces(before, after, 2))[1] == betti_numbers(after)[1] == 0
    assert betti_numbers(join_pieces(before, after, 2))[0] < betti_numbers(after)[0]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_pieces_of_a_slice_are_joined_within_it(axis: int) -> None:
    apart = picture("##.##\n.....")[1]
    before, after = picture("....+\n##.##")
    pair = [np.stack(masks, axis) for masks in ([apart, before], [apart, after])]
    whole = after.copy()
    whole[1] = True
    assert (join_pieces(*pair, 1, axis=axis) == np.stack([apart, whole], axis)).all()
    rules = Tidying(gap_size=1)
    assert rules and (tidy(*pair, rules, axis) == np.stack([apart, whole], axis)).all()


@given(masks, st.integers(1, 3))
def test_joining_adds_lines_and_neither_holes_nor_tunnels(pair: list[Mask], gap: int) -> None:
    before, after = pair
    out = join_pieces(before, after, gap)
    old, new = betti_numbers(after), betti_numbers(out)
    assert (after <= out).all() and np.count_nonzero(out & ~after) <= gap * (old[0] - new[0])
    assert all(n <= o for o, n in zip(old, new, strict=True))
    if old[0] > 1 and before.ndim == 2:
        assert new[0] < old[0] or apart(after) > gap or not (before ^ after).any()


def apart(mask: Mask) -> int:
    """Pixels between the two nearest pieces."""
    pieces, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    far = [ndimage.distance_transform_cdt(pieces != n, "chessboard") for n in range(1, count + 1)]
    return min(int(far[a][pieces == b + 1].min()) - 1 for a in range(count) for b in range(count) if a != b)
