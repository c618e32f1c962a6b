"""Synthetic images with masks whose topology is right by construction: to train on, to test on and to show.

Three kinds of object, each after what the paper repairs: closed rings (heart muscle, or thin contours), compact organs
(liver) and branching vessels (retina). Shape, contrast, texture, bias field, blur and noise vary from seed to seed, so
that a model trained on these learns to follow an image and not one look of it. One code for 2-D and 3-D; lengths are
voxels.
"""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .defects import Seed, generator, smooth_noise
from .errors import InputError

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
Points = NDArray[np.float64]

SMALLEST = 16
"""Fewest voxels an axis can have: below it a ring with a hole, and walls of two voxels, does not fit."""

THINNEST = 1.2
"""Radius in voxels of the thinnest vessel: two to three voxels wide, wherever its axis runs between the voxels."""


def phantom(kind: str, shape: Sequence[int], seed: Seed = 0) -> tuple[Image, Mask]:
    """An image and its correct mask.

    Args:
        kind: one of `KINDS`.

            - `rings`: one to three closed rings that do not touch each other or the array's edge, each with b0 = 1 and
              b1 = 1. In 3-D a ring is a solid torus or the wall of a tube with open ends (b1 = 1, b2 = 0 both).
            - `thin-rings`: one or more closed wobbly contours, 3 to 4 pixels wide and of one grey with a soft dark rim,
              over a cloudy background that is darker here and brighter there; apart and off the edge like `rings`.
              After the paper authors' own example. In 3-D a stack of such rings along the first axis, one a slice, that
              changes little from slice to slice: together the wall of one tube, from the first slice to the last.
            - `blobs`: one or two compact objects without hole or handle (b0 = 1 each, nothing else), apart from each
              other and from the edge, among others that are not in the mask though similarly bright.
            - `vessels`: one to three trees with tapering branches, each in one piece, at least two voxels wide.
              Branches may cross, so there are loops; trees may cross each other, and run out of the array.

        shape: two or three sizes, each at least 16 voxels.
        seed: a number, 0 or larger, or a generator to draw from. The same number gives the same bits.

    Returns:
        image (float32, 0 to 1) and mask (bool, never empty), both of `shape`.

    Raises:
        InputError: unknown kind, a negative seed, or a shape that is too small or neither 2-D nor 3-D.
    """
    if kind not in KINDS:
        raise InputError(f"there is no phantom '{kind}'; choose one of {', '.join(KINDS)}")
    if len(shape) not in (2, 3) or min(shape) < SMALLEST:
        raise InputError(f"the shape is {tuple(shape)}; give two or three sizes of {SMALLEST} voxels or more")
    rng = generator(seed)
    image, mask = _PHANTOMS[kind](tuple(shape), rng)
    if kind != "thin-rings":  # there the contrast has one sign, and blur and noise are those of the example
        image = _acquire(image, rng)
    return _to_unit(image), mask


# --- rings ----------------------------------------------------------------------------------------------------------


def _rings(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Image, Mask]:
    count = rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15])
    reach = min(shape) * (rng.uniform(0.2, 0.46) if count == 1 else rng.uniform(0.14, 0.24, count))
    placed = _place(shape, np.clip(np.atleast_1d(reach), _RING, min(shape) / 2 - 1.5), rng)
    walls, pools = np.zeros(shape, bool), np.zeros(shape, bool)
    for centre, radius in placed:
        wall, pool = _ring(shape, centre, radius, rng)
        walls |= wall
        pools |= pool
    if rng.random() < 0.4:  # a bright line in a texture, alike on both sides, as in the paper authors' own example
        uneven = rng.uniform(0.05, 0.15)
        image = 0.5 + uneven * _texture(shape, rng)
        image[walls] += uneven * rng.uniform(2, 4) * np.clip(1 + 0.3 * _texture(shape, rng)[walls], 0.3, 2)
        return image, walls
    # As in cine MR: bright blood inside and beside, dark muscle, and about it lung, muscle and fat.
    image = _tissues(shape, [rng.uniform(0, 0.15), rng.uniform(0.2, 0.5), rng.uniform(0.4, 0.9)], rng)
    blood, muscle = rng.uniform(0.65, 1), rng.uniform(0.15, 0.45)
    for centre, radius in placed:
        beside = centre + radius * rng.uniform(0.6, 1) * _unit(rng.standard_normal(len(shape)))
        image[_star(shape, beside, radius * rng.uniform(0.5, 1), rng) <= 0] = blood * rng.uniform(0.8, 1)
    image[walls] = muscle
    image[pools] = blood
    # Trabeculae and papillary muscles: dark in the pool, near the wall, and no part of the mask.
    spots = pools & (smooth_noise(shape, max(2.0, min(shape) / 32), rng) > rng.uniform(0.6, 2))
    image[spots & (ndimage.distance_transform_edt(pools) < 1 + min(shape) / 20)] = muscle + 0.1
    return image + rng.uniform(0.01, 0.06) * _texture(shape, rng), walls


