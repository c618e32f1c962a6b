"""Image intensities: the normalisation that a model's metadata asks for, and the number of its channels.

Arrays are channels first, (C, *S) with two or three spatial axes. The metadata's entry is a dictionary, one of

    {"kind": "percentile", "low": 0.5, "high": 99.5}   these percentiles to 0 and 1, clipped
    {"kind": "zscore"}                                 mean 0, standard deviation 1
    {"kind": "window", "low": -100, "high": 240}       these values to 0 and 1, clipped (CT, Hounsfield units)
    {"kind": "local", "sigma": 16}                     mean 0 and deviation 1 within about `sigma` voxels, clipped to ±3
    {"kind": "unit"}                                   uint8 / 255, uint16 / 65535, bool and float as they are, clipped
    {"kind": "none"}                                   as they are

Any of them may have `"scales": [0, 2]`: the network then gets each channel blurred by each of these (deviations in
voxels), so that a cell, which sees 3×3 voxels, sees what lies further as well.
"""

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from .contrast import TRUNCATE, block, local_contrast, reach
from .errors import InputError
from .geometry import Box, resample_part, source_box

KINDS = ("percentile", "zscore", "window", "local", "unit", "none")
SAMPLE = 2_000_000
"""Voxels a channel that percentiles, mean and standard deviation are taken from, at most (every n-th one)."""

