"""One repair from files to files, with its record: what `rnca refine` and `rnca batch` do."""

import csv
import io
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from . import DEFAULT_MODEL, __version__
from .defects import damage
from .errors import InputError
from .files import (
    check_output,
    list_images,
    read_image,
    read_mask,
    sha256,
    stem_of,
    suffix_of,
    write_image,
    write_json,
    write_text,
)
from .geometry import Grid, as_array, check_same_grid, image_channels, slice_axis
from .labels import check_mask, pick_labels, present_labels
from .metrics import evaluate, summarise
from .pictures import Picture, busiest_slice, caption, enlarge, grey, overlay, write_gif
from .rollout import Step, confidence, pick_device, stream
from .topology import changes, find_defects, summary
from .zoo import Model, as_model

NOTICE = "For research use only; not a medical device."


@dataclass(frozen=True)
class Options:
    """What to repair and how; see `rnca.stream`. File options are written besides the mask."""

    model: str = DEFAULT_MODEL
    steps: int | None = None
    label: int | Literal["all"] | None = None
    soft: bool = False
    roi: str | None = None
    device: str = "auto"
    patience: int = 0
    bfloat16: bool = False
    confidence: Path | None = None
    animate: Path | None = None
    report: Path | None = None

    def recorded(self) -> dict[str, Any]:
        """Those that decide the result, besides the model: what a run record holds."""
        return {k: getattr(self, k) for k in ("steps", "label", "roi", "soft", "device", "patience", "bfloat16")}


def refine_file(
    image_path: Path,
    mask_path: Path,
    out: Path,
    options: Options,
    *,
    model: Model | None = None,
    on_step: Callable[[Step], None] = lambda _: None,
) -> dict[str, Any]:
    """Read, repair, write; returns the run record, which `options.report` also gets.

    Args:
        model: an already loaded model, instead of `options.model`.
        on_step: told every step, for progress bars.

    Raises:
        InputError: anything wrong with inputs or options; nothing is written then.
    """
    clock = Clock()
    for path in filter(None, (out, options.confidence)):
        check_output(path)
    check_outputs([out, options.confidence, options.animate, options.report], image_path, mask_path)
    if options.animate and options.animate.suffix.lower() != ".gif":
        raise InputError(f"{options.animate} is to be an animation: end its name in .gif.")
    image, mask = read_image(image_path), read_mask(mask_path)
    check_same_grid(image, mask)
    clock.lap("read")
    chosen = model or as_model(options.model, pick_device(options.device), Grid.of(mask).shape)
    clock.lap("load_model")

    run = {k: getattr(options, k) for k in ("steps", "label", "roi", "soft", "device")}
    frames: list[NDArray[np.uint8]] = []
    labels: list[dict[str, Any]] = []
    step = None
    for step in stream(image, mask, chosen, **run, patience=options.patience, bfloat16=options.bfloat16):
        on_step(step)
        if step.index == 1:
            clock.add("first_step", step.seconds)
        if options.animate:
            frames.append(np.packbits(as_array(step.mask) != 0))
        if step.reason:
            labels.append({"label": step.label, "steps": step.index, "reason": step.reason, "seconds": step.seconds})
    assert step is not None
    clock.lap("repair")
    before, after = as_array(mask), as_array(step.mask)
    for row in labels:
        row |= compare(before, after, row["label"], options.soft)
    clock.lap("topology")

    if options.confidence:
        agreement = confidence(image, mask, chosen, **run)
        write_image(as_confidence(agreement, Grid.of(mask), options.confidence), options.confidence)
        clock.lap("confidence")
    if options.animate:
        write_gif(animation(image, mask, frames, chosen.metadata.slice_axis, options.soft), options.animate)
    write_image(step.mask, out)
    clock.lap("write")
    record = {
        "rnca": __version__,
        "notice": NOTICE,
        "inputs": {"image": _file(image_path), "mask": _file(mask_path)},
        "output": _file(out),
        "model": {"name": chosen.metadata.name, "version": chosen.metadata.version, "sha256": chosen.sha256},
        "options": options.recorded(),
        "device": pick_device(options.device),
        "threads": torch.get_num_threads(),
        "labels": labels,
        "changed": labels[0]["changed"] if options.soft else int(np.count_nonzero(before != after)),
        "seconds": clock.laps,
    }
    if options.report:
        write_json(options.report, record)
    return record