_RING = 6.5  # smallest outer radius that leaves room for a hole


def _ring(shape: tuple[int, ...], centre: Points, radius: float, rng: np.random.Generator) -> tuple[Mask, Mask]:
    """The wall and the pool of one ring that stays within `radius` of its centre.

    In polar coordinates about the centre the wall is |ρ - r(θ)| <= t(θ)/2, nowhere thinner than 2.5 voxels
    (3 in 3-D). In 3-D that is the cross-section of a tube, or, with z² added to the left side's square, of a torus.
    """
    torus = len(shape) == 3 and (radius < 1.4 * _RING or rng.random() < 0.5)
    longest = 2 * np.sqrt(radius**2 - _RING**2)
    length = 0.0 if len(shape) == 2 or torus else min(radius * rng.uniform(0.8, 1.5), longest)
    outer = np.sqrt(radius**2 - (length / 2) ** 2)
    thinnest = 2.5 if len(shape) == 2 else 3.0
    thickest = max(thinnest, outer * (0.12 + 0.45 * rng.random() ** 2))
    theta = np.linspace(-np.pi, np.pi, 257)
    wobble = sum(rng.normal(0, 0.09 / k) * np.cos(k * theta + rng.uniform(0, 6.3)) for k in range(2, 7))
    ellipse = 1 / np.hypot(np.cos(theta - (tilt := rng.uniform(0, 3.2))), np.sin(theta - tilt) / rng.uniform(0.7, 1))
    contour = np.clip(ellipse * np.exp(wobble), 0.6, None)
    contour *= (outer - thickest / 2) / contour.max()
    uneven = rng.uniform(0, 0.35) * np.cos(theta + rng.uniform(0, 6.3)) + rng.uniform(0, 0.15) * np.cos(2 * theta)
    width = thickest * (1 + uneven) / (1 + uneven).max()
    width = np.minimum(width, 2 * contour - 4)  # leaves a hole four voxels wide
    # Measured along the radius, so a wall that runs oblique to it must be wider to be as thick.
    width = np.maximum(width, thinnest * np.hypot(1, np.gradient(contour, theta) / contour))

    place = _coordinates(shape, centre, rng)
    rho, angle = np.hypot(place[0], place[1]), np.arctan2(place[1], place[0])
    off = rho - np.interp(angle, theta, contour)
    half = np.interp(angle, theta, width) / 2
    if torus:
        return off**2 + place[2] ** 2 <= half**2, np.zeros(shape, bool)
    within = np.abs(place[2]) <= length / 2 if length else np.ones(shape, bool)
    return (np.abs(off) <= half) & within, (off < -half) & within


# --- thin rings -----------------------------------------------------------------------------------------------------


def _thin_rings(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Image, Mask]:
    flat, stack = shape[-2:], len(shape) == 3
    count = 1 if stack or min(flat) <= 32 else 1 + rng.poisson(min(flat) / 64 - 0.5)
    reach = rng.uniform(0.18, 0.45, count) * max(min(flat) / count**0.5, 40)
    half = rng.uniform(1.5, 2)
    distance = np.full(shape, np.inf, np.float32)
    for centre, radius in _place(flat, np.clip(reach, _RING, min(flat) / 2 - 1.5), rng):
        np.minimum(distance, _contour_distance(shape, centre, radius, half, rng), out=distance)

    cells = 64 / 2.0 ** np.arange(1, 6)
    weights = cells ** rng.uniform(0.1, 0.6)
    weights *= rng.uniform(0.18, 0.22) / np.linalg.norm(weights)
    image = np.full(shape, 0.5, np.float32)
    for weight, cell in zip(weights, cells, strict=True):
        image += weight * smooth_noise(shape, cell, rng)
    within_slices = [0] * stack + [rng.uniform(0.5, 1)] * 2
    image = ndimage.gaussian_filter(image, within_slices, mode="nearest", truncate=3)
    # A grey line with a dark rim: it covers the clouds further out than it shines.
    image *= 1 - rng.uniform(0.65, 0.8) * np.exp(-((distance / half) ** 2) / 2.2)
    image += rng.uniform(0.58, 0.7) * np.exp(-((distance / half) ** 2) / 1.1)
    image += rng.uniform(0.005, 0.02) * rng.standard_normal(shape, dtype=np.float32)
    return image, distance <= half


