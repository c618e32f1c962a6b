"""Scores of a repair: on the whole mask as `rnca.metrics.evaluate` does, and on the paper's 64×64 patches."""

from collections.abc import Iterator, Sequence
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnca.metrics import HARM_DICE, HARM_LOSS, TILE, betti_errors, cldice, dice

Mask = NDArray[np.bool_]

STRIDE = TILE * 3 // 4
"""The paper's patches overlap by a quarter."""

COUNTS = ("patches", "broken", "repaired", "sound", "harmed")


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
        "patch_dice", "patch_cldice", "patch_betti0_error", "patch_betti1_error"; numbers of patches: "patches", those
        "broken" (wrong topology before) and of them "repaired" (right now), those "sound" (right topology and Dice
        above 0.97 before) and of them "harmed" (lost one or the other, as in `evaluate`).
    """
    rows, counts = [], dict.fromkeys(COUNTS, 0.0)
    for box in patch_boxes(start):
        pair, before = (mask[box], truth[box]), (start[box], truth[box])
        errors, overlap = betti_errors(*pair), dice(*pair)
        rows.append((overlap, cldice(*pair), *errors))
        counts["patches"] += 1
        if any(betti_errors(*before)):
            counts["broken"] += 1
            counts["repaired"] += not any(errors)
        elif (was := dice(*before)) > HARM_DICE:
            counts["sound"] += 1
            counts["harmed"] += any(errors) or was - overlap > HARM_LOSS
    names = ("patch_dice", "patch_cldice", "patch_betti0_error", "patch_betti1_error")
    means = np.mean(rows, axis=0) if rows else np.full(4, nan)
    return {**{name: float(mean) for name, mean in zip(names, means, strict=True)}, **counts}


def pool_patches(table: Sequence[dict[str, Any]]) -> None:
    """Add to rows aggregated over images, in place, the shares of all their patches, with what they are shares of."""
    for row in table:
        for name, share, whole in (("patch_repaired", "repaired", "broken"), ("patch_harmed", "harmed", "sound")):
            total = round(row[whole] * row[f"{whole}_n"])
            row |= {name: row[share] / row[whole] if total else nan, f"{name}_std": nan, f"{name}_n": total}
