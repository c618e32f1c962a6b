"""Image + mask + model -> a stream of steps: the one way to run the automaton.

The command line, the server and the benchmarks all come through here. What is computed: the mask (of one
label, in a region) is cropped with the reach of the steps around it, brought to the model's spacing where it
asks for that, or to a coarser one where the object is larger than the model knows, cut into slices for a 2-D
model on a volume, and unrolled by the engine. What is written: only voxels of the region that are background or
of that label; everything else stays as it is.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from .coarse import object_spacing
from .errors import InputError
from .geometry import (
    Box,
    Grid,
    Image,
    as_array,
    bounding_box,
    check_roi,
    check_same_grid,
    grow_box,
    image_channels,
    parse_roi,
    regrid_box,
    slice_axis,
)
from .intensity import NetworkInput
from .labels import check_mask, pick_labels, soft_start
from .window import Low, Mask, Window
from .zoo import Metadata, as_model

Reason: TypeAlias = Literal["steps", "converged", "empty"]

EARLIEST = 16
"""Updates before which a mask does not count as converged: the state may move for some before the mask shows it."""


@dataclass
class Step:
    """The mask after some updates.

    Attributes:
        index: updates done.
        steps: updates planned.
        label: the label that is being repaired.
        changed: voxels of the mask that this update changed; the last one also tidies (`rnca.tidy`).
        bbox: the box (array order) around them, None if there are none.
        seconds: since the rollout began, preparation included.
        reason: why this step is the last of its label; None if it is not.
    """

    index: int
    steps: int
    label: float
    changed: int
    bbox: Box | None
    seconds: float
    reason: Reason | None
    _write: Callable[[], Image] = field(repr=False)

    @cached_property
    def mask(self) -> Image:
        """The whole mask, as it was given: array or SimpleITK image; same grid, pixel type, other labels."""
        return self._write()


def refine(image: Image, mask: Image, model: Any, steps: int | None = None, **options: Any) -> Step:
    """Repair a mask: the last step of `stream`, whose arguments it takes. `refine(…).mask` is the result."""
    last = None
    for last in stream(image, mask, model, steps, **options):  # noqa: B007
        pass
    assert last is not None
    return last


def stream(
    image: Image,
    mask: Image,
    model: Any,
    steps: int | None = None,
    *,
    label: int | Literal["all"] | None = None,
    roi: str | Sequence[slice] | None = None,
    soft: bool = False,
    device: str = "auto",
    patience: int = 0,
    bfloat16: bool | None = None,
) -> Iterator[Step]:
    """Repair a mask step by step.

    Args:
        image: SimpleITK image or array (*S), (C, *S) or (*S, C) with two or three spatial axes.
        mask: on the image's grid. One non-zero value is the label; with several, `label` says which.
        model: a shipped name ("general": `general-2d` or `general-3d`), a path, a loaded model, or a network.
        steps: updates; default the model's.
        label: a value of the mask, or "all": each in turn, none overwriting another.
        roi: only voxels in this box change: "i0:i1,j0:j1,k0:k1" (x, y, z order), or slices in array order. The result
            inside is the same as without it, but that the model's tolerance, bulge ratio and look size hold for whole
            masks only: a change that is slight beside the mask, sticks out of it, or looks like background is made
            where a region asks for it. Whether a mask is compact and what grew beside a bay is judged as far as
            the repair looks.
        soft: the mask holds starting values in 0..1 (8-bit: value/255); the result is 0/255 for 8-bit, else 0/1.
        device: "auto", "cpu" or "cuda".
        patience: end early when the mask has not changed for this many steps, but not before step 16 (`EARLIEST`): the
            automaton takes some steps until what it prepares is seen in the mask. 0 never.
        bfloat16: matrix products in bfloat16: faster, not bit-identical; default as the model was compiled.

    Yields:
        A `Step` after each update; with "all", the labels one after the other. The last one undoes small changes that
        mend nothing, up to the model's sizes; masks of the steps before still have them. A mask without the label's
        voxels yields one step with reason "empty": the automaton grows from what is there, and nothing is.

    Raises:
        InputError: at the call, not at the first step; see the sentences below.
    """
    started = time.perf_counter()
    if patience < 0:
        raise InputError(f"patience is {patience}: give 0 (never end early) or more.")
    return _steps(_Job(image, mask, model, steps, label, roi, soft, device), patience, bfloat16, started)


def _steps(job: "_Job", patience: int, bfloat16: bool | None, started: float) -> Iterator[Step]:
    """The steps of `stream`."""
    for value in job.labels:
        window = job.window(value)
        step = Step(0, job.steps, value, 0, None, _since(started), None, partial(job.write_start, job.values, value))
        if window is None:
            step.reason = "empty"
        elif job.steps == 0:
            step.reason = "steps"
        if window is None or step.reason:
            yield step
            continue
        quiet = 0
        for index, (changed, box) in enumerate(
            window.unroll(job.model.module, job.steps, bfloat16, once=True), start=1
        ):
            quiet = 0 if changed else quiet + 1
            reason: Reason | None = "steps" if index == job.steps else None
            if patience and quiet >= patience and index >= EARLIEST and not reason:
                reason = "converged"
                changed, box = window.settle()
            write = partial(job.write, job.values, value, window, window.now.copy())
            step = Step(index, job.steps, value, changed, box, _since(started), reason, write)
            yield step
            if reason:
                break
        job.values = job.write_array(job.values, value, window, window.now)


def confidence(
    image: Image,
    mask: Image,
    model: Any,
    steps: int | None = None,
    *,
    label: int | Literal["all"] | None = None,
    roi: str | Sequence[slice] | None = None,
    soft: bool = False,
    device: str = "auto",
    rollouts: int = 8,
    seed: int = 0,
) -> NDArray[np.float32]:
    """The share of stochastic rollouts that agree with `refine` about a voxel, (*S) in array order, 1 where all do.

    Stochastic rollouts skip updates at random, as training does. With label "all", the least of the labels' shares.
    """
    if rollouts < 1:
        raise InputError(f"rollouts is {rollouts}: give 1 or more.")
    job = _Job(image, mask, model, steps, label, roi, soft, device)
    agreement = np.ones(job.grid.shape, np.float32)
    for value in job.labels:
        window = job.window(value)
        if window is None:
            continue
        result = window.final(job.model.module, job.steps)
        agree = np.zeros(result.shape, np.float32)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for _ in range(rollouts):
                agree += window.final(job.model.module, job.steps, stochastic=True) == result
        agreement[window.box] = np.minimum(agreement[window.box], agree / rollouts)
        job.values = job.write_array(job.values, value, window, result)
    return agreement


class _Job:
    """One call of `stream`: the checked inputs, and the mask as it stands while labels are repaired in turn."""

    def __init__(
        self,
        image: Image,
        mask: Image,
        model: Any,
        steps: int | None,
        label: int | Literal["all"] | None,
        roi: str | Sequence[slice] | None,
        soft: bool,
        device: str,
    ) -> None:
        self.device = pick_device(device)
        self.grid, self.values, self.soft = Grid.of(mask), np.array(as_array(mask)), soft
        self.model = as_model(model, self.device, self.grid.shape)
        meta = self.model.metadata
        self.steps = meta.steps if steps is None else steps
        if self.steps < 0:
            raise InputError(f"steps is {steps}: give 0 or more.")
        check_mask(self.values)
        axis = slices_across(self.grid, meta)
        check_same_grid(image, mask)
        self.region = None
        if roi is not None:
            self.region = check_roi(parse_roi(roi) if isinstance(roi, str) else roi, self.values.shape)
        self.labels = pick_labels(self.values, label, soft)
        channels = image_channels(image, self.values.shape)
        self.pixels = NetworkInput(channels, meta.image_channels, meta.intensity, meta.colour, axis)

    def window(self, value: float) -> Window | None:
        """Where this label is repaired; None if it has no voxel there."""
        return open_window(
            self.values,
            value,
            self.grid,
            self.model.metadata,
            self.pixels,
            self.steps,
            region=self.region,
            soft=self.soft,
            device=self.device,
        )

    def write(self, values: NDArray[Any], value: float, window: Window, now: Mask) -> Image:
        """The whole mask with this label as it now is in its window, in the form it was given.

        `values` is the mask as it was before this label: a step may be asked for its mask after the labels that follow.
        """
        return self.grid.wrap(self.write_array(values, value, window, now))

    def write_start(self, values: NDArray[Any], value: float) -> Image:
        """The whole mask where no step is made; a soft one becomes 0 and 1 (255) in the region, as after steps."""
        out = values.copy()
        if self.soft:
            out[self.region or ...] = (soft_start(out[self.region or ...]) > 0.5) * value
        return self.grid.wrap(out)

    def write_array(self, values: NDArray[Any], value: float, window: Window, now: Mask) -> NDArray[Any]:
        """As `write`, (*S) in array order."""
        out = values.copy()
        if self.soft:  # every voxel of the region becomes one or the other
            out[self.region or ...] = 0
        inside = out[window.box]
        inside[window.writable & ~now & (inside == value)] = 0
        inside[window.writable & now] = value
        return out


def slices_across(grid: Grid, metadata: Metadata) -> int | None:
    """The axis along which a 2-D model goes from slice to slice of a volume; None where no slices are taken.

    Raises:
        InputError: a model for volumes and a mask in 2-D.
    """
    if metadata.dims > grid.dims:
        raise InputError(f"model {metadata.name} is for volumes and the mask is {grid.dims}-D: choose a 2-D model.")
    return slice_axis(grid.spacing, grid.shape, metadata.slice_axis) if grid.dims > metadata.dims else None


def open_window(
    values: NDArray[Any],
    value: float,
    grid: Grid,
    metadata: Metadata,
    pixels: NetworkInput,
    steps: int,
    *,
    region: Box | None = None,
    soft: bool = False,
    device: str = "cpu",
) -> Window | None:
    """The part of a volume that the repair of one label can reach, laid out for the engine.

    Args:
        values: the whole mask (*S) with all its labels, or soft.
        value: the label.
        grid: the mask's.
        pixels: the whole image as this model takes it.
        region: only voxels in this box change; None for everywhere.

    Returns:
        The window; None if there is no voxel of the label that could reach the region.
    """
    shape, axis = grid.shape, slices_across(grid, metadata)
    start = soft_start(values) if soft else values == value
    wanted = _model_spacing(start, grid.spacing, metadata, axis)
    low_shape = tuple(max(1, round(n * s / w)) for n, s, w in zip(shape, grid.spacing, wanted, strict=True))
    resampled = max(abs(w / s - 1) for w, s in zip(wanted, grid.spacing, strict=True)) > 0.01
    factors = [n / m if resampled else 1.0 for n, m in zip(shape, low_shape, strict=True)]
    extra = 4 if resampled else 0  # model voxels that interpolation there and back looks at

    def margin(cells: int) -> list[int]:
        return [0 if a == axis else math.ceil((cells + extra) * f) for a, f in enumerate(factors)]

    domain: Box = tuple(slice(0, n) for n in shape)
    if region is not None:
        # a step looks one cell far, and the alive rule at what its neighbours looked at: two cells a step; and an
        # object is judged whole
        far = max(shape) if metadata.object_betti else 2 * steps + 2 + metadata.tidying.reach
        domain = grow_box(region, margin(far), shape)
    inner = bounding_box(start[domain] > metadata.alive_threshold if soft else start[domain])
    if inner is None:
        return None
    rules = metadata.tidying
    if region is not None:
        # who names a region says that something is wrong there, however small, thin or unlike the rest
        rules = replace(rules, tolerance=0.0, bulge_ratio=0.0, look_size=0)
    around = grow_box(inner, margin(steps + 2 + rules.sight), tuple(d.stop - d.start for d in domain))
    box = tuple(slice(d.start + a.start, d.start + a.stop) for d, a in zip(domain, around, strict=True))
    low = None
    if resampled:
        low_box, box = regrid_box(box, shape, low_shape)
        low = Low(shape, low_shape, box, low_box)
        pixels = pixels.on(low_shape)
    start = start[box].copy()  # so that the whole volume's can go
    free = np.ones(start.shape, bool) if soft else (values[box] == 0) | start
    inside = None if region is None else _inside(region, box)
    seen, model_box = pixels.channels[(slice(None), *box)], box
    if low is not None:
        seen, model_box = np.stack([low.sample(channel) for channel in seen]), low.low_box
    return Window(box, pixels.part(model_box), start, free, inside, axis, low, device, rules, seen)


def _model_spacing(
    start: NDArray[Any], spacing: tuple[float, ...], metadata: Metadata, axis: int | None
) -> tuple[float, ...]:
    """The spacing of the grid that a mask (*S), bool or soft, is repaired on, array order."""
    if metadata.resample and metadata.spacing is not None:
        model_axes = iter(metadata.spacing)
        return tuple(s if a == axis else next(model_axes) for a, s in enumerate(spacing))
    return object_spacing(start > 0.5, spacing, metadata.object_size, axis) if metadata.object_size else spacing


def _inside(region: Box, box: Box) -> Mask:
    """(*box) bool: voxels of the box that lie in the region."""
    out = np.zeros([b.stop - b.start for b in box], bool)
    out[tuple(slice(max(r.start - b.start, 0), max(r.stop - b.start, 0)) for r, b in zip(region, box, strict=True))] = (
        True
    )
    return out


def _since(started: float) -> float:
    return time.perf_counter() - started


def pick_device(device: str) -> str:
    """ "auto" is the GPU where there is one."""
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device is {device!r}: give auto, cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is cuda, but torch sees no CUDA GPU here: use cpu or auto.")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device
