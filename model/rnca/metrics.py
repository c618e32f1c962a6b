"""How close a mask is to the truth: overlap, centreline, surface distance and topology, defined for every pair.

Masks are arrays of two or three axes and equal shape, any dtype, non-zero is foreground. Lengths are in the unit of
`spacing`, which has one number an axis in array order (for a SimpleITK image: reversed); without it the unit is a
voxel edge. A volume with an axis of size 1 is measured as the image it is.

Empty masks: if both are empty they agree (overlaps 1, distances 0); if one is, overlaps are 0 and distances are the
diagonal of the image, longer than the distance between any two of its voxels. A mean over cases is thus never
undefined and never flattered by a missing object.

Anything but two masks of equal shape, or a spacing that does not fit them, raises InputError.
"""

import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from math import isnan, nan

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from .errors import InputError
from .topology import as_foreground, betti_numbers, bounding_box, label_foreground, require_same_shape

Mask = NDArray[np.bool_]
Spacing = float | Sequence[float] | None

TILE = 64  # edge of the paper's patches
HARM_DICE = 0.97  # a mask with the right topology and more Dice than this needed no repair
HARM_LOSS = 0.005  # … and losing more Dice than this harms it


def dice(pred: ArrayLike, truth: ArrayLike) -> float:
    """Dice coefficient 2 |P ∩ T| / (|P| + |T|), 0 to 1, higher is better."""
    p, t = _pair(pred, truth)
    total = np.count_nonzero(p) + np.count_nonzero(t)
    return 2 * int(np.count_nonzero(p & t)) / int(total) if total else 1.0


def cldice(pred: ArrayLike, truth: ArrayLike) -> float:
    """Centreline Dice, 0 to 1, higher is better: the harmonic mean of two shares of skeleton.

    Topology precision is the share of the prediction's skeleton inside the truth, topology sensitivity the share of
    the truth's skeleton inside the prediction. Skeletons are scikit-image's, as in the authors' code: Zhang in 2-D,
    Lee in 3-D. Where Lee's thinning erases a whole piece (straight tubes of 4 × 4 voxels and blocks of 2 × 2 × 2, see
    scikit-image issue 3757) the deepest voxels of the piece are its skeleton here; the authors' code would ignore it.

    References:
        Shit et al.: clDice - a novel topology-preserving loss function for tubular structure segmentation, CVPR 2021.
    """
    p, t, _ = _flat(*_pair(pred, truth), None)
    if not p.any() or not t.any():
        return float(p.any() == t.any())
    skeleton_p, skeleton_t = _skeleton(p), _skeleton(t)
    precision = np.count_nonzero(skeleton_p & t) / np.count_nonzero(skeleton_p)
    sensitivity = np.count_nonzero(skeleton_t & p) / np.count_nonzero(skeleton_t)
    return float(2 * precision * sensitivity / (precision + sensitivity)) if precision and sensitivity else 0.0


def hausdorff(pred: ArrayLike, truth: ArrayLike, spacing: Spacing = None) -> float:
    """Hausdorff distance: the longest way from a surface voxel of one mask to the surface of the other.

    Surface voxels are foreground voxels with a face on the background or on the border of the image; distances run
    between voxel centres. Same value as MONAI's compute_hausdorff_distance.
    """
    return _surface_metrics(pred, truth, spacing)["hd"]


def hausdorff95(pred: ArrayLike, truth: ArrayLike, spacing: Spacing = None) -> float:
    """`hausdorff` with the 95th percentile of each direction in place of its maximum; the larger of the two.

    Some other tools take one percentile of both directions pooled.
    """
    return _surface_metrics(pred, truth, spacing)["hd95"]


def assd(pred: ArrayLike, truth: ArrayLike, spacing: Spacing = None) -> float:
    """Average symmetric surface distance: the mean over the surface voxels of both masks, pooled.

    Same value as MONAI's compute_average_surface_distance with symmetric=True; not the mean of the two directed
    means. Surfaces as for `hausdorff`.
    """
    return _surface_metrics(pred, truth, spacing)["assd"]


def betti_errors(pred: ArrayLike, truth: ArrayLike, tile: int | None = None) -> tuple[float, ...]:
    """|Δβ| of each dimension: (b0, b1) in 2-D, (b0, b1, b2) in 3-D; conventions of `betti_numbers`.

    Args:
        tile: None compares the whole images. An edge in voxels compares non-overlapping tiles of that edge (64 gives
            64×64, in 3-D 64×64×64; those at the far border are what remains) and returns the mean over the tiles with
            foreground in either mask, 0 if there are none. The two protocols give very different figures: say which.

    The paper cuts overlapping 64×64 patches and leaves out those where the mask to repair is empty. Here a tile also
    counts if only the truth has foreground, so that a lost object is an error; a tile where a repair removes the only
    foreground stops counting, which makes the repair look slightly worse, not better.
    """
    p, t = _pair(pred, truth)
    if tile is None:
        return tuple(float(abs(a - b)) for a, b in zip(betti_numbers(p), betti_numbers(t), strict=True))
    if tile < 1:
        raise InputError(f"The edge of a tile is at least 1 voxel, not {tile}; the paper's is {TILE}.")
    boxes = product(*([slice(start, start + tile) for start in range(0, n, tile)] for n in p.shape))
    errors = [betti_errors(p[box], t[box]) for box in boxes if p[box].any() or t[box].any()]
    return tuple(float(mean) for mean in np.mean(errors, axis=0)) if errors else (0.0,) * p.ndim


