"""The window of a rollout: what its last step may touch."""

from types import SimpleNamespace

import numpy as np
import torch

from rnca.tidy import Tidying
from rnca.window import Window


class Flips:
    """An engine whose every step flips the given voxels."""

    def __init__(self, *voxels: int) -> None:
        self.voxels = torch.tensor(voxels)

    def start(self, image: torch.Tensor, mask: torch.Tensor) -> None:
        """No state."""

    def step(self, cells: None, stochastic: bool) -> SimpleNamespace:
        """The same change whatever was before."""
        return SimpleNamespace(changed=self.voxels)


def test_a_hole_that_the_last_step_fills_keeps_the_other_labels_in_it() -> None:
    before = np.ones((5, 6), bool)
    before[2, 1:5] = False
    free = np.ones_like(before)
    free[2, 4] = False  # another label's
    box = (slice(0, 5), slice(0, 6))
    window = Window(box, np.zeros((1, 5, 6), np.float32), before, free, None, None, None, "cpu", Tidying(3))
    steps = list(window.unroll(Flips(2 * 6 + 1), 1))
    np.testing.assert_array_equal(window.now, free)
    assert steps == [(3, (slice(2, 3), slice(1, 4)))]
