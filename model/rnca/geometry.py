"""Where voxels are: grids, channels, regions, slices and resampling.

Arrays are in SimpleITK's NumPy order: axes (k, j, i), that is (z, y, x), or (j, i) in 2-D. Shapes, spacings, boxes and
regions here are in this array order; `origin` and `direction` are SimpleITK's own, in world order (x, y, z). What users
type and read (`--roi`, error messages) is in SimpleITK's index order i, j, k. Boxes are tuples of slices, half-open.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from .errors import InputError

Image: TypeAlias = sitk.Image | np.ndarray
Box: TypeAlias = tuple[slice, ...]

_TOLERANCE = 1e-3  # of a voxel: what NIfTI's float32 and DICOM's decimal strings leave of a number
_UNPRINTABLE = "[UNKNOWN_PRINT_CHARACTERISTICS]"  # ITK's text for a header field that is not text


@dataclass(frozen=True)
class Grid:
    """The voxel grid of an image or mask, and whether it was given as a NumPy array or a SimpleITK image.

    Attributes:
        shape: voxels, array order.
        spacing: mm (or pixels: 1), array order.
        origin: world position of the centre of voxel 0, order x, y, z.
        direction: direction cosines as SimpleITK holds them, row-major dims × dims.
        metadata: header fields of a SimpleITK image that are text; None for a NumPy array.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    metadata: Mapping[str, str] | None = field(default=None, compare=False, repr=False)

    @property
    def dims(self) -> int:
        return len(self.shape)

    @classmethod
    def of(cls, x: Image) -> "Grid":
        """The grid of a SimpleITK image, or of a scalar array (*S): spacing 1, origin 0, axes along the world's."""
        if isinstance(x, np.ndarray):
            dims = x.ndim
            return cls(x.shape, (1.0,) * dims, (0.0,) * dims, tuple(np.eye(dims).ravel().tolist()))
        fields = {key: x.GetMetaData(key) for key in x.GetMetaDataKeys()}
        return cls(
            shape=x.GetSize()[::-1],
            spacing=x.GetSpacing()[::-1],
            origin=x.GetOrigin(),
            direction=x.GetDirection(),
            metadata={key: text for key, text in fields.items() if not text.startswith(_UNPRINTABLE)},
        )

    def wrap(self, array: np.ndarray) -> Image:
        """Give `array` (shape `self.shape`) back in the form the grid was taken from.

        From a NumPy array: `array` itself. From a SimpleITK image: a new one of the array's pixel type (bool becomes
        uint8) with this geometry and these header fields.
        """
        if array.shape != self.shape:
            raise ValueError(f"array of shape {array.shape} on a grid of shape {self.shape}")
        if self.metadata is None:
            return array
        image = sitk.GetImageFromArray(array.astype(np.uint8) if array.dtype == bool else array)
        image.SetSpacing(self.spacing[::-1])
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        for key, text in self.metadata.items():
            image.SetMetaData(key, text)
        return image


def as_array(x: Image) -> np.ndarray:
    """The voxels without a copy: (*S), or (*S, C) of a vector image; of a SimpleITK image a read-only view."""
    return x if isinstance(x, np.ndarray) else np.asarray(_View(x))


class _View:
    """SimpleITK's own views do not keep their image: its memory would go with the last name for it. This one does."""

    def __init__(self, image: sitk.Image) -> None:
        self.image = image
        self.__array_interface__ = sitk.GetArrayViewFromImage(image).__array_interface__


def image_channels(image: Image, shape: Sequence[int]) -> np.ndarray:
    """The voxels channels first: (C, *shape), a view, in the image's own pixel type.

    Args:
        image: SimpleITK, scalar or vector; or an array (*S), (C, *S) or (*S, C).
        shape: of the mask: it tells which axis of an array is the channels. Where both ends fit, the first one is.

    Raises:
        InputError: the image does not have this shape.
    """
    array, shape = as_array(image), tuple(shape)
    if isinstance(image, np.ndarray):
        size, fits_first = array.shape, array.shape[1:] == shape
        fits_last = array.shape[:-1] == shape
    else:
        size, fits_first = image.GetSize()[::-1], False
        fits_last = array.ndim > len(size) and size == shape
    if array.shape == shape:
        return array[None]
    if fits_first:
        return array
    if fits_last:
        return np.moveaxis(array, -1, 0)
    raise InputError(
        f"image and mask differ in size: {_ijk(size)} against {_ijk(shape)} voxels (i×j×k): resample one to the other's"
        " grid"
    )


