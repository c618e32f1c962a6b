"""Whether a change mends a mask; what changes do to drawings is in test_tidy.py."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from drawings import Mask, masks, picture
from rnca.changes import each_change
from rnca.mending import only_mending
from rnca.topology import betti_numbers


def test_a_loop_is_closed_only_where_it_may_be_a_ring() -> None:
    ring, closed = picture("#####\n#...#\n#...+\n#...#\n#####")
    assert (only_mending(ring, closed) == closed).all()
    assert (only_mending(ring, closed, keep_holes=True) == ring).all()
    in_volume = [np.pad(mask[None], ((1, 1), (0, 0), (0, 0))) for mask in (ring, closed)]
    assert (only_mending(*in_volume) == in_volume[0]).all()


@given(masks, st.booleans())
def test_only_what_mends_is_kept(pair: list[Mask], keep_holes: bool) -> None:
    before, after = pair
    out = only_mending(before, after, keep_holes=keep_holes)
    assert ((out == before) | (out == after)).all()
    for around, piece, _ in each_change(before, out):
        old, new = betti_numbers(before[around]), betti_numbers(before[around] ^ piece)
        assert new[0] < old[0] if keep_holes else any(n < o for o, n in zip(old, new, strict=True))
    assert (only_mending(before, before) == before).all()
    stack = [np.stack([mask, mask]) for mask in pair] if before.ndim == 2 else None
    if stack:
        expected = only_mending(before, after, keep_holes=keep_holes)
        assert (only_mending(*stack, axis=0, keep_holes=keep_holes) == np.stack([expected] * 2)).all()