def check_outputs(outputs: Iterable[Path | None], *inputs: Path | None) -> None:
    """Raise `InputError` if a file to write has no folder, is an input or in a folder of inputs, or comes twice."""
    paths = [path for path in outputs if path]
    for path in paths:
        if not path.parent.is_dir():
            raise InputError(f"the folder {path.parent} does not exist: create it first.")
        for given in filter(None, inputs):
            inside = given.is_dir() and path.exists() and path.resolve().parent == given.resolve()
            if inside or path.resolve() == given.resolve():
                raise InputError(f"{path} is one of the inputs, which are never overwritten: choose another output.")
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("two outputs have the same name: give each its own.")


def compare(before: NDArray[Any], after: NDArray[Any], label: float, soft: bool = False) -> dict[str, Any]:
    """Topology before and after, and what changed, of one label."""
    if soft:
        old, new = foreground(before, soft=True), after != 0
    else:
        old, new = before == label, after == label
    return {"topology": {"before": summary(old), "after": summary(new)}, **changes(old, new)}


def as_confidence(agreement: NDArray[np.float32], grid: Grid, path: Path) -> Any:
    """A confidence map for a file: 0..1 as float, or 0..255 for PNG, which holds no floats."""
    values = (agreement * 255).round().astype(np.uint8) if suffix_of(path) == ".png" else agreement
    return grid.wrap(values)


def animation(
    image: Any,
    mask: Any,
    frames: list[NDArray[np.uint8]],
    axis_rule: str,
    soft: bool,
    numbers: Sequence[int] | None = None,
) -> list[Picture]:
    """Frames of a repair, numbered, the given mask first; of a volume, the slice in which most changes.

    Args:
        frames: the foreground after each step, as packed bits.
        numbers: of the steps, where they are not 1, 2, …
    """
    before = foreground(as_array(mask), soft=soft)
    masks = [np.unpackbits(f, count=before.size).reshape(before.shape).view(bool) for f in frames]
    picture, flat = shown_slice(image, mask, before, masks[-1], axis_rule)
    shown = (enlarge(overlay(picture, flat(before), flat(now)), 384) for now in (before, *masks))
    told = (0, *(numbers or range(1, len(frames) + 1)))
    return [caption(frame, f"step {n}") for n, frame in zip(told, shown, strict=True)]


def foreground(
    values: NDArray[Any], label: int | Literal["all"] | None = None, soft: bool = False
) -> NDArray[np.bool_]:
    """What a mask, or one label of it, covers; of a soft mask, what is above a half."""
    if soft:
        return values > (127.5 if values.dtype == np.uint8 else 0.5)
    return values == label if isinstance(label, int) else values != 0


def shown_slice(
    image: Any, mask: Any, before: NDArray[np.bool_], after: NDArray[np.bool_], axis_rule: str
) -> tuple[Picture, Callable[[NDArray[np.bool_]], NDArray[np.bool_]]]:
    """The image as a picture to show a repair on, and what takes the same part out of a mask.

    A 2-D image is shown whole, of a volume the slice in which most changes.
    """
    channels = image_channels(image, before.shape)
    if before.ndim == 2:
        return grey(np.moveaxis(channels, 0, -1)), lambda whole: whole
    grid = Grid.of(mask)
    axis = slice_axis(grid.spacing, grid.shape, axis_rule)
    place = busiest_slice(before, after, axis)
    return grey(np.moveaxis(channels.take(place, axis + 1), 0, -1)), lambda whole: whole.take(place, axis)


