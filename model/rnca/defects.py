"""Synthetic damage: masks broken the way networks and editors break them.

The automaton learns to repair by undoing damage, so what this module draws is what a model can mend. Sources of the
kinds: the paper's Appendix B (rectangles and circles cut out, overlapping), Appendix C (75 % of the thin structures
removed) and Appendix D (erosion, dilation, opening, unperturbed masks); islands, bridges and interior holes are what
real predictions show beside those.

Everything is one code for 2-D and 3-D. Lengths are voxels: spacing is not looked at. Foreground is 8- or
26-connected, background 4- or 6-connected. The edge of the array is not a boundary of the object: a structure that
runs out of the image is neither thinned nor opened from there.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from .errors import InputError

Mask = NDArray[np.bool_]
Seed = int | np.random.Generator


def damage(mask: ArrayLike, kind: str, severity: float = 0.5, seed: Seed = 0) -> Mask:
    """A damaged copy of a mask.

    Args:
        mask: 2-D or 3-D, any dtype; what is not zero is foreground. Left untouched.
        kind: one of `KINDS`.

            - `gaps`: strands cut across, the cut a little longer than the strand is thick
            - `holes`: small holes that do not reach the surface
            - `chunks`: boxes and balls taken out, which may overlap
            - `wedges`: a sector out of every component, from its hole (or its centroid) outwards; in 3-D a sector
              about an axis, that of the tube or torus where it is one
            - `thin`, `thick`: 1 to 3 voxels off or on, everywhere or in parts
            - `open`: what a small ball does not fit into is removed, everywhere or in parts
            - `islands`: blobs near the object that do not touch it
            - `bridges`: false links across short stretches of background
            - `mixed`: one to three of the above, sometimes none
            - `none`: the mask as it is

        severity: 0 (the mildest form, still damage) to 1. More severe is more damage on average, not for every seed.
        seed: a number, 0 or larger, or a generator to draw from. The same number gives the same bits.

    Returns:
        The damaged mask, same shape. An empty mask stays empty for every kind, `islands` too: there is no object to be
        near to. A mask with voxels keeps some, because the automaton grows from voxels and not from nothing: if the
        damage took all, the surroundings of the thickest place are put back. A kind that finds nothing to act on
        changes nothing: no hole fits into a strand two voxels wide, no bridge over a convex object, nothing is thin
        enough to open in a smooth one, and a full mask has no surface.

    Raises:
        InputError: unknown kind, severity outside 0..1, a negative seed, or neither 2-D nor 3-D.
    """
    if kind not in KINDS:
        raise InputError(f"there is no kind of damage '{kind}'; choose one of {', '.join(KINDS)}")
    if not 0 <= severity <= 1:
        raise InputError(f"severity is {severity}; give a number from 0 (mildest) to 1")
    rng = generator(seed)
    out = _as_mask(mask)
    if kind == "none" or not out.any():
        return out
    view = out
    while view.ndim > 2 and 1 in view.shape:  # a volume of one slice is an image: it has no thickness to cut through
        view = view.squeeze(view.shape.index(1))
    box = _bounding_box(view, margin=8 + _extent(view) // 8)  # room for islands; beyond it nothing changes
    before = view[box]
    after = _DEFECTS[kind](before, severity, rng)
    view[box] = after if after.any() else _thickest_place(before)
    return out


def soften(mask: ArrayLike, seed: Seed = 0, sigma: tuple[float, float] = (0.4, 1.5)) -> NDArray[np.float32]:
    """A binary mask as a soft starting state, like the probabilities of a network.

    The mask is blurred by a Gaussian whose width in voxels is drawn from the range `sigma`; mild noise is added where
    the result is undecided. Strands thinner than the blur end up below 0.5, as they do in a network's output.

    Args:
        mask: 2-D or 3-D, any dtype; what is not zero is foreground.
        seed: as in `damage`.
        sigma: smallest and largest width of the blur, in voxels, 0 or larger.

    Returns:
        float32 of the same shape, 0 to 1; exactly 0 further than four widths and a voxel from the mask.

    Raises:
        InputError: a negative seed, neither 2-D nor 3-D, or a range that is not 0 <= smallest <= largest.
    """
    low, high = sigma
    if not 0 <= low <= high:
        raise InputError(f"sigma is the range {low} to {high}; give smallest and largest width, 0 or larger")
    rng = generator(seed)
    binary = _as_mask(mask)
    out = np.zeros(binary.shape, np.float32)
    if not binary.any():
        return out
    width = rng.uniform(low, high)
    box = _bounding_box(binary, margin=int(4 * width) + 1)
    # "nearest": the mask goes on beyond the edge of the array, so it is not dimmed there.
    soft = ndimage.gaussian_filter(binary[box].astype(np.float32), width, mode="nearest", truncate=4)
    undecided = 4 * soft * (1 - soft)
    soft += undecided * rng.uniform(0, 0.12) * smooth_noise(soft.shape, rng.uniform(1, 3), rng)
    out[box] = np.where(soft < 0.02, 0, np.minimum(soft, 1))
    return out


def generator(seed: Seed) -> np.random.Generator:
    """The random generator of a seed, or the generator itself; a negative seed is an `InputError`."""
    if not isinstance(seed, np.random.Generator) and seed < 0:
        raise InputError(f"the seed is {seed}; give a whole number, 0 or larger")
    return np.random.default_rng(seed)


def smooth_noise(shape: Sequence[int], cell: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Gaussian noise, mean 0 and variance 1 at every voxel, that changes over about `cell` voxels.

    A cubic B-spline through random values on a grid of pitch `cell`. No convolution, so the cost does not grow with
    `cell`, and no BLAS, so the bits do not depend on the number of threads.
    """
    cell = max(cell, 1.0)
    field = rng.standard_normal([int((size - 1) / cell) + 4 for size in shape], dtype=np.float32)
    for axis, size in enumerate(shape):
        left, t = np.divmod(np.arange(size) / cell, 1)
        weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3])
        weights /= np.sqrt((weights**2).sum(0))  # unit variance between the grid's points too
        column = [-1 if a == axis else 1 for a in range(len(shape))]
        field = sum(
            np.take(field, left.astype(int) + k, axis) * w.astype(np.float32).reshape(column)
            for k, w in enumerate(weights)
        )
    return field


