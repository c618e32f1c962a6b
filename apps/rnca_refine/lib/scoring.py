"""Scores of the masks in the datastore: their topology, and how broken that makes them."""

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
MOST_DEFECTS = 200


def brokenness(mask: np.ndarray) -> dict[str, Any]:
    """Topology of a mask's foreground, and one number that grows with its defects.

    A defect counts as its weight times the logarithm of its size, so that a torn vessel outweighs specks.
    """
    defects = find_defects(mask)[:MOST_DEFECTS]
    points = sum(WEIGHTS[d.kind] * d.count * float(np.log2(1 + d.size)) for d in defects)
    return {"topology": summary(mask), "defects": len(defects), "brokenness": round(points, 3)}


def score_label(store: Keeps, image: str, tag: str, most_voxels: int) -> dict[str, Any] | None:
    """Score one label and store the scores with it; None where there is none, or it cannot be read."""
    known = store.get_label_info(image, tag)
    path = Path(store.get_label_uri(image, tag))
    if not path.is_file():
        return None
    stamp = [path.stat().st_size, path.stat().st_mtime_ns]
    if known.get("scored") == stamp:
        return {k: known[k] for k in ("topology", "defects", "brokenness")}
    try:
        scores = brokenness(as_array(read_uploaded_mask(path, most_voxels)) != 0)
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
        for image in datastore.list_images():
            for tag in datastore.get_labels_by_image_id(image):
                if tag in ("final", "original"):
                    scores = score_label(datastore, image, tag, self._voxels)
                    if scores is not None:
                        out.setdefault(image, {})[tag] = scores
        return out
