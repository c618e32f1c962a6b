"""One refinement: mask and image in, steps out. The live stream and the infer tasks both come through here.

The window is the one that `rnca.stream` works on, so the result is the same; what is different is that the image comes
from the cache with its statistics known, that no volumes are copied for each step, that two threads share the slices,
and that they compute the next step while the last one is looked at.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from rnca.geometry import Box, Grid, as_array, bounding_box, box_around, box_inside, check_roi, check_same_grid
from rnca.labels import check_mask, pick_labels
from rnca.rollout import open_window, pick_device, slices_across
from rnca.topology import summary
from rnca.window import Window
from rnca.zoo import Model

from .ahead import rollouts
from .images import Picture
from .params import Params
from .refusals import Refusal

Mask = NDArray[np.bool_]
CORES = os.cpu_count() or 1
EMPTY = "the mask is empty there, and the automaton only grows from what is there: draw something first."


@dataclass
class Repair:
    """What is needed to repair one label.

    Attributes:
        values: the whole mask (*S), every label, in its own type.
        box: what can change, array order; None where nothing can.
        start: the label inside the box before the repair.
        now: and as it is now; `run` changes it.
    """

    values: NDArray[Any]
    grid: Grid
    label: int
    steps: int
    box: Box | None
    start: Mask
    _window: Window | None = None
    _module: Any = None
    now: Mask = field(init=False)

    def __post_init__(self) -> None:
        self.now = self.start.copy()

    def run(self) -> Iterator[Box | None]:
        """Make the steps; each changes `now` and yields where: a box of `now`, None for nowhere. To be called once."""
        window, self._window = self._window, None
        if window is None or self.steps == 0:
            return
        parts = window.halves() if CORES > 1 and window.start.device.type == "cpu" else [window]
        if len(parts) > 1:
            window.image = None
        corner = window.box
        # two threads of one core each are quicker than one of two, and do not wait for each other within a step
        with rollouts(parts, self._module, self.steps) as halves:
            for _ in range(self.steps):
                changed: Box | None = None
                for change in [half.next() for half in halves]:
                    if change is not None:
                        box = box_inside(change[0], corner)
                        self.now[box] = change[1]
                        changed = box_around(changed, box)
                yield changed

    def write(self, now: Mask) -> NDArray[Any]:
        """The whole mask with this label as it now is, (*S), a copy."""
        out = self.values.copy()
        if self.box is not None:
            inside = out[self.box]
            inside[self.start & ~now] = 0
            inside[now] = self.label
        return out

    def topology(self, now: Mask) -> dict[str, Any]:
        """Topology of the label, inside the box: outside of it there is nothing of it, or nothing that changes."""
        return summary(now)


def read_labels(mask: sitk.Image, picture: Picture, params: Params) -> tuple[Grid, NDArray[Any], list[int]]:
    """Check a mask against its image; its grid, values and the labels to repair."""
    values = np.asarray(as_array(mask))
    check_mask(values)
    check_same_grid(picture.image, mask)
    if values.dtype.kind == "f":
        if not (values == np.rint(values)).all():
            raise Refusal(400, "the mask holds fractions: send a label map of whole numbers.")
        values = values.astype(np.int32)
    inner = bounding_box(values != 0)
    found = values[inner] if inner is not None else values[:0]
    labels = pick_labels(found, params.label if params.label != "" else None, soft=False)  # type: ignore[arg-type]
    return Grid.of(mask), values, [int(label) for label in labels]


def prepare(grid: Grid, values: NDArray[Any], label: int, picture: Picture, model: Model, params: Params) -> Repair:
    """Cut the part that this repair can reach out of the mask and the image."""
    meta = model.metadata
    steps = meta.steps if params.steps is None else params.steps
    region = region_of(params, grid.shape)
    device = pick_device(params.device)
    pixels = picture.as_input(meta, slices_across(grid, meta))
    window = open_window(values, label, grid, meta, pixels, steps, region=region, device=device)
    if window is None:
        return Repair(values, grid, label, steps, None, np.zeros([0] * grid.dims, bool))
    if not window.writable.any():  # the region is out of the mask's reach: nothing changes
        steps = 0
    return Repair(values, grid, label, steps, window.box, window.before, window, model.to(device).module)


def refine_all(
    mask: sitk.Image, picture: Picture, model: Model, params: Params
) -> tuple[NDArray[Any], Grid, list[dict[str, Any]]]:
    """Repair every label that was asked for, in turn; the new values, their grid, and a report for each label."""
    grid, values, labels = read_labels(mask, picture, params)
    reports = []
    for label in labels:
        started = time.perf_counter()
        repair = prepare(grid, values, label, picture, model, params)
        if repair.box is None:
            reports.append({"label": label, "reason": "empty", "sentence": EMPTY, "steps": 0, "changed": 0})
            continue
        done = sum(1 for _ in repair.run())
        now = repair.now
        values = repair.write(now)
        reports.append(
            {
                "label": label,
                "reason": "steps",
                "steps": done,
                "changed": int(np.count_nonzero(now != repair.start)),
                "seconds": round(time.perf_counter() - started, 4),
                "topology": {"before": repair.topology(repair.start), "after": repair.topology(now)},
            }
        )
    return values, grid, reports


def region_of(params: Params, shape: tuple[int, ...]) -> Box | None:
    """The box in which voxels may change, checked; None for everywhere."""
    return None if params.roi is None else check_roi(_clipped(params.roi, shape), shape)


def _clipped(roi: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """A box as clients draw it may reach beyond the image; what is inside counts. Of a 2-D mask the first two axes."""
    if len(roi) == 3 and len(shape) == 2:
        roi = roi[1:]
    if len(roi) != len(shape):
        return roi  # check_roi says what is wrong
    return tuple(
        slice(part.start or 0, n if part.stop is None else min(part.stop, n))
        for part, n in zip(roi, shape, strict=True)
    )