# --- one function a kind: (mask cropped to its surroundings, severity, generator) -> damaged mask -------------------


def _gaps(mask: Mask, severity: float, rng: np.random.Generator) -> Mask:
    depth = _depth(mask)
    ridge = np.argwhere(_on_ridge(mask, depth))
    thickness = depth[tuple(ridge.T)]
    weights = 1 / thickness
    order = rng.choice(len(ridge), min(len(ridge), 400), replace=False, p=weights / weights.sum())
    margin = (0.5 + 2.5 * severity) * np.sqrt(_scale(mask))
    longest = max(3.0, _extent(mask) / 5)  # of a compact object a bite, not the whole
    left = mask.sum() * (1 - 0.7 * severity * rng.uniform(0.2, 0.8))
    out = mask.copy()
    for n in order:
        radius = min(thickness[n] + 1 + rng.exponential(margin), longest)
        box, ball = _ball(ridge[n], radius, mask.shape)
        # Only the strand through the centre: its neighbours in the ball are other vessels, or the ring's far side.
        parts, _ = ndimage.label(mask[box] & ball, _neighbours(mask.ndim))
        centre = tuple(c - s.start for c, s in zip(ridge[n], box, strict=True))
        out[box] &= parts != parts[centre]
        if np.count_nonzero(out) <= left:
            break
    return out


def _holes(mask: Mask, severity: float, rng: np.random.Generator) -> Mask:
    depth = _depth(np.pad(mask, 1))[(slice(1, -1),) * mask.ndim]  # here the array's edge is a boundary: stay off it
    inside = np.argwhere(depth >= 2)
    if not len(inside):
        return mask
    largest = max(1.0, (0.1 + 0.4 * severity) * min(depth.max(), max(mask.shape) / 4))
    left = mask.sum() * (1 - 0.12 * severity * rng.uniform(0.3, 1))
    out = mask.copy()
    for centre in rng.permutation(inside)[:64]:
        # Strictly less than depth - 1, so that the outermost layer of voxels stays.
        radius = min(largest * rng.uniform(0.3, 1), depth[tuple(centre)] - 1.001)
        box, ball = _ball(centre, radius, mask.shape)
        out[box] &= ~ball
        if np.count_nonzero(out) <= left:
            break
    return out


