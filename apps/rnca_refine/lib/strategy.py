"""Which image to look at next: the most broken mask first, of equally broken ones that the model is unsure about."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.strategy import Strategy

from rnca.geometry import as_array, bounding_box
from rnca.rollout import confidence

from .datastore import Keeps
from .images import Images, read_uploaded_mask
from .models import Models
from .refusals import Refusal
from .scoring import brokenness, score_label, usual_topology

SHORT_LIST = 3  # of the most broken, those whose confidence is measured
ROLLOUTS, STEPS, MOST_VOXELS = 4, 16, 4_000_000


class MostBroken(Strategy):
    """Images with a mask that are not `final` yet, weighted by their defects; if there is none, images without."""

    def __init__(self, images: Images, models: Callable[[], Models], most_voxels: int) -> None:
        super().__init__("Most broken mask first, unsure ones before sure ones")
        self._images, self._models, self._voxels = images, models, most_voxels

    def __call__(self, request: Any, datastore: Keeps) -> dict[str, Any] | None:
        open_ones = [i for i in datastore.get_unlabeled_images() if i in set(datastore.list_images())]
        usual = usual_topology(datastore, self._voxels)
        scored = []
        for image in sorted(open_ones):
            tags = datastore.get_labels_by_image_id(image)
            tag = next((t for t in ("original", "refined", "before") if t in tags), None)
            scores = score_label(datastore, image, tag, self._voxels) if tag else None
            if tag and scores and scores["topology"]["voxels"]:
                scored.append((brokenness(scores, usual), image, tag, scores))
        if not scored:
            return {"id": sorted(open_ones)[0]} if open_ones else None
        scored.sort(key=lambda row: (-row[0], row[1]))
        ranked = []
        for points, image, tag, scores in scored[:SHORT_LIST]:
            unsure = self._unsure(datastore, image, tag)
            ranked.append((points * (1 + unsure), image, tag, scores, unsure))
        points, image, tag, scores, unsure = max(ranked, key=lambda row: row[0])
        return {
            "id": image,
            "weight": round(points, 3),
            "tag": tag,
            "unsure": round(unsure, 4),
            "topology": scores["topology"],
            "defects": scores["defects"],
        }

    def _unsure(self, datastore: Keeps, image: str, tag: str) -> float:
        """1 − mean agreement of stochastic rollouts over the voxels they argue about; 0 where it cannot be told."""
        try:
            mask = read_uploaded_mask(Path(datastore.get_label_uri(image, tag)), self._voxels)
            values = np.asarray(as_array(mask) != 0)
            box = bounding_box(values)
            if box is None or np.prod([b.stop - b.start for b in box]) > MOST_VOXELS:
                return 0.0
            picture = self._images.get(Path(datastore.get_image_uri(image)), keep=True)
            model, _ = self._models().get(None, "cpu", values.shape)
            sure = confidence(picture.image, mask, model, STEPS, label="all", device="cpu", rollouts=ROLLOUTS, seed=0)
        except (Refusal, ValueError):
            return 0.0
        argued = sure[sure < 1]
        return float(1 - argued.mean()) if argued.size else 0.0