def check_same_grid(image: Image, mask: Image) -> None:
    """Raise `InputError` unless image and mask have the same voxels in the same places.

    Sizes always; spacing, origin and direction where both are SimpleITK images, to a thousandth of a voxel. In 2-D
    these count only if both have a position in space: pictures (PNG, TIFF) have none, and the spacing they store is a
    print resolution.
    """
    shape = as_array(mask).shape
    image_channels(image, shape)
    if isinstance(image, np.ndarray) or isinstance(mask, np.ndarray):
        return
    a, b = Grid.of(image), Grid.of(mask)
    if a.dims == 2 and not (_has_place(a) and _has_place(b)):
        return
    shift = np.reshape(b.direction, (b.dims, b.dims)).T @ np.subtract(a.origin, b.origin)  # mm along the mask's axes
    far = {
        "spacing": abs(np.subtract(a.spacing, b.spacing)) / b.spacing,
        "direction": abs(np.subtract(a.direction, b.direction)),
        "origin": abs(shift) / b.spacing[::-1],
    }
    for what, distance in far.items():
        if distance.max() > _TOLERANCE:
            both = (getattr(grid, what)[:: -1 if what == "spacing" else 1] for grid in (a, b))
            ours, theirs = (" ".join(f"{value:.6g}" for value in values) for values in both)
            raise InputError(
                f"image and mask differ in {what}: {ours} against {theirs} (x y z): resample one to the other's grid"
            )


def _has_place(grid: Grid) -> bool:
    return any(grid.origin) or grid.direction != tuple(np.eye(grid.dims).ravel())


def _ijk(shape: Sequence[int]) -> str:
    return "×".join(str(n) for n in reversed(shape))


# Slices, boxes, regions


def slice_axis(spacing: Sequence[float], shape: Sequence[int], rule: str | int = "largest_spacing") -> int:
    """The array axis along which a volume is taken apart into slices for a 2-D model.

    Args:
        spacing, shape: of the volume, array order (k, j, i).
        rule: "largest_spacing", the axis along which slices are furthest apart; a volume one voxel thick is one slice
            along its thin axis, whatever the spacing; of equal axes the first in array order (k before j before i).
            Or the axis itself: "k", "j", "i", or 0, 1, 2 in array order.

    Raises:
        InputError: the volume is not 3-D, or an unknown rule.
    """
    if len(shape) != 3:
        raise InputError(f"slices are taken from 3-D volumes, not from {len(shape)}-D")
    if rule in ("k", "j", "i"):
        return "kji".index(str(rule))
    if rule in (0, 1, 2):
        return int(rule)
    if rule != "largest_spacing":
        raise InputError(f"unknown slice axis {rule!r}: use largest_spacing, k, j or i")
    step = np.where(np.array(shape) == 1, np.inf, spacing)
    return int(np.argmax(step >= step.max() * (1 - _TOLERANCE)))


def parse_roi(text: str) -> Box:
    """Read a region of interest, "i0:i1,j0:j1" or "i0:i1,j0:j1,k0:k1", as typed on the command line.

    Voxel indices in SimpleITK's order (x, y, z), counted from 0, the end not included; an end left out reaches to the
    border: "10:,:,3:9". Returned in array order (k, j, i), open ends as None; `check_roi` closes them.

    Raises:
        InputError: not of this form, or a negative number.
    """
    parts = text.split(",")
    ranges = [re.fullmatch(r"\s*(\d*)\s*:\s*(\d*)\s*", part) for part in parts]
    if len(parts) not in (2, 3) or not all(ranges):
        raise InputError(f"region {text!r} is not of the form i0:i1,j0:j1 or i0:i1,j0:j1,k0:k1 (whole numbers from 0)")
    bounds = [[int(end) if end else None for end in found.groups()] for found in ranges if found]
    return tuple(slice(*ends) for ends in reversed(bounds))


def check_roi(roi: Sequence[slice], shape: Sequence[int]) -> Box:
    """The region with its open ends closed.

    Args:
        roi: slices in array order, step 1, as from `parse_roi`.
        shape: of the image, array order.

    Raises:
        InputError: another number of axes than the image, negative, outside the image, or empty.
    """
    if len(roi) != len(shape):
        raise InputError(
            f"the region has {len(roi)} axes and the image {len(shape)}: give a range for each of its axes"
        )
    box = []
    for name, part, size in zip("ijk"[: len(shape)][::-1], roi, shape, strict=True):
        start, stop = (0 if part.start is None else part.start), (size if part.stop is None else part.stop)
        if part.step not in (None, 1) or not 0 <= start < stop <= size:
            problem = "empty" if start >= stop else "outside the image"
            raise InputError(
                f"region {start}:{stop} along {name} is {problem}: ranges along {name} lie within 0:{size}"
            )
        box.append(slice(start, stop))
    return tuple(box)