def _chunks(mask: Mask, severity: float, rng: np.random.Generator) -> Mask:
    out = mask.copy()
    for centre in _draw_voxels(mask, 1 + rng.poisson(3 * severity), rng):
        half = np.array(mask.shape) * rng.uniform(0.04, 0.08 + 0.14 * severity, mask.ndim)
        if rng.random() < 0.5:
            out[_window(centre, np.maximum(half, 1), mask.shape)] = False
        else:
            box, ball = _ball(centre, max(half.mean(), 1), mask.shape)
            out[box] &= ~ball
    return out


def _wedges(mask: Mask, severity: float, rng: np.random.Generator) -> Mask:
    out = mask.copy()
    parts, _ = ndimage.label(mask, _neighbours(mask.ndim))
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        part = parts[box] == number
        if np.count_nonzero(part) < 8:  # nothing would be left of it
            continue
        plane, centre = _ring_frame(part, rng)
        angle = rng.uniform(0, 2 * np.pi)
        slope = np.tan(np.radians(rng.uniform(4 + 8 * severity, 8 + 47 * severity)))
        offset = [grid - c for grid, c in zip(np.ogrid[tuple(map(slice, part.shape))], centre, strict=True)]
        y, x = (sum(w * o for w, o in zip(axis, offset, strict=True)) for axis in plane)
        along = y * np.sin(angle) + x * np.cos(angle)
        across = np.abs(x * np.sin(angle) - y * np.cos(angle))
        # At least three voxels wide, so that it lets the hole out even where the sector is still narrow.
        out[box] &= ~(part & (along > 0) & (across <= np.maximum(slope * along, 1.0)))
    return out


def _thin(mask: Mask, severity: float, rng: np.random.Generator) -> Mask:
    depth = _depth(mask)
    amount = rng.uniform(1, 1.5 + 1.5 * severity)
    everywhere = rng.random() < 0.2 + 0.5 * severity
    if everywhere and np.count_nonzero(depth > amount) >= 0.4 * np.count_nonzero(mask):
        return depth > amount
    share = rng.uniform(0.2, 0.35 + 0.5 * severity)
    return mask & (depth > amount * _parts(mask & (depth <= amount), share, rng))


def _thick(mask: Mask, severity: float, rng: np.random.Generator) -> Mask:
    distance = _depth(~mask)
    amount = rng.uniform(1, 1.5 + 1.5 * severity)
    if rng.random() < 0.2 + 0.5 * severity:
        return distance <= amount
    share = rng.uniform(0.2, 0.35 + 0.5 * severity)
    return mask | (distance <= amount * _parts(~mask & (distance <= amount), share, rng))


def _open(mask: Mask, severity: float, rng: np.random.Generator) -> Mask:
    depth = _depth(mask)
    thickness = depth[_on_ridge(mask, depth)]
    # As small as takes the thinner places away and leaves the thicker ones.
    radius = float(np.clip(np.quantile(thickness, rng.uniform(0.1, 0.4 + 0.6 * severity)), 1, 1.5 + 2.5 * severity))
    opened = _depth(depth <= radius) <= radius
    everywhere = rng.random() < 0.2 + 0.5 * severity
    if everywhere and np.count_nonzero(opened) >= 0.6 * np.count_nonzero(mask):
        return opened
    share = rng.uniform(0.3, 0.5 + 0.5 * severity)
    return mask & (opened | (_parts(mask & ~opened, share, rng) < 0.5))


def _islands(mask: Mask, severity: float, rng: np.random.Generator) -> Mask:
    distance = _depth(~mask)
    free = distance >= 2  # a diagonal neighbour is sqrt(3) away at most
    scale = _scale(mask)
    near = free & (distance <= 3 + (2 + 4 * severity) * scale)
    if not near.any():
        return mask
    out = mask.copy()
    for centre in _draw_voxels(near, 1 + rng.poisson(3 * severity * scale), rng):
        radii = rng.uniform(0.8, 1.6 + 2.5 * severity, mask.ndim) * np.sqrt(scale)
        box, ball = _ball(centre, radii, mask.shape)
        out[box] |= ball & free[box]
    return out


