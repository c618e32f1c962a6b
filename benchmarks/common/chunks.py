"""Damage of the fill benchmark (arXiv 2512.13397, Appendix B): rectangles and circles cut out, overlapping; or one."""

import numpy as np
from numpy.typing import NDArray

from rnca.topology import betti_numbers

Mask = NDArray[np.bool_]

DICE = (0.81, 0.12)
"""Mean and standard deviation of the Dice that is aimed at; cuts overshoot a little (the paper's: 0.798 ± 0.145)."""


ONE = (0.01, 0.06)
"""Share of an object that a single chunk takes: a bite that an annotator sees, in a mask that is right otherwise."""


def cut_one(mask: Mask, seed: tuple[int, ...]) -> Mask | None:
    """Remove one box or ball at the outline that takes 1 to 6 % of the object and leaves its topology as it is.

    Its half sides are 5 to 30 % of the object's length along each axis. 2-D and 3-D; None where 200 draws find none.
    """
    rng = np.random.default_rng(seed)
    total, places = np.count_nonzero(mask), np.argwhere(mask)
    if not total:
        return None
    extent, numbers = places.max(0) - places.min(0) + 1, betti_numbers(mask)
    for _ in range(200):
        cut = mask & ~_shape(mask.shape, places[rng.integers(total)], extent * rng.uniform(0.05, 0.3, mask.ndim), rng)
        share = 1 - np.count_nonzero(cut) / total
        if ONE[0] <= share <= ONE[1] and betti_numbers(cut) == numbers:
            return cut
    return None


def cut_chunks(mask: Mask, seed: tuple[int, ...]) -> Mask:
    """Remove boxes and balls of 6 to 28 % of the object's length along each axis until a drawn Dice is reached.

    The Dice aimed at is drawn from a normal distribution, clipped to 0.45–0.97; a cut that would go more than 0.05
    below it is drawn again. 2-D and 3-D; an empty mask is returned as it is.
    """
    rng = np.random.default_rng(seed)
    out = mask.copy()
    places = np.argwhere(mask)
    if not len(places):
        return out
    extent = np.maximum(places.max(0) - places.min(0) + 1, 2)
    total, goal = len(places), float(np.clip(rng.normal(*DICE), 0.45, 0.97))
    for _ in range(500):
        cut = out & ~_shape(mask.shape, places[rng.integers(total)], extent * rng.uniform(0.03, 0.14, mask.ndim), rng)
        left = np.count_nonzero(cut)
        if 2 * left / (left + total) < goal - 0.05:
            continue
        out = cut
        if 2 * left / (left + total) <= goal + 0.01:
            break
    return out


def _shape(
    shape: tuple[int, ...], centre: NDArray[np.int64], half: NDArray[np.float64], rng: np.random.Generator
) -> Mask:
    """A box or a ball, one as likely as the other, in an array of this shape."""
    grid = np.ogrid[tuple(slice(0, n) for n in shape)]
    offset = [abs(x - c) / max(h, 0.5) for x, c, h in zip(grid, centre, half, strict=True)]
    if rng.random() < 0.5:
        return np.asarray(np.sqrt(sum(o**2 for o in offset)) <= 1)
    return np.asarray(np.maximum.reduce(np.broadcast_arrays(*offset)) <= 1)
