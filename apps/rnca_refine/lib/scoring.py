"""Scores of the masks in the datastore: their topology, and how broken that makes them.

What counts as broken depends on the anatomy: a ring has a loop by nature. The final labels of the datastore tell what
is usual here, the median of each Betti number; a mask is as broken as it has pieces, loops and cavities beyond that,
or lacks them. Without a final label one solid piece is taken as usual.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.scoring import ScoringMethod

from rnca.geometry import as_array
from rnca.topology import find_defects, summary

from .datastore import Keeps
from .images import read_uploaded_mask
from .refusals import Refusal

WEIGHTS = {"component": 1.0, "hole": 1.0, "tunnel": 1.0, "cavity": 0.5}
LACKING = 6.0  # points for a piece, loop or cavity that is usual and not there: as for a defect of 63 voxels
MOST_DEFECTS = 200
_PLACE = {"component": 0, "hole": 1, "tunnel": 1, "cavity": 2}  # among the Betti numbers


def look(mask: np.ndarray) -> dict[str, Any]:
    """Topology of a mask's foreground, and the sizes of what keeps it from being one solid piece, largest first."""
    sizes: dict[str, list[int]] = {}
    for defect in find_defects(mask)[:MOST_DEFECTS]:
        sizes.setdefault(defect.kind, []).extend([defect.size] * defect.count)
    return {"topology": summary(mask), "defects": sizes}


def brokenness(scores: Mapping[str, Any], usual: Sequence[float]) -> float:
    """Points of a mask that was looked at: 0 for the usual topology, more the more and the larger its defects are.

    A defect counts as the logarithm of its size, so that a torn vessel outweighs specks.
    """
    betti, points = scores["topology"]["betti"], 0.0
    extra = [max(0, round(u) - (1 if axis == 0 else 0)) for axis, u in enumerate(usual)]
    for kind, sizes in scores["defects"].items():
        beyond = sizes[extra[_PLACE[kind]] :] if _PLACE[kind] < len(extra) else sizes
        points += WEIGHTS[kind] * float(sum(np.log2(1 + size) for size in beyond))
    if scores["topology"]["voxels"]:
        points += LACKING * sum(max(0, round(u) - b) for u, b in zip(usual, betti, strict=False))
    return round(points, 3)


def usual_topology(store: Keeps, most_voxels: int) -> list[float]:
    """The median Betti numbers of the final labels; of one solid piece where there is none."""
    found = []
    for image in store.get_labeled_images():
        scores = score_label(store, image, "final", most_voxels)
        if scores is not None and scores["topology"]["voxels"]:
            found.append(scores["topology"]["betti"])
    axes = max((len(b) for b in found), default=3)
    same = [b for b in found if len(b) == axes]
    return [float(v) for v in np.median(same, axis=0)] if same else [1.0, 0.0, 0.0]


def score_label(store: Keeps, image: str, tag: str, most_voxels: int) -> dict[str, Any] | None:
    """Look at one label and store what was seen with it; None where there is none, or it cannot be read."""
    known = store.get_label_info(image, tag)
    path = Path(store.get_label_uri(image, tag))
    if not path.is_file():
        return None
    stamp = [path.stat().st_size, path.stat().st_mtime_ns]
    if known.get("scored") == stamp:
        return {k: known[k] for k in ("topology", "defects")}
    try:
        scores = look(as_array(read_uploaded_mask(path, most_voxels)) != 0)
    except Refusal:
        return None
    store.update_label_info(image, tag, {**scores, "scored": stamp})
    return scores


class Topology(ScoringMethod):
    """Pieces, holes, tunnels and cavities of every label."""

    def __init__(self, most_voxels: int) -> None:
        super().__init__("Topology of every label, and how broken it is")
        self._voxels = most_voxels

    def __call__(self, request: Any, datastore: Keeps) -> dict[str, Any]:
        out: dict[str, Any] = {}
        usual = usual_topology(datastore, self._voxels)
        for image in datastore.list_images():
            for tag in datastore.get_labels_by_image_id(image):
                if tag in ("final", "original"):
                    scores = score_label(datastore, image, tag, self._voxels)
                    if scores is not None:
                        points = brokenness(scores, usual)
                        out.setdefault(image, {})[tag] = {**scores, "brokenness": points}
        return out
