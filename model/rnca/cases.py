"""What training and validation draw from: cases (image, label, known wrong masks) and starting states.

A folder of cases is laid out as `images/NAME`, `labels/NAME` and, where there are any, `states/NAME` or
`predictions/MODEL/NAME`: masks that something else left in need of repair, soft (8-bit: value/255) or binary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .coarse import object_spacing
from .defects import damage, generator, smooth_noise, soften
from .errors import InputError
from .files import list_images, read_image, read_mask
from .geometry import Box, Grid, as_array, check_same_grid, image_channels, resample, slice_axis
from .intensity import NetworkInput, network_input
from .phantoms import phantom

PERCENTILES = {"kind": "percentile", "low": 0.5, "high": 99.5}


@dataclass
class Case:
    """One image with its right mask; *S in array order (k, j, i)."""

    name: str
    image: NDArray[np.float32]  # (C, *S), normalised
    label: NDArray[np.bool_]  # (*S)
    starts: list[NDArray[np.float32]] = field(default_factory=list)  # (*S) in 0..1: masks to be repaired
    group: str = ""  # the volume or patient it belongs to; cases of one group are never split

    def __post_init__(self) -> None:
        self.group = self.group or self.name

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """Flat indices of the voxels that are in the label or in one of the starts: where patches are taken."""
        used = self.label.copy()
        for start in self.starts:
            used |= start > 0.5
        return np.flatnonzero(used)


@dataclass(frozen=True)
class Starts:
    """How starting states are made. Shares are probabilities; kinds are `rnca damage`'s."""

    kinds: Sequence[str] = ("mixed",)
    severity: tuple[float, float] = (0.1, 0.8)
    clean: float = 0.15  # the label itself: teaches the model to leave a right mask alone
    given: float = 0.7  # of the others, the share taken from the case's own `starts` where it has some
    soft: float = 0.5  # share that stays soft; a mask from an editor is binary, one from a network need not be
    most: int = 1  # defects made one after the other, 1 to this many

    def draw(
        self, label: NDArray[np.bool_], given: Sequence[NDArray[np.float32]], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """A starting state in 0..1 for this label, (*S) float32."""
        if rng.random() < self.clean:
            start = label.astype(np.float32)
        elif given and rng.random() < self.given:
            start = given[int(rng.integers(len(given)))]
        else:
            broken = label
            for _ in range(1 if self.most == 1 else int(rng.integers(1, self.most + 1))):
                broken = damage(broken, str(rng.choice(list(self.kinds))), rng.uniform(*self.severity), rng)
            start = broken.astype(np.float32)
        if rng.random() >= self.soft:
            return (start > 0.5).astype(np.float32)
        return soften(start > 0.5, rng) if _is_binary(start) else start


def _is_binary(start: NDArray[np.float32]) -> bool:
    return bool(np.isin(start, (0.0, 1.0)).all())


def choose_box(case: Case, size: Sequence[int], rng: np.random.Generator) -> Box:
    """A box of this size, or as large as the case, somewhere about a voxel of the label or of a start."""
    places, shape = case.places, case.label.shape
    centre = np.unravel_index(places[rng.integers(len(places))], shape) if len(places) else np.array(shape) // 2
    box = []
    for c, extent, wanted in zip(centre, shape, size, strict=True):
        low = int(np.clip(c - rng.integers(wanted // 4, wanted - wanted // 4), 0, max(extent - wanted, 0)))
        box.append(slice(low, min(low + wanted, extent)))
    return tuple(box)


def draw_patch(
    case: Case,
    size: Sequence[int],
    starts: Starts,
    rng: np.random.Generator,
    noise: float = 0.0,
    zoom: tuple[float, float] = (1.0, 1.0),
    neighbours: float = 0.0,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """A random patch with foreground: image (C, *size), start (*size), target (*size); flips and turns included.

    Where the case is smaller than the patch it is padded with zeros. `noise` is the largest standard deviation of the
    white noise that is added to the image; `zoom` the range of factors that the case is enlarged by; `neighbours` the
    probability of `paint_neighbour`.
    """
    factor = 1.0 if zoom == (1.0, 1.0) else float(np.exp(rng.uniform(*np.log(zoom))))
    where = choose_box(case, [round(wanted / factor) for wanted in size], rng)
    image, label, given = case.image[(slice(None), *where)], case.label[where], [s[where] for s in case.starts]
    if factor != 1:
        ends = [min(round(n * factor), wanted) / n for n, wanted in zip(label.shape, size, strict=True)]
        image = np.stack([ndimage.zoom(channel, ends, order=1) for channel in image])
        label = ndimage.zoom(label.astype(np.float32), ends, order=1) > 0.5
        given = [ndimage.zoom(s, ends, order=1) for s in given]
    pads = [(0, wanted - n) for n, wanted in zip(label.shape, size, strict=True)]
    start = starts.draw(label, given, rng)
    stack = np.concatenate([image, start[None], label[None].astype(np.float32)])
    stack = _augment(np.pad(stack, [(0, 0), *pads]), rng)
    if noise:
        stack[:-2] += rng.uniform(0, noise) * rng.standard_normal(stack[:-2].shape, np.float32)
    if neighbours and rng.random() < neighbours:
        stack[:-2] = paint_neighbour(stack[:-2], stack[-1] > 0.5, rng)
    return stack[:-2], stack[-2], stack[-1]


def paint_neighbour(
    image: NDArray[np.float32], label: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.float32]:
    """The image (C, *S) with something beside the object (*S) that is as bright as it and has no border to it.

    Where organs of like brightness touch, the image does not show the outline: only the shape of the mask does. The
    image comes back as it is where the object has 40 voxels or fewer, fills the patch, or is not touched by the cloud.
    """
    if not 40 < label.sum() < label.size:
        return image
    size = label.shape
    cloud = (smooth_noise(size, rng.uniform(10, 30), rng) > rng.uniform(-0.2, 0.8)) & ~label
    pieces, _ = ndimage.label(cloud)
    painted = np.isin(pieces, np.setdiff1d(pieces[ndimage.binary_dilation(label, iterations=2)], [0]))
    weight = ndimage.gaussian_filter(painted.astype(np.float32), 0.7)
    weight[label & ~ndimage.binary_dilation(painted, iterations=2)] = 0
    texture = smooth_noise(size, rng.uniform(2, 8), rng) + 0.5 * smooth_noise(size, 1.2, rng)
    levels = np.median(image[:, label], axis=1)
    spread = np.median(np.abs(image[:, label] - levels[:, None]), axis=1)
    column = (-1,) + (1,) * label.ndim
    fill = levels.reshape(column) + 0.5 * spread.reshape(column) * texture
    return (image * (1 - weight) + fill * weight).astype(np.float32)


def _augment(stack: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """The same random flips and axis swaps for all channels, a random gain and offset for the image's."""
    axes = tuple(axis for axis in range(1, stack.ndim) if rng.random() < 0.5)
    stack = np.flip(stack, axes)
    order = np.arange(1, stack.ndim)
    rng.shuffle(order)
    if all(stack.shape[a] == stack.shape[b] for a, b in enumerate(order, start=1)):
        stack = stack.transpose(0, *order)
    stack = stack.copy()
    stack[:-2] = stack[:-2] * rng.uniform(0.8, 1.25) + rng.uniform(-0.1, 0.1)
    return stack


def load_cases(
    folder: str | Path,
    *,
    dims: int,
    channels: int = 1,
    intensity: Mapping[str, Any] = PERCENTILES,
    colour: str = "luminance",
    label: int | Literal["each"] | None = None,
    object_size: int = 0,
) -> list[Case]:
    """Read a folder of cases; volumes become slices for a 2-D model (only those that hold the label).

    Args:
        object_size: of the model, voxels: larger objects are brought to the grid that they are repaired on; 0: none.
        label: the value to repair in label maps; None takes every non-zero value as one, "each" makes a case of each.

    Raises:
        InputError: the folder lacks `images` or `labels`, or nothing in them matches by name.
    """
    folder = Path(folder)
    images, labels = ({} if not (folder / d).is_dir() else list_images(folder / d) for d in ("images", "labels"))
    names = sorted(images.keys() & labels.keys())
    if not names:
        raise InputError(f"{folder} has no cases: expected images/NAME and labels/NAME with the same names.")
    given = [d for d in [folder / "states", *sorted((folder / "predictions").glob("*"))] if d.is_dir()]
    known = [list_images(d) for d in given]
    cases: list[Case] = []
    for name in names:
        image, mask = read_image(images[name]), read_mask(labels[name])
        check_same_grid(image, mask)
        truth = as_array(mask)
        if truth.ndim < dims:
            raise InputError(f"{labels[name]} is {truth.ndim}-D: a model for volumes is trained on volumes.")
        axis = slice_axis(Grid.of(mask).spacing, truth.shape) if truth.ndim > dims else None
        pixels = NetworkInput(image_channels(image, truth.shape), channels, intensity, colour, axis)
        classes = np.unique(truth)
        guesses = [as_array(read_mask(found[name])) for found in known if name in found]
        for value in classes[classes != 0].tolist() if label == "each" else [label]:
            starts = [_start(guess, value, classes) for guess in guesses if guess.shape == truth.shape]
            title = f"{name}_{value}" if label == "each" else name
            right, spacing = _foreground(truth, value), Grid.of(mask).spacing
            wanted = object_spacing(right, spacing, object_size, axis) if object_size else spacing
            if wanted != spacing:
                right, *starts = (resample(m.astype(np.float32), spacing, wanted)[0] for m in (right, *starts))
            values = pixels.on(right.shape).part(tuple(slice(0, n) for n in right.shape))
            whole = Case(title, values, right > 0.5, starts, group=name)
            cases += [whole] if axis is None else _slices(whole, axis)
    return cases


def _foreground(mask: NDArray[Any], label: int | None) -> NDArray[np.bool_]:
    return mask == label if label is not None else mask != 0


def _start(mask: NDArray[Any], label: int | None, classes: NDArray[Any]) -> NDArray[np.float32]:
    """A label map with the classes of the truth, or up to class 8, becomes 0 and 1; any other mask is grey, soft.

    Float in 0..1 is taken as it is; of 8-bit masks 255 stands for 1, of others the maximum.
    """
    soft = mask.dtype.kind == "f" and not np.isin(mask, classes).all()
    if not soft and (mask.max(initial=0) <= 8 or np.isin(mask, classes).all()):
        return _foreground(mask, label).astype(np.float32)
    full = 255 if mask.dtype == np.uint8 else 1 if mask.max(initial=0) <= 1 else mask.max()
    return mask.astype(np.float32) / full


def _slices(case: Case, axis: int) -> list[Case]:
    return [
        Case(
            f"{case.name}_{index}",
            np.take(case.image, index, axis + 1),
            np.take(case.label, index, axis),
            [np.take(s, index, axis) for s in case.starts],
            case.group,
        )
        for index in range(case.label.shape[axis])
        if case.label.take(index, axis).any()
    ]


def phantom_cases(
    kind: str,
    shape: Sequence[int],
    count: int,
    seed: int = 0,
    channels: int = 1,
    intensity: Mapping[str, Any] = PERCENTILES,
) -> list[Case]:
    """Generated cases, normalised as images from files are; the same arguments give the same cases."""
    cases = []
    for index in range(count):
        image, label = phantom(kind, shape, generator(seed * 1_000_003 + index))
        cases.append(Case(f"{kind}_{index}", network_input(image[None], channels, intensity), label))
    return cases


def split_cases(cases: Sequence[Case], share: float, seed: int) -> tuple[list[Case], list[Case]]:
    """(training, validation) cases: about this share of the groups, at least one, is kept for validation.

    Slices of one volume stay on one side.
    """
    groups = sorted({case.group for case in cases})
    if len(groups) < 2:
        raise InputError(f"{len(groups)} case cannot be split into training and validation: give at least 2.")
    count = min(max(round(share * len(groups)), 1), len(groups) - 1)
    held = set(np.random.default_rng(seed).permutation(groups)[:count])
    return [c for c in cases if c.group not in held], [c for c in cases if c.group in held]
