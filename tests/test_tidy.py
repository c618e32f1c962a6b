"""The end of a repair: small changes are undone unless they mend something, small things that were on their way out go,
growth into what lies beside an object is undone, a right outline is left alone, one object stays one; everything else
stays."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from drawings import Mask, masks, picture
from rnca.errors import InputError
from rnca.looks import NEAR
from rnca.shape import is_compact
from rnca.tidy import (
    Tidying,
    keep_outline,
    object_betti,
    one_object,
    tidy,
    without_bites,
    without_bulges,
    without_specks,
)
from rnca.topology import betti_numbers


@pytest.mark.parametrize(
    ("name", "drawing"),
    [
        ("a dot", ".......\n.+.....\n....###\n....###\n....###"),
        ("a pinhole", "#####\n#####\n##-##\n#####\n#####"),
        ("a cut", ".....\n##-##\n....."),
    ],
)
def test_a_small_change_that_breaks_something_is_a_speck(name: str, drawing: str) -> None:
    before, after = picture(drawing)
    assert (without_specks(before, after, Tidying(1, 0)) == before).all()
    assert (without_specks(before, after, Tidying(0, 9)) == after).all()


@pytest.mark.parametrize(
    ("name", "drawing"),
    [
        ("a pixel more at the border", ".+...\n.###.\n.###."),
        ("a pixel fewer at the border", ".....\n.#-#.\n.###.\n.###."),
    ],
)
def test_a_small_change_that_breaks_and_mends_nothing_is_a_nibble(name: str, drawing: str) -> None:
    before, after = picture(drawing)
    assert (without_specks(before, after, Tidying(0, 1)) == before).all()
    assert (without_specks(before, after, Tidying(5, 0)) == after).all()


def test_a_nibble_that_takes_something_away_is_a_bite() -> None:
    before, after = picture("+.....\n######\n##-###")
    assert (tidy(before, after, Tidying(bite_size=1)) == picture("+.....\n######\n######")[1]).all()
    assert (without_specks(before, after, Tidying(0, 1)) == before).all()
    stack = [np.stack([mask, mask]) for mask in (before, after)]
    assert (without_bites(*stack, 1, axis=0) == without_bites(before, after, 1)).all()
    assert (without_bites(*stack, 1) == stack[1]).all(), "of two voxels"


def test_bites_of_an_island_on_its_way_out_go_with_it() -> None:
    before, after = picture("#####\n#####\n.....\n-##-.")
    assert not tidy(before, after, Tidying(2, 0, bite_size=1))[3].any()


def test_a_cut_and_an_island_taken_away_are_no_bites() -> None:
    for drawing in ("##-##", "##\n..\n-."):
        before, after = picture(drawing)
        assert (without_bites(before, after, 5) == after).all()


@pytest.mark.parametrize(
    ("name", "drawing"),
    [
        ("two pieces are joined", "..#..\n..#..\n..+..\n..#..\n..#.."),
        ("a ring is closed", "#####\n#...#\n#...+\n#...#\n#####"),
        ("a hole is filled", "#####\n##+##\n#####"),
        ("an island is taken away", ".....\n.-...\n.....\n...##\n...##"),
    ],
)
def test_a_small_change_that_mends_something_is_kept(name: str, drawing: str) -> None:
    before, after = picture(drawing)
    assert (without_specks(before, after, Tidying(5, 5)) == after).all()


@pytest.mark.parametrize(
    ("name", "drawing", "size"),
    [
        ("an island half taken away", ".......\n.--##..\n.......\n######.", 2),
        ("a chip of a larger piece", "######\n######\n---...\n###...", 3),
        ("a hole half filled", "#######\n#++..##\n#######", 2),
        ("an eyelet in what was added", "########\n########\n.++++++.\n.+.++++.\n.++++++.", 1),
    ],
)
def test_small_things_on_their_way_out_go_wholly(name: str, drawing: str, size: int) -> None:
    before, after = picture(drawing)
    out = without_specks(before, after, Tidying(size, 0))
    assert betti_numbers(out) == (1, 0)
    assert ndimage.label(out ^ after, np.ones((3, 3)))[1] == 1 and np.count_nonzero(out ^ after) == size
    assert (without_specks(before, after, Tidying(size - 1, 0)) == after).all()


def test_a_small_piece_stays_that_lost_little_and_a_hole_that_reaches_the_border() -> None:
    before, after = picture("...........\n####.......\n####.......\n####.......\n###-.......\n...........\n###########")
    assert (without_specks(before, after, Tidying(15, 0)) == after).all()
    before, after = picture("#+..##\n#+..##\n######")
    assert (without_specks(before, after, Tidying(4, 0)) == after).all()


def test_what_is_left_of_a_small_mask_stays() -> None:
    before, after = picture(".....\n.-##.\n.###.")
    assert (without_specks(before, after, Tidying(9, 0)) == after).all()


def test_in_slices_no_piece_is_a_remnant_but_holes_are() -> None:
    before, after = picture("########\n#++..###\n########\n........\n.--##...")
    pair = [np.stack([mask, mask]) for mask in (before, after)]
    wanted = picture("########\n########\n########\n........\n.--##...")[1]
    assert (without_specks(*pair, Tidying(2, 0), 0) == wanted).all()


def test_only_pieces_up_to_the_size_are_specks_diagonals_counted() -> None:
    before, after = picture("++....\n..+...\n......\n.....+\n######")
    assert (without_specks(before, after, Tidying(2, 2)) == picture("++....\n..+...\n......\n......\n######")[1]).all()
    assert (without_specks(before, after, Tidying(3, 3)) == before).all()


def test_added_and_removed_pixels_beside_each_other_are_two_changes() -> None:
    before, after = picture("..+...\n##-###\n######")
    assert (without_specks(before, after, Tidying(1, 1)) == before).all()


def test_where_holes_are_the_objects_own_filling_one_is_a_speck() -> None:
    ring, gap, hole = (picture(drawing) for drawing in ("##.##\n##+##", "#####\n##+##\n#####", "###\n#+#\n###"))
    for before, after in (gap, hole):
        assert (without_specks(before, after, Tidying(5, 5, keep_holes=True)) == before).all()
        assert (without_specks(before, after, Tidying(0, 5, keep_holes=True)) == after).all()
    assert (without_specks(*ring, Tidying(5, 5, keep_holes=True)) == ring[1]).all(), "pieces are joined"
    assert (tidy(*hole, Tidying(5, 5, keep_holes=True)) == hole[0]).all()
    assert (tidy(*hole, Tidying(5, 5)) == hole[1]).all()


def test_in_volumes_tunnels_are_filled_and_cavities_are_not_made() -> None:
    block = np.ones((5, 5, 5), bool)
    tunnel = block.copy()
    tunnel[:, 2, 2] = False
    assert (without_specks(tunnel, block, Tidying(5, 5)) == block).all()
    cavity = block.copy()
    cavity[2, 2, 2] = False
    assert (without_specks(block, cavity, Tidying(1, 1)) == block).all()
    assert (without_specks(cavity, block, Tidying(1, 1)) == block).all()


@pytest.mark.parametrize(("arm", "compact"), [(0, True), (30, False)])
def test_a_volume_that_is_not_compact_keeps_its_holes_and_the_ends_of_its_branches(arm: int, compact: bool) -> None:
    after = np.zeros((6, 8 + arm, 8 + arm), bool)
    after[:, 1:6, 1:6] = after[2, 1:, 3] = after[2, 3, 1:] = True
    pierced, shorter = after.copy(), after.copy()
    pierced[3, 3, 3] = False
    shorter[2, 6:, 3] = False
    assert is_compact(after) == compact
    assert (tidy(pierced, after, Tidying(speck_size=2)) == (after if compact else pierced)).all()
    assert (tidy(pierced, after, Tidying(speck_size=2), axis=0) == after).all(), "a slice may be a section of anything"
    assert (tidy(shorter, after, Tidying(bulge_ratio=1.0)) == (shorter if compact else after)).all()
    short = pierced.copy()
    short[:, :, 8:] = short[:, 8:] = False
    assert (tidy(short, after, Tidying(speck_size=2)) == (after if compact else pierced)).all(), "the arms grew"
    hole = after[2].copy()
    hole[4, 4] = False
    assert (tidy(hole, after[2], Tidying(speck_size=2)) == after[2]).all(), "pictures do as the rules say"
    assert not tidy(after, after & False, Tidying(1)).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_looked_at_alone(axis: int) -> None:
    """A column of three voxels is a change of one pixel in each of three slices."""
    before = np.zeros((6, 6, 6), bool)
    before[4:] = True
    after = before.copy()
    column = [slice(1, 2)] * 3
    column[axis] = slice(0, 3)
    after[tuple(column)] = True
    assert (without_specks(before, after, Tidying(1, 1), axis) == before).all()
    assert (without_specks(before, after, Tidying(1, 1)) == after).all()


def joins_or_takes_away(before: Mask, piece: Mask) -> bool:
    """Whether a change that is made alone joins pieces of the whole mask, or takes one away."""
    full = np.ones((3,) * before.ndim)
    pieces, _ = ndimage.label(before, full)
    if (before & piece).any():
        return any((piece | (pieces != number)).all() for number in np.unique(pieces[piece]))
    return len(set(pieces[ndimage.binary_dilation(piece, full)]) - {0}) > 1


def mends_something(before: Mask, piece: Mask, keep_holes: bool) -> bool:
    """The definition; what is joined in a volume or where holes are kept is told apart in the whole mask."""
    around = tuple(slice(max(at.min() - 1, 0), at.max() + 2) for at in np.nonzero(piece))
    old, new = (betti_numbers(mask[around]) for mask in (before, before ^ piece))
    if not keep_holes and any(n < o for o, n in zip(old[1:], new[1:], strict=True)):
        return True
    if before.ndim == 2 and not keep_holes:
        return new[0] < old[0]
    return joins_or_takes_away(before, piece)


def slow(before: Mask, after: Mask, rules: Tidying) -> Mask:
    """The definition, on whole arrays."""
    full, faces = np.ones((3,) * before.ndim), ndimage.generate_binary_structure(before.ndim, 1)
    out = after.copy()
    for changed in (after & ~before, before & ~after):
        pieces, count = ndimage.label(changed, full)
        for piece in (pieces == number for number in range(1, count + 1)):
            around = tuple(slice(max(at.min() - 1, 0), at.max() + 2) for at in np.nonzero(piece))
            old, new = (betti_numbers(mask[around]) for mask in (before, before ^ piece))
            mends = mends_something(before, piece, rules.keep_holes)
            if not mends and piece.sum() <= (rules.nibble_size if old == new else rules.speck_size):
                out[piece] = before[piece]
    pieces, count = ndimage.label(out, full)
    taken = before & ~out
    for piece in (pieces == number for number in range(1, count + 1)):
        lost = (ndimage.binary_dilation(piece, full) & taken).sum()
        if piece.sum() <= rules.speck_size and lost > 0 and 10 * lost >= piece.sum():
            out = out & ~piece
    added = out & ~before
    holes, count = ndimage.label(np.pad(~out, 1, constant_values=True))
    for number in range(1, count + 1):
        hole = (holes == number)[(slice(1, -1),) * out.ndim]
        lost = (ndimage.binary_dilation(hole, faces) & added).sum()
        if number != holes.flat[0] and hole.sum() <= rules.speck_size and lost > 0 and 10 * lost >= hole.sum():
            out = out | hole
    return out if out.any() else after


some_rules = st.builds(Tidying, st.integers(0, 12), st.integers(0, 6), keep_holes=st.booleans())


@given(masks, some_rules, st.floats(0.02, 0.5))
def test_what_is_kept_of_a_repair_is_what_the_definition_says_of_the_whole_array(
    pair: list[Mask], rules: Tidying, share: float
) -> None:
    before, noise = pair
    after = np.where(np.random.default_rng(0).random(before.shape) < share, noise, before)
    assert (without_specks(before, after, rules) == slow(before, after, rules)).all()
    assert (without_specks(before, before, rules) == before).all()


@pytest.mark.parametrize(
    ("name", "drawing"),
    [
        ("growth through a door", "########\n########\n########\n########\n...++...\n...++...\n...++..."),
        ("a piece beside the mask", "#####....\n#####.++.\n#####.++.\n#####...."),
        ("a dent", "........\n###--###\n###--###\n###--###\n########"),
        ("the mouth of a bay", "#########\n#########\n###...###\n###+++###\n........."),
    ],
)
def test_a_change_that_makes_the_outline_longer_is_a_bulge(name: str, drawing: str) -> None:
    before, after = picture(drawing)
    assert (without_bulges(before, after, 1.0) == before).all()
    stack = [np.stack([mask, mask]) for mask in (before, after)]
    assert (tidy(*stack, Tidying(bulge_ratio=1.0), axis=0) == stack[0]).all()


@pytest.mark.parametrize(
    ("name", "drawing"),
    [
        ("a chunk", "########\n###+++##\n###+++##\n........"),
        ("a corner", "####++\n####++\n######\n######"),
        ("a protrusion taken away", "########\n########\n..--....\n........"),
        ("pieces are joined", "##....##\n##++++##\n##....##"),
        ("a hole is filled", "#######\n##+++##\n#######"),
        ("an island is taken away", "####....\n####.--.\n####...."),
        ("a ring is closed", "########..\n#......#..\n#......+..\n#......+..\n#......+..\n#......#..\n########.."),
    ],
)
def test_what_makes_the_outline_shorter_or_mends_something_is_no_bulge(name: str, drawing: str) -> None:
    before, after = picture(drawing)
    assert (without_bulges(before, after, 1.0) == after).all()


def test_how_much_longer_an_outline_may_grow_is_a_ratio() -> None:
    drawing = "########\n########\n########\n########\n..++++..\n..++++..\n........"  # touches along 4, shows 8
    before, after = picture(drawing)
    for ratio, expected in ((0.5, after), (0.51, before)):
        assert (tidy(before, after, Tidying(bulge_ratio=ratio)) == expected).all()
    assert (without_bulges(before, after, 0.0) == after).all()
    assert (without_bulges(before[1:], after[1:], 1.0) == after[1:]).all(), "a third of the mask was missing"


def test_in_volumes_a_bridge_between_parts_of_one_piece_mends_nothing() -> None:
    before = np.zeros((7, 7, 7), bool)
    before[1:6, 1:6, 1:3] = before[1:6, 1:6, 4:6] = before[1:3, 1:6, 1:6] = True
    after = before.copy()
    after[5, 3, 3] = True
    assert betti_numbers(after) == (1, 1, 0), "a tunnel"
    apart = before.copy(), after.copy()
    for mask in apart:
        mask[1:3, :, 3] = False
    for rule in (
        partial(without_specks, rules=Tidying(speck_size=1)),
        partial(without_bulges, ratio=1.0),
        partial(keep_outline, tolerance=0.05),
    ):
        assert (rule(before, after) == before).all()
        assert (rule(*apart) == apart[1]).all(), "two pieces"


def outline(mask: Mask) -> int:
    """Faces between voxels in and out of a mask."""
    return sum(int((np.diff(mask.astype(int), axis=axis) != 0).sum()) for axis in range(mask.ndim))


@given(masks, st.floats(0.02, 0.5))
def test_a_bulge_is_what_the_definition_says_of_the_whole_array(pair: list[Mask], share: float) -> None:
    before, noise = pair
    after = np.where(np.random.default_rng(0).random(before.shape) < share, noise, before)
    expected = after.copy()
    for changed in (after & ~before, before & ~after):
        pieces, count = ndimage.label(changed, np.ones((3,) * before.ndim))
        for piece in (pieces == number for number in range(1, count + 1)):
            around = tuple(slice(max(at.min() - 1, 0), at.max() + 2) for at in np.nonzero(piece))
            old, new = (betti_numbers(mask[around]) for mask in (before, before ^ piece))
            mends = any(n < o for o, n in zip(old[1:], new[1:], strict=True))
            if new[0] < old[0]:
                mends = mends or bool((before & piece).any()) or joins_or_takes_away(before, piece)
                if before.ndim == 2:
                    enclosed = ndimage.binary_fill_holes(before | piece) & ~(before | piece)
                    enclosed &= ~(ndimage.binary_fill_holes(before) & ~before)
                    mends = mends or 4 * enclosed.sum() >= before.sum()
            if not mends and outline(before ^ piece) > outline(before) and 4 * piece.sum() <= before.sum():
                expected[piece] = before[piece]
    assert (without_bulges(before, after, 1.0) == expected).all()
    less = without_bulges(before, after, 0.5)
    assert ((less ^ after) <= (expected ^ after)).all(), "a smaller ratio undoes no other changes"


@pytest.mark.parametrize(
    ("name", "drawing", "expected"),
    [
        ("a pixel of twenty", "..+...\n######\n######\n######\n##....", "......\n######\n######\n######\n##...."),
        ("two of twenty", "..++..\n######\n######\n######\n##....", None),
        ("one more, one fewer", "..+...\n######\n#####-\n######\n##....", None),
        ("a hole is filled", "..+...\n######\n##+###\n######\n###...", "......\n######\n##+###\n######\n###..."),
        ("a gap too large to be slight", "..+...\n######\n###...\n++....\n###...\n######\n##....", None),
    ],
)
def test_an_outline_that_hardly_moves_is_left_alone(name: str, drawing: str, expected: str | None) -> None:
    before, after = picture(drawing)
    assert before.sum() == 20
    assert (keep_outline(before, after, 0.05) == picture(expected or drawing)[1]).all()
    assert (keep_outline(before, after, 0.01) == after).all()


def test_where_holes_are_the_objects_own_filling_one_does_not_count_as_mended() -> None:
    before, after = picture("#####\n##+##\n#####\n#####\n#####")
    assert (keep_outline(before, after, 0.05) == after).all()
    assert (keep_outline(before, after, 0.05, keep_holes=True) == before).all()


@pytest.mark.parametrize(("holes", "stay"), [(1, True), (4, True), (5, False)])
def test_a_right_volume_keeps_a_few_holes_of_a_voxel_and_loose_pieces_of_a_few(holes: int, stay: bool) -> None:
    before = np.zeros((10, 10, 15), bool)
    before[1:8, 1:8, 1:13] = True
    whole = before.copy()
    before[4, 4, 2 : 2 * holes + 1 : 2] = False
    assert betti_numbers(before) == (1, 0, holes)
    assert (keep_outline(before, whole, 0.03) == (before if stay else whole)).all()
    larger = before.copy()
    larger[5, 4, 2] = False
    filled = keep_outline(larger, whole, 0.03)
    assert (filled == whole).all(), "a hole of two voxels, and with it the others"
    island = np.zeros_like(whole)
    island[9, 9, 10:14] = True
    assert (keep_outline(island | whole, whole, 0.03) == island | whole).all(), "four voxels"
    assert (keep_outline(island | before, whole, 0.03) == (island | before if holes < 4 else whole)).all()
    island[9, 9, 9] = True
    assert (keep_outline(island | whole, whole, 0.03) == whole).all(), "five"
    apart = whole.copy()
    apart[4] = False
    joined = apart.copy()
    joined[4, 4, 4] = True
    assert (keep_outline(apart, joined, 0.03) == joined).all(), "a gap is none"
    moved = whole.copy()
    moved[1, 1, 1:13] = False
    assert (keep_outline(before, moved, 0.03) == (before if stay else whole)).all()
    assert (keep_outline(before, moved, 0.001) == moved).all(), "the outline is not right"
    flat = before[4], whole[4]
    assert (keep_outline(*flat, 0.03) == whole[4]).all(), "pictures keep none"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_slice_has_an_outline_of_its_own(axis: int) -> None:
    """One pixel of ten in the first slice, three of them in the second."""
    before = picture("..........\n##########")[0]
    little, much = before.copy(), before.copy()
    little[0, 4] = much[0, 4:7] = True
    pair = [np.stack(masks, axis) for masks in ([before, before], [little, much])]
    assert (keep_outline(*pair, 0.1, axis) == np.stack([before, much], axis)).all()
    assert (keep_outline(*pair, 0.2) == pair[0]).all()
    rules = Tidying(tolerance=0.1)
    assert rules and (tidy(*pair, rules, axis) == np.stack([before, much], axis)).all()


@given(masks, st.floats(0, 0.6), st.floats(0.02, 0.5), st.booleans())
def test_an_outline_is_kept_as_the_definition_says(
    pair: list[Mask], tolerance: float, share: float, keep_holes: bool
) -> None:
    before, noise = pair
    after = np.where(np.random.default_rng(0).random(before.shape) < share, noise, before)
    slight, total, most, mended = after.copy(), 0, tolerance * before.sum(), []
    for changed in (after & ~before, before & ~after):
        pieces, count = ndimage.label(changed, np.ones((3,) * before.ndim))
        for piece in (pieces == number for number in range(1, count + 1)):
            if piece.sum() > most or not mends_something(before, piece, keep_holes):
                slight[piece] = before[piece]
                total += piece.sum()
            else:
                mended.append(piece)
    crumbs = [
        piece
        for piece in mended
        if (piece.sum() <= 4 if before[piece].any() else piece.sum() == 1 and not joins_or_takes_away(before, piece))
    ]
    if before.ndim == 3 and len(crumbs) == len(mended) <= 4:
        slight = before
    expected = slight if total <= most else after
    assert (keep_outline(before, after, tolerance, keep_holes=keep_holes) == expected).all()


RING = "..........\n.#####....\n.#...#..#.\n.#...#..#.\n.#####...."


def test_once_the_object_is_whole_other_pieces_go() -> None:
    closed = picture(RING)[0]
    ring = closed.copy()
    ring[:, 8] = False
    broken = closed.copy()
    broken[1, 2:4] = False
    before = closed.copy()
    before[1, 3] = False
    assert (one_object(before, closed, (1, 1)) == ring).all()
    assert (one_object(before, broken, (1, 1)) == broken).all(), "not whole: its parts may be the object's"
    assert (one_object(before, closed, (1, 0)) == closed).all()
    larger = closed.copy()
    larger[3:, 6:] = True
    assert (one_object(before, larger, (1, 1)) == larger).all(), "the largest piece decides"
    elsewhere = before.copy()
    elsewhere[:, 6:] = True
    assert (one_object(elsewhere, closed, (1, 1)) == closed).all(), "half of the mask is not thrown away"


def test_an_object_that_is_lost_is_given_back() -> None:
    before = picture(RING)[0]
    for left in (0, 3):
        after = np.zeros_like(before)
        after[1, 1 : 1 + left] = True
        assert (one_object(before, after, (1, 1)) == before).all()
    after[1, 1:6] = True  # a quarter and more
    assert (one_object(before, after, (1, 1)) == after).all()
    assert not one_object(np.zeros_like(before), np.zeros_like(before), (1, 1)).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_slice_holds_an_object_of_its_own(axis: int) -> None:
    before = picture(RING)[0]
    ring = before.copy()
    ring[:, 8] = False
    stacks = [np.stack(pair, axis) for pair in ([before, before], [before, np.zeros_like(before)], [ring, before])]
    assert (one_object(stacks[0], stacks[1], (1, 1), axis) == stacks[2]).all()


def test_tidying_undoes_specks_first_and_has_nothing_to_do_without_rules() -> None:
    before, after = picture("#####.\n#...#.\n#...#.\n###-#.\n......\n..+...")
    assert (tidy(before, after, Tidying(1, 0, [1, 1])) == before).all()
    assert tidy(before, after, Tidying()) is after
    assert Tidying(bulge_ratio=0.5) and Tidying(look_size=9) and Tidying(bite_size=1) and Tidying(bay_width=1)
    assert not Tidying(keep_holes=True)
    assert [rules.sight for rules in (Tidying(9, 9), Tidying(look_size=1), Tidying(bay_width=1))] == [0, NEAR, NEAR]
    assert [bool(rules) for rules in (Tidying(), Tidying(0, 1), Tidying(object_betti=[1, 1]))] == [False, True, True]


@given(masks, st.integers(0, 2), st.integers(0, 2))
def test_one_object_is_a_piece_all_that_came_or_all_that_was(pair: list[Mask], pieces: int, holes: int) -> None:
    before, after = pair
    betti = (pieces, holes, 0)[: before.ndim]
    out = one_object(before, after, betti)
    if out.sum() < after.sum() and not (out == before).all():
        assert betti_numbers(out) == betti and ndimage.label(out, np.ones((3,) * out.ndim))[1] == 1
        assert (out <= after).all()
    else:
        assert (out == before).all() or (out == after).all()
    assert 4 * out.sum() >= before.sum()


@pytest.mark.parametrize(("text", "numbers"), [("1,1", [1, 1]), ("1, 0,0", [1, 0, 0]), ("none", None)])
def test_betti_numbers_are_typed(text: str, numbers: list[int] | None) -> None:
    assert object_betti(text) == numbers


@pytest.mark.parametrize("text", ["1", "1,1,1,1", "1,-1", "a,b", ""])
def test_other_betti_numbers_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="'1,1'"):
        object_betti(text)