def evaluate(
    pred: ArrayLike, truth: ArrayLike, spacing: Spacing = None, before: ArrayLike | None = None
) -> dict[str, float]:
    """Every metric of a prediction and, given the mask it was repaired from, what the repair changed.

    Args:
        pred: the mask to judge.
        truth: the mask to judge it by.
        spacing: voxel edge lengths in array order; see the module's docstring.
        before: the mask before the repair.

    Returns:
        "dice", "cldice", "hd", "hd95", "assd", for each dimension "betti0_error" … (whole image) and
        "betti0_error_tile64" … (mean over tiles), and "topology_right": 1 if all Betti numbers of the whole image are
        right, else 0. With `before` also the same of the mask before, each with the prefix "before_", and

        - "repaired": 1 if the topology was wrong and is right now, 0 if it is still wrong; NaN if it was right.
        - "harmed": for a mask with the right topology and a Dice above 0.97, 1 if its topology is wrong now or it
          lost more than 0.005 of Dice, else 0; NaN for any other mask.
    """
    row = _measure(pred, truth, spacing)
    if before is None:
        return row
    old = _measure(before, truth, spacing)
    was_right, is_right = old["topology_right"] == 1, row["topology_right"] == 1
    lost = old["dice"] - row["dice"] > HARM_LOSS
    return {
        **row,
        **{f"before_{name}": value for name, value in old.items()},
        "repaired": nan if was_right else float(is_right),
        "harmed": float(lost or not is_right) if was_right and old["dice"] > HARM_DICE else nan,
    }


def summarise(rows: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float, int]]:
    """(mean, standard deviation, n) of each metric over the cases that have it; NaN does not count.

    The deviation is that of the cases themselves (divisor n, so 0 for one case). Mean and deviation are NaN if n is 0.
    Metrics are in order of first appearance.
    """
    table = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if name in row and not isnan(row[name])]
        table[name] = (float(np.mean(values)), float(np.std(values)), len(values)) if values else (nan, nan, 0)
    return table


def _measure(pred: ArrayLike, truth: ArrayLike, spacing: Spacing) -> dict[str, float]:
    p, t = _pair(pred, truth)
    errors = betti_errors(p, t)
    return {
        "dice": dice(p, t),
        "cldice": cldice(p, t),
        **_surface_metrics(p, t, spacing),
        **{f"betti{k}_error": error for k, error in enumerate(errors)},
        **{f"betti{k}_error_tile{TILE}": error for k, error in enumerate(betti_errors(p, t, TILE))},
        "topology_right": float(not any(errors)),
    }


def _surface_metrics(pred: ArrayLike, truth: ArrayLike, spacing: Spacing) -> dict[str, float]:
    """The three surface metrics from one pass: MONAI's own functions would each find the same distances again."""
    p, t, edges = _flat(*_pair(pred, truth), spacing)
    if not p.any() or not t.any():
        distance = 0.0 if p.any() == t.any() else float(np.linalg.norm(np.multiply(p.shape, edges)))
        return dict.fromkeys(("hd", "hd95", "assd"), distance)
    import torch
    from monai.metrics.utils import get_edge_surface_distance  # takes seconds to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI warns of an argument that it passes to itself
        _, both, _ = get_edge_surface_distance(torch.tensor(p), torch.tensor(t), spacing=edges, symmetric=True)
    directions = [distances.numpy().astype(np.float64) for distances in both]
    return {
        "hd": float(max(d.max() for d in directions)),
        "hd95": float(max(np.percentile(d, 95) for d in directions)),
        "assd": float(np.concatenate(directions).mean()),
    }


def _skeleton(mask: Mask) -> Mask:
    """Centreline of every piece of a mask that is not empty."""
    from skimage.morphology import skeletonize

    box = bounding_box(mask)
    assert box is not None
    solid = np.pad(mask[box], 1)
    skeleton: Mask = skeletonize(solid)
    pieces, count = label_foreground(solid)
    boxes = scipy.ndimage.find_objects(pieces)
    for erased in np.setdiff1d(np.arange(1, count + 1), pieces[skeleton]):
        piece_box = boxes[erased - 1]
        depth = scipy.ndimage.distance_transform_edt(np.pad(pieces[piece_box] == erased, 1))
        skeleton[piece_box] |= (depth == depth.max())[(slice(1, -1),) * mask.ndim]
    whole = np.zeros_like(mask)
    whole[box] = skeleton[(slice(1, -1),) * mask.ndim]
    return whole


def _pair(pred: ArrayLike, truth: ArrayLike) -> tuple[Mask, Mask]:
    p, t = as_foreground(pred), as_foreground(truth)
    require_same_shape("prediction", p, "truth", t)
    return p, t


def _flat(p: Mask, t: Mask, spacing: Spacing) -> tuple[Mask, Mask, tuple[float, ...]]:
    """The masks and their voxel edges less axes of size 1, while two are left: a slice has an outline, not a skin."""
    edges = np.asarray(1.0 if spacing is None else spacing, dtype=float)
    if edges.shape not in ((), (p.ndim,)) or not (np.isfinite(edges) & (edges > 0)).all():
        raise InputError(f"Spacing is one positive number for each of the {p.ndim} axes of the masks, not {spacing}.")
    surplus = tuple(axis for axis, n in enumerate(p.shape) if n == 1)[: p.ndim - 2]
    kept = tuple(float(edge) for axis, edge in enumerate(np.broadcast_to(edges, p.ndim)) if axis not in surplus)
    return p.squeeze(surplus), t.squeeze(surplus), kept