def _contour_distance(
    shape: tuple[int, ...], centre: Points, radius: float, half: float, rng: np.random.Generator
) -> Image:
    """Distance of each pixel to a wobbly closed contour in its slice; within `half` of it lies a ring.

    To first order, |ρ - r(θ)| / √(1 + (r'/r)²) in polar coordinates about the centre. The ring stays within `radius`
    of the centre and leaves a hole four pixels wide. A stack goes evenly from one contour to another, at most one
    pixel a slice, so that the rings of neighbouring slices overlap all round.
    """
    theta = np.linspace(-np.pi, np.pi, 257)
    slices = 1 if len(shape) == 2 else shape[0]
    first, last = (_contour(theta, radius * share, half, rng) for share in (1, rng.uniform(0.6, 1)))
    change = last - first
    change *= min(1.0, (slices - 1) / np.abs(change).max())
    y, x = (g - c for g, c in zip(np.ogrid[tuple(map(slice, shape[-2:]))], centre, strict=True))
    rho, angle = np.hypot(y, x), np.arctan2(y, x)
    out = np.empty((slices, *rho.shape), np.float32)
    for n in range(slices):
        contour = first + change * (n / max(slices - 1, 1))
        out[n] = np.abs(rho - np.interp(angle, theta, contour)) / np.interp(angle, theta, _steepness(contour, theta))
    return out.reshape(shape)


def _contour(theta: Points, radius: float, half: float, rng: np.random.Generator) -> Points:
    """A random r(θ) whose ring, `half` to either side, reaches out to `radius`, or is the smallest there is."""
    calm = np.clip((radius - _RING) / 8, 0, 1)  # the smallest have no room to wobble
    wobble = sum(calm * rng.normal(0, 0.12 / k) * np.cos(k * theta + rng.uniform(0, 6.3)) for k in range(2, 6))
    contour = np.exp(wobble)
    slack = half * _steepness(contour, theta)
    return np.maximum(contour * ((radius - slack) / contour).min(), slack + 2)


def _steepness(contour: Points, theta: Points) -> Points:
    """How much longer than across it a way through the contour is along the radius."""
    return np.hypot(1, np.gradient(contour, theta) / contour)


# --- blobs ----------------------------------------------------------------------------------------------------------


def _blobs(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Image, Mask]:
    count = rng.choice([1, 2], p=[0.75, 0.25])
    reach = min(shape) * (rng.uniform(0.2, 0.46) if count == 1 else rng.uniform(0.14, 0.24, count))
    placed = _place(shape, np.clip(np.atleast_1d(reach), 4, min(shape) / 2 - 1.5), rng)
    outside = np.minimum.reduce([_star(shape, centre, radius, rng) for centre, radius in placed])
    mask = outside <= 0

    organ = rng.uniform(0.45, 0.75)
    image = _tissues(shape, [rng.uniform(0, 0.2), organ - rng.uniform(0.15, 0.3)], rng)
    fat = rng.uniform(-1, 2)  # voxels of background between the organ and its neighbours; none below 0
    for _ in range(rng.integers(1, 5)):
        middle, radius = placed[rng.integers(len(placed))]
        size = min(shape) * rng.uniform(0.1, 0.3)
        beside = middle + (radius * rng.uniform(0.7, 1) + size) * _unit(rng.standard_normal(len(shape)))
        neighbour = (_star(shape, beside, size, rng) <= 0) & (outside > fat)
        image[neighbour] = organ + rng.choice([-1, 1]) * rng.uniform(0.03, 0.25)
    image[mask] = organ
    lesions = mask & (smooth_noise(shape, min(shape) / rng.uniform(6, 16), rng) > rng.uniform(1.3, 3))
    image[lesions] += rng.uniform(-0.2, 0.2)
    return image + rng.uniform(0.01, 0.07) * _texture(shape, rng), mask


def _star(shape: tuple[int, ...], centre: Points, radius: float, rng: np.random.Generator) -> Image:
    """Roughly the distance to a smooth star-shaped object within `radius` of its centre: 0 or less inside.

    The surface is at radius r(u) in direction u, so there is no hole and no handle whatever r is; here r is a few
    waves on the sphere of directions.
    """
    place = _coordinates(shape, centre, rng)
    rho = np.sqrt(sum(x**2 for x in place))
    direction = [x / np.maximum(rho, 0.5) for x in place]
    waves = np.zeros(shape, np.float32)
    for _ in range(5):
        frequency = 1.7 * rng.standard_normal(len(shape), np.float32)
        phase = sum(f * u for f, u in zip(frequency, direction, strict=True)) + rng.uniform(0, 6.3)
        waves += rng.uniform(0, 0.22) * np.cos(phase)
    squeeze = rng.uniform(0.6, 1, len(shape)).astype(np.float32)
    stretched = np.sqrt(sum((x / s) ** 2 for x, s in zip(place, squeeze, strict=True)))
    return stretched - radius * np.clip(0.75 + waves, 0.45, 1)