def _bridges(mask: Mask, severity: float, rng: np.random.Generator) -> Mask:
    extent = max(mask.shape)
    starts = _draw_voxels(mask, 256, rng)
    directions = rng.standard_normal(starts.shape)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    path = np.rint(starts[:, None] + directions[:, None] * np.arange(extent)[:, None]).astype(int)
    inside = ((path >= 0) & (path < mask.shape)).all(-1)
    hit = inside & mask[tuple(np.moveaxis(np.clip(path, 0, np.array(mask.shape) - 1), -1, 0))]
    leave = hit.argmin(1)
    again = hit & (np.arange(extent) > leave[:, None])
    enter = again.argmax(1)
    gap = enter - leave
    found = np.flatnonzero(again.any(1) & (gap >= 2) & (gap <= extent / 2))
    if not len(found):
        return mask
    weights = np.exp(-(gap[found] - gap[found].min()) / (extent * (0.05 + 0.1 * severity)))
    count = min(int(np.count_nonzero(weights)), 1 + int(rng.poisson(2 * severity * _scale(mask))))
    out = mask.copy()
    for ray in rng.choice(found, count, replace=False, p=weights / weights.sum()):
        ends = path[ray, [leave[ray] - 1, enter[ray]]]
        _draw_tube(out, ends, rng.uniform(0.6, 1 + 1.5 * severity))
    return out


def _mixed(mask: Mask, severity: float, rng: np.random.Generator) -> Mask:
    kinds = list(_MIXTURE)
    weights = np.array(list(_MIXTURE.values()))
    count = rng.choice(4, p=[0.1, 0.4, 0.3, 0.2])
    out = mask
    for n in sorted(rng.choice(len(kinds), count, replace=False, p=weights / weights.sum())):
        if out.any():
            out = _DEFECTS[kinds[n]](out, severity * rng.uniform(0.4, 1), rng)
    return out


def _none(mask: Mask, severity: float, rng: np.random.Generator) -> Mask:
    return mask


_DEFECTS: dict[str, Callable[[Mask, float, np.random.Generator], Mask]] = {
    "gaps": _gaps,
    "holes": _holes,
    "chunks": _chunks,
    "wedges": _wedges,
    "thin": _thin,
    "thick": _thick,
    "open": _open,
    "islands": _islands,
    "bridges": _bridges,
    "mixed": _mixed,
    "none": _none,
}
KINDS = tuple(_DEFECTS)

# How often `mixed` draws a kind, relative to the others; applied in this order.
_MIXTURE = {
    "gaps": 3.0,
    "holes": 1.0,
    "chunks": 1.5,
    "wedges": 1.5,
    "thin": 2.0,
    "thick": 2.0,
    "open": 1.5,
    "bridges": 1.0,
    "islands": 1.5,
}


# --- what the kinds share -----------------------------------------------------------------------------------------


def _as_mask(mask: ArrayLike) -> Mask:
    """A boolean copy of a 2-D or 3-D mask."""
    out = np.array(mask) != 0
    if out.ndim not in (2, 3):
        raise InputError(f"the mask has {out.ndim} dimensions, shape {out.shape}; give a 2-D or a 3-D mask")
    return out


def _bounding_box(mask: Mask, margin: int) -> tuple[slice, ...]:
    """The slices that hold the foreground of a mask that is not empty, and `margin` voxels about it."""
    box = []
    for axis, size in enumerate(mask.shape):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(max(used[0] - margin, 0), min(used[-1] + margin + 1, size)))
    return tuple(box)


def _extent(mask: Mask) -> int:
    """The longest side of the box about the foreground of a mask that is not empty."""
    return max(side.stop - side.start for side in _bounding_box(mask, 0))


def _depth(mask: Mask) -> NDArray[np.float64]:
    """Distance of each foreground voxel to the nearest background voxel: 1 in the outermost layer, 0 in background.

    A mask without background is as deep as it is long.
    """
    return np.full(mask.shape, float(max(mask.shape))) if mask.all() else ndimage.distance_transform_edt(mask)


def _on_ridge(mask: Mask, depth: NDArray[np.float64]) -> Mask:
    """Foreground no less deep than all its neighbours: on the medial axis, where depth is half the local thickness."""
    return mask & (depth >= ndimage.maximum_filter(depth, 3))


def _thickest_place(mask: Mask) -> Mask:
    """The deepest voxel of a mask that is not empty, and those of its neighbours that are in the mask."""
    depth = _depth(mask)
    out = np.zeros_like(mask)
    box = _window(np.unravel_index(depth.argmax(), mask.shape), 1.0, mask.shape)
    out[box] = mask[box]
    return out


