"""Local contrast: each voxel less the mean around it, over the deviation around it.

Mean and deviation within 16 voxels change so slowly that they are taken from means of blocks, a quarter of sigma wide,
and interpolated between the blocks' centres: twenty times faster than with every voxel, and the same to a few
thousandths. Blocks lie on the whole image's grid, so a voxel has the same value in every box that is asked for.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FLAT = 0.05
"""Of the image's deviation: a local one is not taken below it, or the noise of flat places would seem structure."""

TRUNCATE = 3
"""A Gaussian ends after this many of its deviations."""

BLOCKS = 4
"""Blocks in one sigma."""

Values = NDArray[np.float32]


def block(sigma: float) -> int:
    """Edge of a block in voxels."""
    return max(1, int(sigma // BLOCKS))


def reach(sigma: float) -> int:
    """Voxels around a box that its local contrast depends on; a whole number of blocks."""
    edge = block(sigma)
    return edge * (math.ceil(TRUNCATE * 2 * sigma / edge) + 2)


def local_contrast(values: Values, inner: Sequence[slice], sigma: float, slice_axis: int | None) -> Values:
    """Values of a box with mean 0 and deviation 1 within about `sigma` voxels, clipped to ±3.

    Args:
        values: (C, *S) with deviation 1 in the whole image; beginning on a block, with `reach` around the box.
        inner: the box in (*S).
        sigma: deviation in voxels of the Gaussian that weighs the surroundings.
        slice_axis: of (*S): nothing is mixed along it.

    Returns:
        A new array, (C, *box).
    """
    axes = [axis for axis in range(values.ndim - 1) if axis != slice_axis]
    edge = block(sigma)
    mean = _blocks(values, axes, edge)
    square = _blocks(values * values, axes, edge)
    sigmas = [sigma / edge if axis in axes else 0.0 for axis in range(values.ndim - 1)]
    around = _smooth(mean, sigmas)
    deviation = np.sqrt(np.maximum(_smooth(square - (2 * mean - around) * around, sigmas), 0))
    out = values[(slice(None), *inner)] - _between(around, inner, axes, edge)
    out /= np.maximum(_between(deviation, inner, axes, edge), np.float32(FLAT))
    np.clip(out, -3, 3, out=out)
    return out


def _blocks(values: NDArray[Any], axes: Sequence[int], edge: int) -> NDArray[np.float64]:
    """Means of blocks; the last one of an axis may be smaller."""
    for axis in axes if edge > 1 else ():
        rows = np.moveaxis(values, axis + 1, 0)
        sums = rows[::edge].copy()
        for offset in range(1, edge):  # a few long additions: many times faster than np.add.reduceat
            part = rows[offset::edge]
            sums[: len(part)] += part
        counts = np.full(len(sums), edge, np.float32)
        counts[-1] = len(rows) - (len(sums) - 1) * edge
        sums /= counts.reshape(-1, *[1] * (sums.ndim - 1))
        values = np.moveaxis(sums, 0, axis + 1)
    return values.astype(np.float64)


def _smooth(blocks: NDArray[np.float64], sigmas: Sequence[float]) -> NDArray[np.float64]:
    return np.asarray(ndimage.gaussian_filter(blocks, [0, *sigmas], mode="nearest", truncate=TRUNCATE))


def _between(blocks: NDArray[np.float64], inner: Sequence[slice], axes: Sequence[int], edge: int) -> Values:
    """Block values at the voxels of a box: linear between the blocks' centres, constant beyond the outermost."""
    box = tuple(slice(None) if axis in axes else side for axis, side in enumerate(inner))
    found: Values = blocks[(slice(None), *box)].astype(np.float32)
    for axis in axes:
        place = (np.arange(inner[axis].start, inner[axis].stop) + 0.5) / edge - 0.5
        low = np.clip(np.floor(place).astype(np.intp), 0, found.shape[axis + 1] - 1)
        high = np.minimum(low + 1, found.shape[axis + 1] - 1)
        weight = np.clip(place - low, 0, 1).astype(np.float32)
        weight = weight.reshape([-1 if a == axis + 1 else 1 for a in range(found.ndim)])
        first = found.take(low, axis + 1)
        found = found.take(high, axis + 1)
        found -= first
        found *= weight
        found += first
    return found
