"""Damage of the fill benchmark (arXiv 2512.13397, Appendix B): rectangles and circles cut out, overlapping."""

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

DICE = (0.81, 0.12)
"""Mean and standard deviation of the Dice that is aimed at; cuts overshoot a little (the paper's: 0.798 ± 0.145)."""


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
        centre, half = places[rng.integers(total)], extent * rng.uniform(0.03, 0.14, mask.ndim)
        grid = np.ogrid[tuple(slice(0, n) for n in mask.shape)]
        offset = [abs(x - c) / max(h, 0.5) for x, c, h in zip(grid, centre, half, strict=True)]
        round_one = rng.random() < 0.5
        shape = (
            np.sqrt(sum(o**2 for o in offset)) <= 1
            if round_one
            else np.maximum.reduce(np.broadcast_arrays(*offset)) <= 1
        )
        cut = out & ~shape
        left = np.count_nonzero(cut)
        if 2 * left / (left + total) < goal - 0.05:
            continue
        out = cut
        if 2 * left / (left + total) <= goal + 0.01:
            break
    return out