# --- vessels --------------------------------------------------------------------------------------------------------


def _vessels(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Image, Mask]:
    mask = np.zeros(shape, bool)
    wanted = np.prod(shape) * (rng.uniform(0.05, 0.16) if len(shape) == 2 else rng.uniform(0.01, 0.04))
    for _ in range(3):
        _draw_tree(mask, float(wanted), rng)
        if np.count_nonzero(mask) >= 0.6 * wanted:
            break

    image = 0.5 + rng.uniform(0.02, 0.08) * _texture(shape, rng)
    image += 0.1 * (smooth_noise(shape, min(shape) / rng.uniform(3, 8), rng) > rng.uniform(1, 3))  # bright patches
    faint = np.clip(0.9 + 0.5 * smooth_noise(shape, min(shape) / rng.uniform(2, 6), rng), 0.15, 1.2)
    soft = ndimage.gaussian_filter(mask.astype(np.float32), rng.uniform(0.4, 1), mode="nearest", truncate=3)
    image -= rng.uniform(0.2, 0.45) * faint * soft
    if rng.random() < 0.4:
        image *= _vignette(shape, rng)
    return image, mask


def _draw_tree(mask: Mask, wanted: float, rng: np.random.Generator) -> None:
    """Adds one connected tree, in place: branches off branches, widest first, until it has about `wanted` voxels."""
    shape = np.array(mask.shape)
    ndim, size = mask.ndim, float(shape.min())
    start = rng.uniform(0, shape - 1)
    if rng.random() < 0.7:
        axis = rng.integers(ndim)
        start[axis] = rng.choice([0, shape[axis] - 1])
    towards = _unit(rng.uniform(0.25, 0.75, ndim) * (shape - 1) - start)
    buds = deque([(start, towards, rng.uniform(1.4, 3.2) * np.sqrt(size / 64), size * rng.uniform(0.7, 1.4))])
    drawn, spacing = 0.0, rng.uniform(12, 24) * np.sqrt(size / 64)
    while buds and drawn < wanted:
        start, towards, radius, length = buds.popleft()
        path, heading = _branch(start, towards, length, rng)
        inside = ((path >= -0.5) & (path <= shape - 0.5)).all(1)
        path = path[: len(path) if inside.all() else inside.argmin()]  # one that leaves does not come back
        radii = np.maximum(radius * np.linspace(1, rng.uniform(0.5, 0.9), len(path)), THINNEST)
        _draw_balls(mask, path, radii)
        drawn += (2 * radii if ndim == 2 else np.pi * radii**2).sum() * _STEP
        for n in rng.permutation(len(path))[: rng.poisson(len(path) * _STEP / spacing)]:
            if radii[n] > THINNEST or rng.random() < 0.3:
                away = rng.standard_normal(ndim)
                away = _unit(away - (away @ heading[n]) * heading[n])
                angle = np.radians(rng.uniform(25, 75))
                turned = np.cos(angle) * heading[n] + np.sin(angle) * away
                buds.append((path[n], turned, radii[n] * rng.uniform(0.55, 0.9), length * rng.uniform(0.4, 0.8)))


_STEP = 0.7  # voxels between the points of a branch: less than the thinnest radius, so that it is in one piece


def _branch(start: Points, towards: Points, length: float, rng: np.random.Generator) -> tuple[Points, Points]:
    """Points of a curved path and the unit heading at each, (N, ndim) both."""
    count = max(int(length / _STEP), 3)
    bends = [smooth_noise((count,), count / rng.uniform(1, 4), rng) for _ in towards]
    heading = towards + rng.uniform(0.1, 0.5) * np.stack([bend - bend[0] for bend in bends], 1)
    heading /= np.maximum(np.linalg.norm(heading, axis=1, keepdims=True), 1e-3)
    return start + _STEP * np.cumsum(heading, 0), heading