def _neighbours(ndim: int) -> Mask:
    return np.ones((3,) * ndim, bool)


def _scale(mask: Mask) -> float:
    """How many times longer than 64 voxels the (cropped) mask is, at least 1: large masks get more, larger defects."""
    return max(1.0, max(mask.shape) / 64)


def _draw_voxels(mask: Mask, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` foreground voxels of a mask that is not empty, drawn with replacement: (count, ndim)."""
    flat = np.flatnonzero(mask)
    return np.stack(np.unravel_index(flat[rng.integers(len(flat), size=count)], mask.shape), axis=1)


def _window(centre: ArrayLike, reach: ArrayLike, shape: Sequence[int]) -> tuple[slice, ...]:
    """The slices of the box centre - reach to centre + reach, as far as it lies in the array."""
    low = np.maximum(np.ceil(np.subtract(centre, reach)).astype(int), 0)
    high = np.minimum(np.floor(np.add(centre, reach)).astype(int) + 1, shape)
    return tuple(map(slice, low, high))


def _ball(centre: ArrayLike, radii: ArrayLike, shape: Sequence[int]) -> tuple[tuple[slice, ...], Mask]:
    """A ball, or an ellipsoid with one radius an axis: the slices of its box and the voxels of it in there."""
    radii = np.broadcast_to(np.maximum(radii, 0.5), len(shape))  # the centre voxel at least
    box = _window(centre, radii, shape)
    axes = zip(np.ogrid[box], np.asarray(centre), radii, strict=True)
    return box, sum(((x - c) / r) ** 2 for x, c, r in axes) <= 1


def _draw_tube(mask: Mask, ends: NDArray[np.int64], radius: float) -> None:
    """Sets, in place, the voxels within `radius` of the segment between two voxels of the mask, `ends` (2, ndim)."""
    middle = ends.mean(0)
    box = _window(middle, np.abs(ends[1] - middle) + radius, mask.shape)
    step = ends[1] - ends[0]
    offset = [x - start for x, start in zip(np.ogrid[box], ends[0], strict=True)]
    along = np.clip(sum(x * d for x, d in zip(offset, step, strict=True)) / (step @ step), 0, 1)
    mask[box] |= sum((x - along * d) ** 2 for x, d in zip(offset, step, strict=True)) <= radius**2


def _parts(region: Mask, share: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """A smooth field in 0..1, as large as the array, above 0 in about `share` of the region and 1 somewhere in it.

    0 everywhere if the region is empty.
    """
    noise = smooth_noise(region.shape, max(region.shape) / rng.uniform(3, 8), rng)
    values = noise[region]
    if not len(values):
        return np.zeros_like(noise)
    low, high = np.quantile(values, 1 - share), values.max()
    return np.clip(3 * (noise - low) / (high - low + 1e-6), 0, 1) if high > low else np.ones_like(noise)


def _ring_frame(part: Mask, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where to cut a sector out of a connected part: two unit vectors (2, ndim) that span its plane, and its tip.

    2-D: the tip is the voxel in the middle of the part's holes, or its centroid if it has none. 3-D: the tip is the
    centroid and the plane is across that axis (of the array or of inertia) whose line through the centroid stays
    furthest from the part, as it does in the lumen of a tube or the hole of a torus; across any of them, if all meet
    the part.
    """
    voxels = np.argwhere(part)
    centre = voxels.mean(0)
    if part.ndim == 2:
        hole = np.argwhere(ndimage.label(~np.pad(part, 1))[0] > 1) - 1  # region 1 is the outside: it has the corner
        if len(hole):
            centre = hole[((hole - hole.mean(0)) ** 2).sum(1).argmin()].astype(float)
        return np.eye(2), centre
    offset = voxels - centre
    inertia = np.linalg.eigh(np.einsum("ni,nj->ij", offset, offset))[1]
    axes = np.concatenate([np.eye(3), inertia.T])
    clearance = [((offset**2).sum(1) - (offset @ axis) ** 2).min() for axis in axes]
    chosen = int(np.argmax(clearance)) if max(clearance) > 1 else int(rng.integers(len(axes)))
    frame = np.eye(3) if chosen < 3 else inertia.T
    return np.delete(frame, chosen % 3, axis=0), centre
