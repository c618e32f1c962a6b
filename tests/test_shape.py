"""What is compact as an organ is told from what is thin as a tree."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import ndimage, spatial

from drawings import Mask, masks, picture
from rnca.shape import COMPACT, is_compact, solidity
from rnca.topology import label_foreground


def test_what_is_convex_fills_its_hull() -> None:
    for shape in ((1, 1), (3, 7), (1, 1, 1), (4, 1, 9)):
        assert solidity(np.ones(shape, bool)) == pytest.approx(1)
        assert solidity(np.pad(np.ones(shape, bool), 2)) == pytest.approx(1)


@pytest.mark.parametrize("cells", [2, 5, 30])
def test_a_diagonal_line_fills_little_of_its_hull(cells: int) -> None:
    """A square or cube dragged along a diagonal sweeps its own size and, each step, one more for each axis."""
    for axes in (2, 3):
        line = np.zeros((cells,) * axes, bool)
        line[(np.arange(cells),) * axes] = True
        assert solidity(line) == pytest.approx(cells / (1 + axes * (cells - 1)))


def test_the_largest_piece_counts() -> None:
    corner, _ = picture("##\n#.")
    assert solidity(corner) == pytest.approx(3 / 3.5)
    hollow, _ = picture("#####\n#...#\n#...#\n#...#\n#####")
    assert solidity(hollow) == pytest.approx(16 / 25)
    assert solidity(np.pad(corner, ((6, 0), (0, 3))) | np.pad(hollow, ((0, 3), (0, 0)))) == pytest.approx(16 / 25)


def test_organs_are_compact_walls_and_trees_are_not() -> None:
    distance = np.sqrt(sum((n - 20.0) ** 2 for n in np.indices((41, 41, 41))))
    ball = distance <= 18
    assert is_compact(ball)
    assert is_compact(ball & (np.indices(ball.shape)[0] + np.indices(ball.shape)[1] > 30)), "a part of one"
    assert not is_compact(ball & (distance > 14)), "a wall, 0.48"
    assert is_compact(ball & (distance > 13)), "a thick one, 0.57"
    cross = sum((np.indices((41, 41, 41))[axis] == 20).astype(int) for axis in range(3)) >= 2
    assert not is_compact(cross)


@given(masks.map(lambda pair: pair[0]).filter(np.any), st.integers(1, 3), st.integers(1, 3))
def test_neither_spacing_nor_orientation_matters(mask: Mask, finer: int, other: int) -> None:
    pieces, _ = label_foreground(mask)
    voxels = np.bincount(pieces.ravel())[1:]
    assume(np.count_nonzero(voxels == voxels.max()) == 1)
    whole = solidity(mask)
    assert 0 < whole <= 1 + 1e-9
    assert is_compact(mask) == (whole >= COMPACT)
    assert solidity(np.swapaxes(mask, 0, -1)[::-1]) == pytest.approx(whole)
    assert solidity(mask.repeat(finer, 0).repeat(other, 1)) == pytest.approx(whole)
    largest = pieces == 1 + voxels.argmax()
    border = np.argwhere(largest & ~ndimage.binary_erosion(largest))
    points = (border[:, None] + np.indices((2,) * mask.ndim).reshape(mask.ndim, -1).T).reshape(-1, mask.ndim)
    assert whole == pytest.approx(largest.sum() / spatial.ConvexHull(points).volume)