def bounding_box(mask: np.ndarray) -> Box | None:
    """The smallest box that holds every non-zero voxel; None for an empty mask. Any number of axes."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        part = mask[tuple(box)]  # each axis looks only at what the axes before it left
        used = np.flatnonzero(part.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if not used.size:
            return None
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    return tuple(box)


def grow_box(box: Box, margin: int | Sequence[int], shape: Sequence[int]) -> Box:
    """The box grown by `margin` voxels on every side (one number, or one an axis), as far as the image reaches."""
    margins = [margin] * len(box) if isinstance(margin, int) else margin
    return tuple(
        slice(max(0, part.start - m), min(size, part.stop + m))
        for part, m, size in zip(box, margins, shape, strict=True)
    )


def box_around(first: Box | None, second: Box | None) -> Box | None:
    """The smallest box that holds both; None is a box of nothing."""
    if first is None or second is None:
        return first or second
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))


def box_inside(box: Box, outer: Box) -> Box:
    """A box as it is counted from the corner of another one."""
    return tuple(slice(b.start - o.start, b.stop - o.start) for b, o in zip(box, outer, strict=True))


# Resampling: grids of other spacing over the same physical extent


def resample(
    array: np.ndarray,
    spacing: Sequence[float],
    new_spacing: Sequence[float] | None = None,
    *,
    linear: bool = True,
    shape: Sequence[int] | None = None,
) -> tuple[np.ndarray, tuple[float, ...]]:
    """Resample a scalar array to another spacing; the outer faces of the volume stay where they are.

    Because the extent is kept and voxels are whole, the spacing reached is the nearest one that divides it. Values
    are interpolated at voxel centres, without smoothing: structures thinner than the new voxels can get lost.

    Args:
        array: (*S), any number of axes.
        spacing: of `array`, array order.
        new_spacing: wanted, array order, same unit. Not needed if `shape` is given.
        linear: linear interpolation (float32) or nearest neighbour (the array's own type; for labels).
        shape: the shape to reach, to go back to a grid exactly.

    Returns:
        The resampled array (not a copy if nothing changes) and its exact spacing.
    """
    extent = [n * s for n, s in zip(array.shape, spacing, strict=True)]
    if shape is None:
        if new_spacing is None:
            raise ValueError("give new_spacing or shape")
        shape = [max(1, round(e / s)) for e, s in zip(extent, new_spacing, strict=True)]
    centres = [_centres(n, m) for n, m in zip(array.shape, shape, strict=True)]
    out = _linear(array, centres) if linear else _nearest(array, centres)
    return out, tuple(e / n for e, n in zip(extent, shape, strict=True))


def regrid_box(box: Box, shape: Sequence[int], new_shape: Sequence[int]) -> tuple[Box, Box]:
    """The part of a resampled image that covers a box of the original, and the box of the original it is made from.

    `resample_part` then gives exactly what resampling the whole image would give there.

    Args:
        box: in an image of `shape`.
        new_shape: of the whole image after resampling.

    Returns:
        The box in the resampled image, and the one in the original: `box` and what interpolation needs around it.
    """
    new = tuple(
        slice(max(0, part.start * m // n - 1), min(m, -(-part.stop * m // n) + 1))
        for part, n, m in zip(box, shape, new_shape, strict=True)
    )
    old = box_around(box, source_box(new, shape, new_shape))
    assert old is not None
    return new, old


def source_box(new_box: Box, shape: Sequence[int], new_shape: Sequence[int]) -> Box:
    """The part of an image of `shape` that interpolation at `new_box` of its `new_shape` looks at."""
    centres = [_centres(n, m)[new] for n, m, new in zip(shape, new_shape, new_box, strict=True)]
    return tuple(slice(math.floor(centre[0]), math.ceil(centre[-1]) + 1) for centre in centres)


def resample_part(
    array: np.ndarray, box: Box, shape: Sequence[int], new_box: Box, new_shape: Sequence[int]
) -> np.ndarray:
    """Linear interpolation of the part `box` of an image of `shape`, at `new_box` of the image's `new_shape`."""
    return _linear(array, centres_between(box, shape, new_box, new_shape))


def centres_between(box: Box, shape: Sequence[int], new_box: Box, new_shape: Sequence[int]) -> list[np.ndarray]:
    """Where the centres of the voxels in `new_box` lie in the indices of `box`, within it."""
    parts = zip(box, shape, new_box, new_shape, strict=True)
    return [np.clip(_centres(n, m)[new] - b.start, 0, b.stop - b.start - 1) for b, n, new, m in parts]


def transfer_change(
    before: np.ndarray, low_before: np.ndarray, low_after: np.ndarray, centres: Sequence[np.ndarray] | None = None
) -> np.ndarray:
    """Apply what a model changed on its own grid to the mask on the original grid, and nothing else.

    Within one model voxel of an added one, an original voxel is set where the model's result, resampled, is solid;
    within one model voxel of a removed one, it is cleared where the result is not. Everything else keeps its value bit
    for bit: a result that equals `low_before` returns `before`. Two things keep the topology that the model made:

    - The seam: the original mask may end up to half a model voxel before the resampled one does, so an added bridge
      alone would not reach it. This is why the neighbourhood of a change is looked at, and not the changed voxels only.
    - Crumbs: where a removal cuts a piece off that the model's grid is too coarse to show, the piece goes with it.

    "Solid" is linear interpolation at 0.5, or the nearest voxel: the first is smooth, the second keeps thin lines and
    voxels that touch at a corner connected.

    Args:
        before: bool (*S), the mask on the original grid.
        low_before: bool (*L), the same mask on the model's grid, over the same extent (`resample`).
        low_after: bool (*L), the model's result.
        centres: where, an axis each, the voxels of the mask lie in the indices of the model's grid; needed for parts.

    Returns:
        bool (*S), a new array.
    """
    after = before.astype(bool)
    changed = bounding_box(low_before != low_after)
    if changed is None:
        return after
    every = centres or [_centres(n, m) for n, m in zip(low_after.shape, before.shape, strict=True)]
    centres, box = [], []
    for part, centre in zip(changed, every, strict=True):
        reached = np.flatnonzero((centre > part.start - 3) & (centre < part.stop + 2))  # 1 for the change, 2 for crumbs
        if not reached.size:  # a change between the centres of much larger voxels
            return after
        box.append(slice(int(reached[0]), int(reached[-1]) + 1))
        centres.append(centre[box[-1]])
    solid = show_on(low_after, centres)
    by_added = _linear(low_after & ~low_before, centres) > 0
    removed = low_before & ~low_after
    by_removed = _linear(removed, centres) > 0
    old = after[tuple(box)]
    cleared = old & by_removed & ~solid
    new = (old & ~cleared) | (by_added & solid)
    if cleared.any():
        near = _linear(ndimage.binary_dilation(removed, np.ones((3,) * before.ndim, bool)), centres) > 0
        new = _drop_crumbs(new, cleared, solid, near)
    after[tuple(box)] = new
    return after


def show_on(low: np.ndarray, centres: Sequence[np.ndarray]) -> np.ndarray:
    """Where a bool mask on another grid is solid, as in `transfer_change`, at these of its indices (an axis each)."""
    return np.asarray((_linear(low, centres) >= 0.5) | _nearest(low, centres))


def _drop_crumbs(mask: np.ndarray, cleared: np.ndarray, solid: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Without the components that touch `cleared`, have no voxel in `solid` and do not go on outside of `near`.

    `near` is what lies around removals, so that changes elsewhere have no say.
    """
    touching = np.ones((3,) * mask.ndim, bool)
    pieces, count = ndimage.label(mask & near, touching)
    inside = np.zeros(mask.shape, bool)
    inside[(slice(1, -1),) * mask.ndim] = True
    goes_on = ndimage.binary_dilation(mask & ~near, touching) | ~inside
    crumb = np.zeros(count + 1, bool)
    crumb[pieces[ndimage.binary_dilation(cleared, touching)]] = True
    crumb[pieces[solid | goes_on]] = False
    crumb[0] = False
    return mask & ~crumb[pieces]


def _centres(n: int, m: int) -> np.ndarray:
    """Where the centres of `m` voxels lie in the indices of `n` voxels over the same extent, within [0, n - 1]."""
    return np.clip((np.arange(m) + 0.5) * (n / m) - 0.5, 0, n - 1)


def _linear(array: np.ndarray, centres: Sequence[np.ndarray]) -> np.ndarray:
    """Linear interpolation at the product of `centres` (one list of indices an axis), float32, axis by axis."""
    out = array.astype(np.float32)
    for axis in sorted(range(array.ndim), key=lambda a: len(centres[a]) / array.shape[a]):  # what shrinks comes first
        centre = centres[axis]
        if np.array_equal(centre, np.arange(array.shape[axis])):
            continue
        low = np.floor(centre).astype(int)
        weight = (centre - low).astype(np.float32).reshape(-1, *[1] * (array.ndim - axis - 1))
        start = out.take(low, axis)
        stop = out.take(np.minimum(low + 1, array.shape[axis] - 1), axis)
        stop -= start
        stop *= weight
        out = np.add(start, stop, out=stop)  # start + weight × (stop - start): constants stay exact
    return out


def _nearest(array: np.ndarray, centres: Sequence[np.ndarray]) -> np.ndarray:
    return array[np.ix_(*[np.floor(centre + 0.5).astype(int) for centre in centres])]
