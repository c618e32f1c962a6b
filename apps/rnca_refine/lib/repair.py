"""One refinement: mask and image in, steps out. The live stream and the infer tasks both come through here.

`rnca.stream` is given the part of the volume that the steps can reach, already normalised: whole volumes are neither
normalised nor copied for each request. The part is cut as `rnca.stream` itself cuts it, so the result is the same.
"""

import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from rnca import stream
from rnca.geometry import Box, Grid, as_array, bounding_box, check_roi, check_same_grid, grow_box, slice_axis
from rnca.labels import check_mask, pick_labels
from rnca.rollout import pick_device
from rnca.topology import summary
from rnca.zoo import Model

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
    """

    values: NDArray[Any]
    grid: Grid
    label: int
    steps: int
    box: Box | None
    start: Mask
    _image: Any
    _mask: Any
    _model: Model
    _roi: Box | None
    _device: str
    _slices: int | None = None

    def run(self) -> Iterator[Mask]:
        """The label inside the box after each step: bool, of the box's shape."""
        if self.box is None or self.steps == 0:
            return
        if self._slices is not None and self._roi is None and self._device == "cpu" and CORES > 1:
            yield from self._halves(self._slices)
            return
        yield from self._part(self._image, self._mask)

    def _part(self, image: Any, mask: Any) -> Iterator[Mask]:
        steps = stream(image, mask, self._model, self.steps, label=self.label, roi=self._roi, device=self._device)
        for step in steps:
            yield as_array(step.mask) == self.label

    def _halves(self, axis: int) -> Iterator[Mask]:
        """The same, two halves of the slices at a time: no slice knows of another one in a 2-D model.

        Two threads of one core each are quicker than one of two, and do not wait for each other within a step.
        """
        others = tuple(a for a in range(self.start.ndim) if a != axis)
        below = np.cumsum(self.start.sum(axis=others))
        cut = int(np.searchsorted(below, below[-1] / 2)) + 1
        if not 0 < below[cut - 1] < below[-1]:
            yield from self._part(self._image, self._mask)
            return
        ends = (slice(0, cut), slice(cut, None))
        places = [(slice(None),) * axis + (end,) for end in ends]
        parts = [self._part(self._image[(slice(None), *p)], np.ascontiguousarray(self._mask[p])) for p in places]
        with ThreadPoolExecutor(len(parts), thread_name_prefix="half") as pool:
            for _ in range(self.steps):
                yield np.concatenate(list(pool.map(next, parts)), axis)

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
    meta, shape = model.metadata, values.shape
    if meta.dims > len(shape):
        raise Refusal(400, f"model {meta.name} is for volumes and the mask is {len(shape)}-D: choose a 2-D model.")
    steps = meta.steps if params.steps is None else params.steps
    axis = slice_axis(grid.spacing, shape, meta.slice_axis) if len(shape) > meta.dims else None
    scale = [1.0] * len(shape)
    if meta.resample and meta.spacing is not None:
        wanted = iter(meta.spacing)
        scale = [1.0 if a == axis else next(wanted) / s for a, s in enumerate(grid.spacing)]

    def margin(cells: int) -> list[int]:
        return [0 if a == axis else math.ceil(cells * f) for a, f in enumerate(scale)]

    roi = None if params.roi is None else check_roi(_clipped(params.roi, shape), shape)
    domain = tuple(slice(0, n) for n in shape) if roi is None else grow_box(roi, margin(2 * steps + 2), shape)
    inner = bounding_box(values[domain] == label)
    if inner is None:
        return Repair(values, grid, label, steps, None, np.zeros([0] * len(shape), bool), None, None, model, None, "")
    around = grow_box(inner, margin(steps + 2), tuple(d.stop - d.start for d in domain))
    box = tuple(slice(d.start + a.start, d.start + a.stop) for d, a in zip(domain, around, strict=True))
    local = None
    if roi is not None:
        local = tuple(slice(max(r.start, b.start), min(r.stop, b.stop)) for r, b in zip(roi, box, strict=True))
        if any(part.start >= part.stop for part in local):  # the region is out of the mask's reach: nothing changes
            steps, local = 0, None
        else:
            local = tuple(slice(p.start - b.start, p.stop - b.start) for p, b in zip(local, box, strict=True))
    part = np.ascontiguousarray(values[box])
    pixels: Any = picture.as_input(meta, axis).part(box)
    mask: Any = part
    if meta.resample:
        mask = _with_spacing(sitk.GetImageFromArray(part), grid)
        pixels = _with_spacing(sitk.GetImageFromArray(np.moveaxis(pixels, 0, -1), isVector=True), grid)
    how = replace(meta, intensity={"kind": "none"}, slice_axis=meta.slice_axis if axis is None else "kji"[axis])
    device = pick_device(params.device)
    ready = Model(how, model.module, model.sha256)
    slices = None if meta.resample else axis
    return Repair(values, grid, label, steps, box, part == label, pixels, mask, ready, local, device, slices)


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
        now, done = repair.start, 0
        for done, now in enumerate(repair.run(), start=1):  # noqa: B007
            pass
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


def _with_spacing(image: sitk.Image, grid: Grid) -> sitk.Image:
    image.SetSpacing(grid.spacing[::-1])
    return image