SLAB = 1 << 16
"""Voxels worked on at a time: they stay in the processor's cache."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class Scaling:
    """What `normalise` does to one channel: (value - zero) / unit, and what becomes of the rest."""

    zero: float
    unit: float  # 0: everything becomes 0
    clip: bool
    fill: float | None  # takes the place of NaN and infinite values; None: there are none


class NetworkInput:
    """An image as a network takes it, its channels matched, normalised and at every scale; made where it is asked for.

    Statistics are the whole image's, so that a voxel has the same value in every box.
    """

    def __init__(
        self,
        channels: np.ndarray,
        wanted: int,
        spec: Mapping[str, Any],
        colour: str = "luminance",
        slice_axis: int | None = None,
    ) -> None:
        """
        Args:
            channels: (C, *S), of the pixel type the image was stored in.
            wanted: channels of the network; those of one image channel at several scales count as several.
            spec: the metadata's entry.
            slice_axis: of (*S), array order, for a network that works on the slices across it: nothing is blurred
                along it.
        """
        self.scales = spec.get("scales", [0])
        if wanted % len(self.scales):
            raise InputError(f"a network with {wanted} image channels cannot take {len(self.scales)} scales of each")
        self.channels = match_channels(channels, wanted // len(self.scales), colour)
        self.scalings = scalings(self.channels, spec)
        self.local = float(spec.get("sigma", 16)) if spec["kind"] == "local" else 0.0
        self.slice_axis = slice_axis
        self.shape = self.channels.shape[1:]
        self._reach, self._block = (reach(self.local), block(self.local)) if self.local else (0, 1)

    def on(self, shape: tuple[int, ...]) -> "NetworkInput":
        """The same image on a grid of another shape over the same extent, by linear interpolation.

        It is resampled before contrast is evened out and before it is blurred: those count in voxels.
        """
        out = copy(self)
        out.shape = shape
        return out

    def part(self, box: tuple[slice, ...]) -> np.ndarray:
        """The network's channels in a box of (*S): (wanted, *box) float32."""
        blurred = math.ceil(TRUNCATE * max(self.scales))
        outer, middle, inner = [], [], []  # what is read, what is normalised, what is returned
        for axis, (side, size) in enumerate(zip(box, self.shape, strict=True)):
            near, far, edge = (0, 0, 1) if axis == self.slice_axis else (blurred, self._reach, self._block)
            start, stop = max(side.start - near, 0), min(side.stop + near, size)
            first = max(start - far, 0) // edge * edge
            outer.append(slice(first, min(-(-(stop + far) // edge) * edge, size)))
            middle.append(slice(start - first, stop - first))
            inner.append(slice(side.start - start, side.stop - start))
        values = self._values(tuple(outer))
        if self.local:
            values = local_contrast(values, middle, self.local, self.slice_axis)
        levels = [values if s == 0 else _blur(values, s, self.slice_axis) for s in self.scales]
        parts = [level[(slice(None), *inner)] for level in levels]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _values(self, box: Box) -> np.ndarray:
        """The channels in a box, scaled, on the grid of `shape`."""
        own = self.channels.shape[1:]
        source = box if self.shape == own else source_box(box, own, self.shape)
        values = scale(self.channels[(slice(None), *source)], self.scalings)
        if self.shape == own:
            return values
        return np.stack([resample_part(channel, source, own, box, self.shape) for channel in values])


def network_input(
    channels: np.ndarray, wanted: int, spec: Mapping[str, Any], colour: str = "luminance", slice_axis: int | None = None
) -> np.ndarray:
    """All of an image as a network takes it, (wanted, *S) float32; arguments as for `NetworkInput`."""
    whole = tuple(slice(0, size) for size in channels.shape[1:])
    return NetworkInput(channels, wanted, spec, colour, slice_axis).part(whole)


def parse_intensity(text: str, scales: str = "0") -> dict[str, Any]:
    """The metadata's entry from what is typed: KIND, `local:SIGMA`, `percentile:LOW:HIGH`, `window:LOW:HIGH`.

    `scales` is a list of numbers with commas; "0" alone, the image as it is, leaves no trace.
    """
    kind, *numbers = text.split(":")
    names = {"local": ["sigma"], "percentile": ["low", "high"], "window": ["low", "high"]}.get(kind, [])
    try:
        values = [float(n) for n in numbers]
        levels = [float(n) for n in scales.split(",")]
        spec = {"kind": kind, **dict(zip(names, values, strict=bool(values)))}
    except ValueError as error:
        raise InputError(
            f"{text!r} with scales {scales!r} is no normalisation: write percentile, local:16, window:-100:240, zscore,"
            " unit or none, and scales as 0,2"
        ) from error
    if min(levels) < 0:
        raise InputError(f"the scales are {scales}: give numbers of 0 (no blur) or more, as 0,2")
    normalise(np.zeros((1, 1, 1), np.uint8), spec)  # says what is wrong with it
    return spec if levels == [0] else spec | {"scales": levels}


def normalise(channels: np.ndarray, spec: Mapping[str, Any]) -> np.ndarray:
    """Map the intensities of an image to what a model was trained on.

    Statistics are taken per channel over the finite voxels of the whole image given: pass the image, not a crop of it,
    or the same tissue gets another value in every region of interest. NaN and infinite voxels become the smallest
    finite value of their channel, as scanners and reconstructions use them for "outside"; a channel without a finite
    voxel becomes 0, and so does a constant one under `percentile` and `zscore`.

    Args:
        channels: (C, *S), of the pixel type the image was stored in (`unit` needs to know it).
        spec: the metadata's entry, see above; `low` and `high` of `percentile` are 0.5 and 99.5 unless given.

    Returns:
        float32 (C, *S), a new array.

    Raises:
        InputError: an unknown kind, `low` not below `high`, or `unit` for signed or wider integers.
    """
    values = scale(channels, scalings(channels, spec))
    if spec["kind"] == "local":
        whole = [slice(0, size) for size in values.shape[1:]]
        return local_contrast(values, whole, float(spec.get("sigma", 16)), None)
    return values


def scalings(channels: np.ndarray, spec: Mapping[str, Any]) -> list[Scaling]:
    """The first half of `normalise`: what it does to each channel, from a look at the whole image, without a copy."""
    kind = spec.get("kind")
    if kind not in KINDS:
        raise InputError(f"unknown intensity normalisation {kind!r}: use {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if kind == "local" and not float(spec.get("sigma", 16)) > 0:
        raise InputError(f"normalisation local with sigma {spec['sigma']}: it is more than 0, in voxels")
    low, high = _bounds(spec) if kind in ("percentile", "window") else (0.0, 1.0)
    if kind == "unit":
        high = _full_scale(channels.dtype)
    out = []
    for channel in channels:
        values, fill = _finite(channel)
        if not values.size:
            out.append(Scaling(0.0, 0.0, False, 0.0))
        elif kind in ("zscore", "local"):
            sample = _every_nth(values).astype(np.float64)
            out.append(Scaling(float(sample.mean()), float(sample.std()), False, fill))
        elif kind == "percentile":
            out.append(Scaling(*_percentiles(values, low, high), True, fill))
        else:
            out.append(Scaling(low, high - low, kind != "none", fill))
    return out


def scale(channels: np.ndarray, how: Sequence[Scaling]) -> np.ndarray:
    """The second half of `normalise`: (C, *S), the image or a part of it -> float32 (C, *S), a new array."""
    out = np.empty(channels.shape, np.float32)
    for channel, to, by in zip(channels, out, how, strict=True):
        factor = np.float32(1 / by.unit if by.unit > np.finfo(np.float32).tiny else 0)
        slab = max(1, SLAB * len(to) // max(to.size, 1))
        for first in range(0, len(to), slab):
            source, part = channel[first : first + slab], to[first : first + slab]
            with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite and is replaced
                part[...] = source
            if by.fill is not None:
                part[~np.isfinite(part)] = by.fill
            if by.zero:
                part -= np.float32(by.zero)
            if factor != 1:
                part *= factor
            if by.clip:
                np.clip(part, 0, 1, out=part)
    return out


def match_channels(channels: np.ndarray, wanted: int, how: str = "luminance") -> np.ndarray:
    """Give an image the number of channels that a model has, in the image's own pixel type and range.

    Args:
        channels: (C, *S).
        wanted: channels of the model. C = `wanted` is returned as it is; one channel is repeated; three (red, green,
            blue) become one.
        how: three to one by "luminance" (ITU-R BT.601; rounded for integers) or by the "green" channel alone, which
            shows vessels best in fundus photographs.

    Returns:
        (wanted, *S), a view of `channels` where possible.

    Raises:
        InputError: any other combination, or an unknown `how`.
    """
    have = len(channels)
    if how not in ("luminance", "green"):
        raise InputError(f"unknown way {how!r} from colour to grey: use luminance or green")
    if have == wanted:
        return channels
    if have == 1:
        return np.broadcast_to(channels, (wanted, *channels.shape[1:]))
    if (have, wanted) != (3, 1):
        raise InputError(f"the image has {have} channels and the model takes {wanted}: give an image with {wanted}")
    if how == "green":
        return channels[1:2]
    grey = np.tensordot(_LUMA, channels.astype(np.float32), 1)[None]
    return grey.astype(channels.dtype) if channels.dtype.kind == "f" else np.rint(grey).astype(channels.dtype)


def _blur(values: np.ndarray, sigma: float, slice_axis: int | None) -> np.ndarray:
    sigmas = [sigma] * (values.ndim - 1)
    if slice_axis is not None:
        sigmas[slice_axis] = 0
    return ndimage.gaussian_filter(values, [0, *sigmas], mode="nearest", truncate=TRUNCATE)


def _bounds(spec: Mapping[str, Any]) -> tuple[float, float]:
    default = (0.5, 99.5) if spec["kind"] == "percentile" else (None, None)
    low, high = spec.get("low", default[0]), spec.get("high", default[1])
    if low is None or high is None or not low < high:
        raise InputError(f"normalisation {spec['kind']} from {low} to {high}: both are needed, and low below high")
    if spec["kind"] == "percentile" and not 0 <= low < high <= 100:
        raise InputError(f"normalisation percentile from {low} to {high}: percentiles lie within 0 to 100")
    return float(low), float(high)


def _full_scale(dtype: np.dtype) -> float:
    if dtype.kind in "fb":
        return 1.0
    if dtype in (np.uint8, np.uint16):
        return float(np.iinfo(dtype).max)
    raise InputError(f"this model takes 8-bit, 16-bit unsigned or float (0..1) images, not {dtype}: convert the image")


def _finite(channel: np.ndarray) -> tuple[np.ndarray, float | None]:
    """The finite values of a channel, flat, and the smallest of them if there are others."""
    if channel.dtype.kind != "f":
        return channel.reshape(-1), None
    with np.errstate(over="ignore"):
        flat = channel.astype(np.float32, copy=False).reshape(-1)
    good = np.isfinite(flat)
    if good.all():
        return flat, None
    finite = flat[good]
    return finite, float(finite.min()) if finite.size else 0.0


def _every_nth(flat: np.ndarray) -> np.ndarray:
    """At most `SAMPLE` values, evenly spread; the step is odd, so that it does not stay in a few columns."""
    step = -(-flat.size // SAMPLE) if flat.size else 1
    return flat[:: step | 1 if step > 1 else 1]


def _percentiles(finite: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """The lower percentile and the distance to the upper one; of the extremes where the percentiles coincide."""
    bottom, top = np.percentile(_every_nth(finite).astype(np.float32, copy=False), (low, high))
    if not bottom < top:  # nearly everything has one value: a few bright vessels on black
        bottom, top = finite.min(), finite.max()
    return float(bottom), float(top) - float(bottom)
