"""What a mask holds: its labels, or the starting values of a soft one."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import InputError


def check_mask(values: NDArray[Any]) -> None:
    """Refuse an array that is not a 2-D or 3-D mask."""
    if values.ndim not in (2, 3):
        raise InputError(f"the mask has {values.ndim} axes: masks are 2-D or 3-D.")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError("the mask holds NaN or infinite values: a mask is 0 where there is nothing.")
    if values.dtype.kind not in "biuf":
        raise InputError(f"the mask's values are of type {values.dtype}: expected integers, floats or booleans.")


def soft_start(values: NDArray[Any]) -> NDArray[np.float32]:
    """Starting values in 0..1 from a grey (8-bit) or float mask."""
    start = values.astype(np.float32)
    start /= 255 if values.dtype == np.uint8 else 1
    if start.min(initial=0) < 0 or start.max(initial=0) > 1:
        raise InputError(
            f"a soft mask holds 0..1 (or 0..255 in 8 bits), this one {start.min():g} to {start.max():g}: rescale it."
        )
    return start


def pick_labels(values: NDArray[Any], label: int | Literal["all"] | None, soft: bool) -> list[float]:
    """The labels to repair, in turn: as asked for, or the only one there is; an empty mask counts as label 1."""
    if soft:
        if label is not None:
            raise InputError("a soft mask has no labels: leave out either soft or label.")
        return [255 if values.dtype == np.uint8 else 1]
    if label == 0:
        raise InputError("label 0 is the background: give the value of a segment, or all.")
    present = present_labels(values)
    if label == "all":
        return present or [1]
    if label is None:
        if len(present) > 1:
            names = ", ".join(f"{v:g}" for v in present[:12])
            raise InputError(f"the mask holds {len(present)} labels ({names}): say which one to repair, or all.")
        return present or [1]
    if present and label not in present:
        raise InputError(f"label {label} is not in the mask: it holds {', '.join(f'{v:g}' for v in present[:12])}.")
    return [label]


def present_labels(values: NDArray[Any]) -> list[float]:
    """The non-zero values of a mask, ascending."""
    if values.dtype == bool:
        return [1] if values.any() else []
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:  # much faster than sorting a volume
        found = np.zeros(np.iinfo(values.dtype).max + 1, bool)
        flat = values.ravel()
        for start in range(0, flat.size, 1 << 20):  # bincount widens what it is given to 64 bits
            counts = np.bincount(flat[start : start + (1 << 20)])
            found[: len(counts)] |= counts > 0
        return [int(v) for v in np.flatnonzero(found) if v]
    return [v.item() for v in np.unique(values[values != 0])]
