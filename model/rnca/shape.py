"""The shape of a mask: compact as an organ or thin as a tree of vessels, and its gaps and bays."""

from typing import Final

import numpy as np
import scipy  # loads its parts on first use
from numpy.typing import NDArray
from skimage.morphology import isotropic_closing

from .geometry import bounding_box
from .topology import label_foreground

COMPACT: Final = 0.5
"""The least solidity of something compact: repaired organs have 0.5 to 1, trees and walls mostly less."""


def solidity(mask: NDArray[np.bool_]) -> float:
    """The share of its convex hull that the largest piece of a mask fills, 1 if it is convex.

    Spacing does not matter: hulls scale as voxels do.

    Args:
        mask: (*S) bool, 2-D or 3-D, not empty; pieces are 8- or 26-connected, and voxels squares or cubes.
    """
    pieces, _ = label_foreground(mask)
    number = 1 + int(np.bincount(pieces.ravel())[1:].argmax())
    piece = pieces[scipy.ndimage.find_objects(pieces, number)[-1]] == number
    rows = piece.any(-1)  # along the last axis; the hull is that of their ends
    first, last = piece.argmax(-1)[rows], piece.shape[-1] - piece[..., ::-1].argmax(-1)[rows]
    corners = np.argwhere(rows)[:, None] + np.indices((2,) * rows.ndim).reshape(rows.ndim, -1).T
    points = [np.column_stack([corner, end]) for corner in np.moveaxis(corners, 1, 0) for end in (first, last)]
    return float(np.count_nonzero(piece) / scipy.spatial.ConvexHull(np.concatenate(points)).volume)


def is_compact(mask: NDArray[np.bool_]) -> bool:
    """Whether a mask, as for `solidity`, is compact as an organ is rather than thin as a wall or a tree is."""
    return solidity(mask) >= COMPACT


def close_gaps(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The closing of a mask with a disk or ball.

    Args:
        mask: (*S) bool, 2-D or 3-D; beyond its borders there is background.
        width: voxels, the diameter.

    Returns:
        (*S) bool, a new array.
    """
    out, used = mask.copy(), bounding_box(mask)
    if used is not None:
        edge = (width + 1) // 2
        out[used] = isotropic_closing(np.pad(mask[used], edge), width / 2)[(slice(edge, -edge),) * mask.ndim]
    return out