def _draw_balls(mask: Mask, centres: Points, radii: Points) -> None:
    """Sets, in place, the voxels within `radii` (N,) of `centres` (N, ndim)."""
    reach = np.ceil(radii).astype(int)
    for r in np.unique(reach):
        offsets = np.stack(np.meshgrid(*[np.arange(-r, r + 1)] * mask.ndim, indexing="ij"), -1).reshape(-1, mask.ndim)
        chosen = np.flatnonzero(reach == r)
        for some in np.array_split(chosen, 1 + len(chosen) * len(offsets) // 1_000_000):  # bounds the memory
            near = np.rint(centres[some]).astype(int)[:, None] + offsets
            hit = ((near - centres[some, None]) ** 2).sum(-1) <= radii[some, None] ** 2
            hit &= ((near >= 0) & (near < mask.shape)).all(-1)
            mask[tuple(near[hit].T)] = True


_PHANTOMS: dict[str, Callable[[tuple[int, ...], np.random.Generator], tuple[Image, Mask]]] = {
    "rings": _rings,
    "thin-rings": _thin_rings,
    "blobs": _blobs,
    "vessels": _vessels,
}
KINDS = tuple(_PHANTOMS)


# --- what the kinds share -------------------------------------------------------------------------------------------


def _unit(vector: Points) -> Points:
    return vector / max(float(np.linalg.norm(vector)), 1e-6)


def _place(shape: tuple[int, ...], reach: Points, rng: np.random.Generator) -> list[tuple[Points, float]]:
    """Centres for balls of the given radii that keep two voxels apart and one off the edge; those that do not fit are
    left out, never the first."""
    placed: list[tuple[Points, float]] = []
    for radius in reach:
        for _ in range(20):
            centre = rng.uniform(radius + 0.5, np.array(shape) - 1.5 - radius)
            if all(np.linalg.norm(centre - other) > radius + r + 3 for other, r in placed):
                placed.append((centre, float(radius)))
                break
    return placed


def _coordinates(shape: tuple[int, ...], centre: Points, rng: np.random.Generator) -> list[Image]:
    """Each voxel's place about the centre, in axes turned at random: one array an axis."""
    turn, _ = np.linalg.qr(rng.standard_normal((len(shape), len(shape))))
    grid = [g - c for g, c in zip(np.ogrid[tuple(map(slice, shape))], centre, strict=True)]
    return [sum(t * g for t, g in zip(row, grid, strict=True)).astype(np.float32) for row in turn]


def _texture(shape: tuple[int, ...], rng: np.random.Generator) -> Image:
    """Noise of about unit variance with detail at several scales, coarser or finer from draw to draw."""
    cells = min(shape) / 2.0 ** np.arange(2, max(np.log2(min(shape)), 4))
    weights = cells ** rng.uniform(-0.3, 0.8)
    weights /= np.linalg.norm(weights)
    out = np.zeros(shape, np.float32)
    for weight, cell in zip(weights, cells, strict=True):
        out += weight * smooth_noise(shape, cell, rng)
    return out


def _tissues(shape: tuple[int, ...], levels: Sequence[float], rng: np.random.Generator) -> Image:
    """A background of large regions, each at one of the levels."""
    noise = smooth_noise(shape, min(shape) / rng.uniform(2, 6), rng)
    bounds = np.sort(rng.normal(0, 0.7, len(levels) - 1))
    return rng.permutation(levels).astype(np.float32)[np.digitize(noise, bounds)]


def _vignette(shape: tuple[int, ...], rng: np.random.Generator) -> Image:
    """Falls from 1 in the middle to 0.2–0.7 in the corners."""
    centre = [rng.uniform(0.4, 0.6) for _ in shape]
    grid = zip(np.ogrid[tuple(map(slice, shape))], shape, centre, strict=True)
    square = sum(((g / n - c) / 0.5) ** 2 for g, n, c in grid) / len(shape)
    return (1 - rng.uniform(0.3, 0.8) * np.minimum(square, 1) ** 1.5).astype(np.float32)


def _acquire(image: Image, rng: np.random.Generator) -> Image:
    """What a scanner adds: bias field, blur, noise, either sign of contrast."""
    shape = image.shape
    image = image * np.exp(rng.uniform(0, 0.3) * smooth_noise(shape, min(shape) / rng.uniform(0.7, 2), rng))
    image = ndimage.gaussian_filter(image, rng.uniform(0.2, 0.9), mode="nearest", truncate=3)
    grain = rng.standard_normal(shape, dtype=np.float32)
    if rng.random() < 0.3:  # interpolation and compression leave noise that is not white
        grain = smooth_noise(shape, rng.uniform(1, 2), rng)
    image += rng.uniform(0.01, 0.07) * grain
    if rng.random() < 0.5:
        image = -image
    return image


def _to_unit(image: Image) -> Image:
    """Scaled to 0..1, a hundredth of the voxels clipped."""
    low, high = np.quantile(image, [0.005, 0.995])
    return np.clip((image - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
