"""What a repair left almost joined is joined."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from drawings import Mask, masks, picture
from rnca.joins import LOOP, close_loops, join_pieces
from rnca.tidy import Tidying, tidy
from rnca.topology import betti_numbers, label_foreground


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


def net(gap: int = 4, height: int = 18, width: int = 33) -> tuple[Mask, Mask]:
    """A loop of lines four pixels thick that a gap interrupts, around `height` x `width` pixels, before and after a
    branch beside it grew."""
    after = np.zeros((height + 20, width + 60), bool)
    after[6 : height + 14, 6 : width + 14] = True
    after[10 : height + 10, 10 : width + 10] = False
    after[6:10, 20 : 20 + gap] = False
    after[12:16, width + 14 :] = True
    before = after.copy()
    before[:, width + 40 :] = False
    return before, after


@pytest.mark.parametrize(("gap", "closed"), [(4, 1), (5, 0)])
def test_a_large_loop_is_closed_over_a_narrow_gap(gap: int, closed: int) -> None:
    before, after = net(gap)
    out = close_loops(before, after, 5)
    assert betti_numbers(after) == (1, 0) and betti_numbers(out) == (1, closed)
    assert (out >= after).all() and (out <= net(0)[1]).all()
    assert (tidy(before, after, Tidying(loop_gap=5)) == out).all()
    stack = [np.stack([part, after], 2) for part in (before, after)]
    assert (tidy(*stack, Tidying(loop_gap=5), axis=2) == np.stack([out, after], 2)).all()
    assert close_loops(*stack, 5) is stack[1], "no loop encloses anything in a volume"


def test_a_loop_is_closed_only_where_the_repair_did_something() -> None:
    before, after = net()
    share = np.count_nonzero(before ^ after) / before.sum()
    for rules, closed in ((Tidying(loop_gap=5, tolerance=share), 0), (Tidying(loop_gap=5, tolerance=0.99 * share), 1)):
        assert betti_numbers(close_loops(before, after, 5, rules.tolerance))[1] == closed
        assert betti_numbers(tidy(before, after, rules))[1] == closed


@pytest.mark.parametrize(("height", "closed"), [(15, True), (14, False)])
def test_a_loop_encloses_three_hundred_pixels(height: int, closed: bool) -> None:
    before, after = net(height=height, width=20)
    assert LOOP == 300
    assert betti_numbers(close_loops(before, after, 5))[1] == closed


def test_the_border_of_the_picture_closes_no_loop() -> None:
    before, after = (mask[9:] for mask in net(gap=2))
    assert betti_numbers(close_loops(*(np.pad(mask, ((20, 0), (0, 0))) for mask in (before, after)), 5)) == (1, 1)
    assert (close_loops(before, after, 5) == after).all()


def test_pieces_apart_are_not_joined() -> None:
    before, after = net()
    after[10:, 24:28] = before[10:, 24:28] = False
    assert betti_numbers(after) == (2, 0)
    assert (close_loops(before, after, 5) == after).all()


@given(masks.map(lambda pair: [part.repeat(5, 0).repeat(5, 1) for part in pair]), st.integers(1, 9))
def test_closing_loops_adds_bridges_between_large_regions_and_joins_no_pieces(pair: list[Mask], gap: int) -> None:
    before, after = pair
    out = close_loops(before, after, gap)
    assert (out >= after).all()
    assert betti_numbers(out)[0] == betti_numbers(after)[0]
    if after.ndim == 2:
        bridges = label_foreground(out & ~after)[1]
        assert betti_numbers(out)[1] == betti_numbers(after)[1] + bridges
        far = ndimage.distance_transform_edt(~np.pad(after, 20))[20:-20, 20:-20]
        assert far[out & ~after].max(initial=0) <= gap / 2
    else:
        assert out is after
