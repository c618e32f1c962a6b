"""Scores of a repair: on the whole mask as `rnca.metrics.evaluate` does, and on the paper's 64×64 patches."""

from collections.abc import Iterator
from math import nan

import numpy as np
from numpy.typing import NDArray

from rnca.metrics import HARM_DICE, HARM_LOSS, TILE, betti_errors, cldice, dice

Mask = NDArray[np.bool_]

STRIDE = TILE * 3 // 4
"""The paper's patches overlap by a quarter."""


def patch_boxes(start: Mask) -> Iterator[tuple[slice, slice]]:
    """The 64×64 patches of an image whose mask to repair is not empty: the paper leaves the others out."""
    lows = [sorted({*range(0, max(n - TILE, 0), STRIDE), max(n - TILE, 0)}) for n in start.shape]
    for top in lows[0]:
        for left in lows[1]:
            box = slice(top, top + TILE), slice(left, left + TILE)
            if start[box].any():
                yield box


def patch_scores(mask: Mask, truth: Mask, start: Mask) -> dict[str, float]:
    """Means over the patches of an image, the patches chosen by the mask before any repair.

    Returns:
        "patch_dice", "patch_cldice", "patch_betti0_error", "patch_betti1_error"; "patch_repaired", the share of
        patches with wrong topology that are right now; "patch_harmed", the share of patches with right topology and
        Dice above 0.97 that lost one or the other (as in `evaluate`), NaN if there are none; "patches".
    """
    rows, repaired, harmed = [], [], []
    for box in patch_boxes(start):
        pair, before = (mask[box], truth[box]), (start[box], truth[box])
        errors, overlap = betti_errors(*pair), dice(*pair)
        rows.append((overlap, cldice(*pair), *errors))
        if any(betti_errors(*before)):
            repaired.append(not any(errors))
        elif (was := dice(*before)) > HARM_DICE:
            harmed.append(any(errors) or was - overlap > HARM_LOSS)
    names = ("patch_dice", "patch_cldice", "patch_betti0_error", "patch_betti1_error")
    means = np.mean(rows, axis=0) if rows else np.full(4, nan)
    return {
        **{name: float(mean) for name, mean in zip(names, means, strict=True)},
        "patch_repaired": float(np.mean(repaired)) if repaired else nan,
        "patch_harmed": float(np.mean(harmed)) if harmed else nan,
        "patches": float(len(rows)),
    }
