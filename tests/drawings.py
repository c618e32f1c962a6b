"""Masks before and after a repair, drawn or random."""

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def picture(text: str) -> tuple[Mask, Mask]:
    """Before and after of a drawing: # stays, + is added, - is removed."""
    rows = [line.strip() for line in text.strip().splitlines()]
    drawn = np.array([list(row) for row in rows])
    return np.isin(drawn, ["#", "-"]), np.isin(drawn, ["#", "+"])


masks = st.builds(
    lambda shape, seed, share: [np.random.default_rng(seed + n).random(shape) < share for n in (0, 1)],
    st.sampled_from([(9, 11), (16, 5), (6, 5, 7), (1, 8, 8)]),
    st.integers(0, 10_000),
    st.floats(0.1, 0.9),
)
