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

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import ndimage

from .errors import InputError

KINDS = ("percentile", "zscore", "window", "local", "unit", "none")
SAMPLE = 2_000_000
"""Voxels a channel that percentiles, mean and standard deviation are taken from, at most (every n-th one)."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def network_input(
    channels: np.ndarray, wanted: int, spec: Mapping[str, Any], colour: str = "luminance", slice_axis: int | None = None
) -> np.ndarray:
    """An image as a network takes it: its channels matched, normalised, and at every scale; (wanted, *S) float32.

    Args:
        wanted: channels of the network; those of one image channel at several scales count as several.
        slice_axis: of (*S), array order, for a network that works on the slices across it: nothing is blurred along it.
    """
    scales = spec.get("scales", [0])
    if wanted % len(scales):
        raise InputError(f"a network with {wanted} image channels cannot take {len(scales)} scales of each")
    values = normalise(match_channels(channels, wanted // len(scales), colour), spec, slice_axis)
    if list(scales) == [0]:
        return values
    return np.concatenate([values if s == 0 else _blur(values, s, slice_axis) for s in scales])


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


def normalise(channels: np.ndarray, spec: Mapping[str, Any], slice_axis: int | None = None) -> np.ndarray:
    """Map the intensities of an image to what a model was trained on.

    Statistics are taken per channel over the finite voxels of the whole image given: pass the image, not a crop of it,
    or the same tissue gets another value in every region of interest. NaN and infinite voxels become the smallest
    finite value of their channel, as scanners and reconstructions use them for "outside"; a channel without a finite
    voxel becomes 0, and so does a constant one under `percentile` and `zscore`.

    Args:
        channels: (C, *S), of the pixel type the image was stored in (`unit` needs to know it).
        spec: the metadata's entry, see above; `low` and `high` of `percentile` are 0.5 and 99.5 unless given.
        slice_axis: of (*S): `local` looks no further than the slice.

    Returns:
        float32 (C, *S), a new array.

    Raises:
        InputError: an unknown kind, `low` not below `high`, or `unit` for signed or wider integers.
    """
    kind = spec.get("kind")
    if kind not in ("percentile", "zscore", "window", "local", "unit", "none"):
        raise InputError(
            f"unknown intensity normalisation {kind!r}: use percentile, zscore, window, local, unit or none"
        )
    low, high = _bounds(spec) if kind in ("percentile", "window") else (0.0, 1.0)
    if kind == "unit":
        high = _full_scale(channels.dtype)
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite and is replaced below
        values = np.array(channels, np.float32, order="C")
    for channel in values:
        finite = _replace_non_finite(channel)
        if kind == "zscore":
            sample = _every_nth(finite).astype(np.float64)
            deviation = sample.std() if sample.size else 0.0
            _scale(channel, sample.mean() if sample.size else 0.0, deviation)
        elif kind == "percentile":
            _scale(channel, *_percentiles(finite, low, high), clip=True)
        elif kind != "none" and kind != "local":
            _scale(channel, low, high - low, clip=True)
        if not finite.size:
            channel[...] = 0
    return _local_contrast(values, float(spec.get("sigma", 16)), slice_axis) if kind == "local" else values


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


def _local_contrast(values: np.ndarray, sigma: float, slice_axis: int | None) -> np.ndarray:
    """Each channel less its local mean, over its local deviation; the deviation of flat places is not taken below a
    quarter of the channel's own mean one, or their noise would look like structure."""
    if not sigma > 0:
        raise InputError(f"normalisation local with sigma {sigma}: it is more than 0, in voxels")
    values -= _blur(values, sigma, slice_axis)
    deviation = np.sqrt(_blur(values * values, sigma, slice_axis))
    floor = 0.25 * deviation.mean(tuple(range(1, values.ndim)), keepdims=True)
    values /= np.maximum(deviation, np.maximum(floor, np.finfo(np.float32).tiny))
    return np.clip(values, -3, 3, out=values)


def _blur(values: np.ndarray, sigma: float, slice_axis: int | None) -> np.ndarray:
    sigmas = [sigma] * (values.ndim - 1)
    if slice_axis is not None:
        sigmas[slice_axis] = 0
    return ndimage.gaussian_filter(values, [0, *sigmas], mode="nearest", truncate=3)


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


def _replace_non_finite(channel: np.ndarray) -> np.ndarray:
    """Put the smallest finite value where there is none, in place; return the finite values, flat."""
    flat = channel.reshape(-1)
    good = np.isfinite(flat)
    if good.all():
        return flat
    finite = flat[good]
    flat[~good] = finite.min() if finite.size else 0
    return finite


def _every_nth(flat: np.ndarray) -> np.ndarray:
    """At most `SAMPLE` values, evenly spread; the step is odd, so that it does not stay in a few columns."""
    step = -(-flat.size // SAMPLE) if flat.size else 1
    return flat[:: step | 1 if step > 1 else 1]


def _percentiles(finite: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """The lower percentile and the distance to the upper one; of the extremes where the percentiles coincide."""
    if not finite.size:
        return 0.0, 0.0
    bottom, top = np.percentile(_every_nth(finite), (low, high))
    if not bottom < top:  # nearly everything has one value: a few bright vessels on black
        bottom, top = finite.min(), finite.max()
    return float(bottom), float(top) - float(bottom)


def _scale(channel: np.ndarray, zero: float, unit: float, clip: bool = False) -> None:
    """(channel - zero) / unit in place; 0 everywhere where `unit` is 0."""
    channel -= np.float32(zero)
    channel *= np.float32(1 / unit if unit > np.finfo(np.float32).tiny else 0)
    if clip:
        np.clip(channel, 0, 1, out=channel)