def _file(path: Path) -> dict[str, str]:
    return {"path": str(path), "sha256": sha256(path)}


class Clock:
    """Seconds a phase; `lap` ends the current one."""

    def __init__(self) -> None:
        self.started = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.add(name, now - self.last)
        self.last = now
        self.laps["total"] = round(now - self.started, 4)

    def add(self, name: str, seconds: float) -> None:
        self.laps[name] = round(seconds, 4)


def check_file(mask_path: Path, image_path: Path | None, label: int | Literal["all"] | None) -> dict[str, Any]:
    """Topology and defects of each label of a mask file (or of one), JSON-ready."""
    mask = read_mask(mask_path)
    if image_path:
        check_same_grid(read_image(image_path), mask)
    values = as_array(mask)
    check_mask(values)
    wanted = present_labels(values) if label in (None, "all") else pick_labels(values, label, False)
    labels = [
        {
            "label": value,
            "topology": summary(values == value),
            "defects": [defect.as_dict() for defect in find_defects(values == value)],
        }
        for value in wanted
    ]
    return {
        "rnca": __version__,
        "inputs": {"mask": _file(mask_path)},
        "axes": "array order (k, j, i)",
        "labels": labels,
    }


def damage_file(
    mask_path: Path, out: Path, kind: str, severity: float, seed: int, label: int | None, report: Path | None = None
) -> dict[str, Any]:
    """Damage one label of a mask file; other labels keep their voxels. Returns the record, which `report` also gets."""
    check_output(out)
    check_outputs([out, report], mask_path)
    mask = read_mask(mask_path)
    values = as_array(mask)
    check_mask(values)
    (value,) = pick_labels(values, label, False)
    before = values == value
    after = damage(before, kind, severity, seed)
    after &= (values == 0) | before
    result = values.copy()
    result[before] = 0
    result[after] = value
    write_image(Grid.of(mask).wrap(result), out)
    record = {
        "rnca": __version__,
        "inputs": {"mask": _file(mask_path)},
        "output": _file(out),
        "options": {"kind": kind, "severity": severity, "seed": seed},
        "labels": [{"label": value, **compare(values, result, value)}],
    }
    if report:
        write_json(report, record)
    return record


def evaluate_files(
    pred: Path, truth: Path, before: Path | None, label: int | None
) -> tuple[list[dict[str, Any]], dict[str, tuple[float, float, int]]]:
    """Metrics a case and their mean, standard deviation and count; folders are matched by name.

    Distances are in the masks' spacing (mm), those of PNG and TIFF in pixels.
    """
    rows: list[dict[str, Any]] = []
    for name, path in _cases(pred).items():
        others = {"truth": truth, **({"before": before} if before else {})}
        files = {role: _partner(other, name, pred) for role, other in others.items()}
        mask = read_mask(path)
        masks = {"pred": mask, **{role: read_mask(file) for role, file in files.items()}}
        for other in masks.values():
            check_same_grid(mask, other)
        arrays = {role: as_array(m) == label if label is not None else as_array(m) != 0 for role, m in masks.items()}
        rows.append({"case": name, **evaluate(spacing=Grid.of(mask).spacing, **arrays)})
    return rows, summarise([{k: v for k, v in row.items() if k != "case"} for row in rows])


def _cases(path: Path) -> dict[str, Path]:
    found = list_images(path) if path.is_dir() else {stem_of(path): path}
    if not found:
        raise InputError(f"{path} holds no masks: expected files such as NAME.png or NAME.nii.gz.")
    return found


def _partner(path: Path, name: str, beside: Path) -> Path:
    """The file of this case: `path` itself where single files were given."""
    if not beside.is_dir() and not path.is_dir():
        return path
    found = list_images(path)
    if name not in found:
        raise InputError(f"{path} has no mask named {name}, which {beside} has: the names must match.")
    return found[name]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows with the columns of all of them, whole or not at all."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
