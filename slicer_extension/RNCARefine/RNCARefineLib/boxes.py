"""Boxes of voxels: half-open (start, stop) pairs in array order (k, j, i)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Box = tuple[tuple[int, int], ...]


def whole(shape: Sequence[int]) -> Box:
    """The box of a whole array."""
    return tuple((0, int(n)) for n in shape)


def size(box: Box) -> tuple[int, ...]:
    """Its shape."""
    return tuple(stop - start for start, stop in box)


def slices(box: Box, origin: Box | None = None) -> tuple[slice, ...]:
    """To index an array with; of an array that itself begins at `origin`'s corner, if given."""
    corner = [start for start, _ in origin] if origin else [0] * len(box)
    return tuple(slice(start - c, stop - c) for (start, stop), c in zip(box, corner, strict=True))


def union(first: Box, second: Box) -> Box:
    """The smallest box that holds both."""
    return tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(first, second, strict=True))


def overlap(first: Box, second: Box) -> Box | None:
    """What both hold; None if that is nothing."""
    found = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(first, second, strict=True))
    return found if all(start < stop for start, stop in found) else None


def around(mask: NDArray[np.bool_]) -> Box | None:
    """The smallest box with every true voxel; None if there is none."""
    found = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        hit = np.flatnonzero(mask.any(axis=others))
        if not hit.size:
            return None
        found.append((int(hit[0]), int(hit[-1]) + 1))
    return tuple(found)


def on_box(mask: NDArray[np.bool_], place: Box, box: Box) -> NDArray[np.bool_]:
    """A mask that fills `place`, on `box`: cut or filled up with background."""
    result = np.zeros(size(box), np.bool_)
    common = overlap(place, box)
    if common is not None:
        result[slices(common, box)] = mask[slices(common, place)]
    return result


def text(box: Box) -> str:
    """As the server and the command line take a region, x first: 'i0:i1,j0:j1,k0:k1'."""
    return ",".join(f"{start}:{stop}" for start, stop in reversed(box))
