"""Specks and nibbles: small changes are undone unless they mend something; everything else of a repair stays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from rnca.specks import without_specks
from rnca.topology import betti_numbers

Mask = NDArray[np.bool_]


def picture(text: str) -> tuple[Mask, Mask]:
    """Before and after of a drawing: # stays, + is added, - is removed."""
    rows = [line.strip() for line in text.strip().splitlines()]
    drawn = np.array([list(row) for row in rows])
    return np.isin(drawn, ["#", "-"]), np.isin(drawn, ["#", "+"])


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
    assert (without_specks(before, after, (1, 0)) == before).all()
    assert (without_specks(before, after, (0, 9)) == after).all()


@pytest.mark.parametrize(
    ("name", "drawing"),
    [
        ("a pixel more at the border", ".+...\n.###.\n.###."),
        ("a pixel fewer at the border", ".....\n.#-#.\n.###.\n.###."),
    ],
)
def test_a_small_change_that_breaks_and_mends_nothing_is_a_nibble(name: str, drawing: str) -> None:
    before, after = picture(drawing)
    assert (without_specks(before, after, (0, 1)) == before).all()
    assert (without_specks(before, after, (9, 0)) == after).all()


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
    assert (without_specks(before, after, (5, 5)) == after).all()


def test_only_pieces_up_to_the_size_are_specks_diagonals_counted() -> None:
    before, after = picture("++....\n..+...\n......\n.....+\n######")
    assert (without_specks(before, after, (2, 2)) == picture("++....\n..+...\n......\n......\n######")[1]).all()
    assert (without_specks(before, after, (3, 3)) == before).all()


def test_added_and_removed_pixels_beside_each_other_are_two_changes() -> None:
    before, after = picture("..+...\n##-###\n######")
    assert (without_specks(before, after, (1, 1)) == before).all()


def test_in_volumes_tunnels_are_filled_and_cavities_are_not_made() -> None:
    block = np.ones((5, 5, 5), bool)
    tunnel = block.copy()
    tunnel[:, 2, 2] = False
    assert (without_specks(tunnel, block, (5, 5)) == block).all()
    cavity = block.copy()
    cavity[2, 2, 2] = False
    assert (without_specks(block, cavity, (1, 1)) == block).all()
    assert (without_specks(cavity, block, (1, 1)) == block).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_looked_at_alone(axis: int) -> None:
    """A column of three voxels is a change of one pixel in each of three slices."""
    before = np.zeros((6, 6, 6), bool)
    before[4:] = True
    after = before.copy()
    column = [slice(1, 2)] * 3
    column[axis] = slice(0, 3)
    after[tuple(column)] = True
    assert (without_specks(before, after, (1, 1), axis) == before).all()
    assert (without_specks(before, after, (1, 1)) == after).all()


masks = st.builds(
    lambda shape, seed, share: [np.random.default_rng(seed + n).random(shape) < share for n in (0, 1)],
    st.sampled_from([(9, 11), (16, 5), (6, 5, 7), (1, 8, 8)]),
    st.integers(0, 10_000),
    st.floats(0.1, 0.9),
)


@given(masks, st.tuples(st.integers(0, 6), st.integers(0, 6)))
def test_what_is_kept_of_a_repair_is_large_or_mends_and_the_rest_is_as_before(
    pair: list[Mask], sizes: tuple[int, int]
) -> None:
    before, noise = pair
    after = np.where(np.random.default_rng(0).random(before.shape) < 0.3, noise, before)
    kept = without_specks(before, after, sizes)
    for changed in (after & ~before, before & ~after):
        pieces, _ = ndimage.label(changed, np.ones((3,) * before.ndim))
        for number, box in enumerate(ndimage.find_objects(pieces), start=1):
            piece = pieces == number
            around = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
            numbers = [betti_numbers(mask[around]) for mask in (before, before ^ piece)]
            mends = any(new < old for old, new in zip(*numbers, strict=True))
            size = sizes[0] if numbers[0] != numbers[1] else sizes[1]
            wanted = after if piece.sum() > size or mends else before
            assert (kept[piece] == wanted[piece]).all()
    assert (kept == after)[before == after].all()
    assert (without_specks(before, kept, sizes) == kept).all()
