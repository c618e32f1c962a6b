"""The shape of a mask: compact as an organ, or thin as a tree of vessels."""

from typing import Final

import numpy as np
import scipy  # loads its parts on first use
from numpy.typing import NDArray

from .topology import label_foreground

COMPACT: Final = 0.5
"""The least solidity of something compact: repaired organs have 0.5 to 1, trees and walls mostly less."""


def solidity(mask: NDArray[np.bool_]) -> float:
    """The share of the convex hulls of its pieces that a mask fills, 1 if it is convex.

    Spacing does not matter: hulls scale as voxels do.

    Args:
        mask: (*S) bool, 2-D or 3-D, not empty; pieces are 8- or 26-connected, and voxels squares or cubes.
    """
    pieces, _ = label_foreground(mask)
    hulls = 0.0
    corners = np.indices((2,) * mask.ndim).reshape(mask.ndim, -1).T
    for number, box in enumerate(scipy.ndimage.find_objects(pieces), start=1):
        piece = pieces[box] == number
        border = np.argwhere(piece & ~scipy.ndimage.binary_erosion(piece))
        hulls += scipy.spatial.ConvexHull((border[:, None] + corners).reshape(-1, mask.ndim)).volume
    return float(np.count_nonzero(mask) / hulls)


def is_compact(mask: NDArray[np.bool_]) -> bool:
    """Whether a mask, as for `solidity`, is compact as an organ is rather than thin as a wall or a tree is."""
    return solidity(mask) >= COMPACT
