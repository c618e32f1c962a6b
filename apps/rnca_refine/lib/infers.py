"""The infer tasks: `rnca_refine` for every client, `rnca_refine_edit` for the segment that is being edited.

MONAI Label's tasks get no datastore, and everything in their request may come from the client. So what a task works on
is put into the request by the app itself under one key that no client can set.
"""

import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from rnca.geometry import Grid

from .images import same_type
from .models import Models
from .params import Params
from .refusals import Refusal
from .repair import refine_all

KEY = "rnca"
RESEARCH = "For research use only; not a medical device."


@dataclass
class Inputs:
    """What the app resolved for a task."""

    picture: Any
    mask: sitk.Image
    extension: str
    params: Params
    folder: Path
    names: dict[int, str]


class RefineTask(InferTask):
    """Repairs the mask that comes with the request, or the image's own."""

    def __init__(self, kind: InferType, models: Models, description: str, labels: list[str]) -> None:
        config = {"model": models.names(), "steps": "", "device": ["cpu", "auto", "cuda"]}
        super().__init__(type=kind, labels=labels, dimension=3, description=description, config=config)
        self._models = models

    def is_valid(self) -> bool:
        return True

    def get_path(self, validate: bool = True) -> str:
        return str(self._models.registry.path(self._models.active(self._models.default)))

    def info(self) -> dict[str, Any]:
        """As every task's, with the models there are now."""
        names = self._models.names()
        active = {name: self._models.active(name).version for name in names}
        return {**super().info(), "config": {**self._config, "model": names}, "active": active, "notice": RESEARCH}

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        inputs = request.get(KEY)
        if not isinstance(inputs, Inputs):
            raise Refusal(400, "this task is reached through /infer and /rnca/refine only.")
        started = time.perf_counter()
        model, record = self._models.get(inputs.params.model, inputs.params.device, Grid.of(inputs.mask).shape)
        values, grid, reports = refine_all(inputs.mask, inputs.picture, model, inputs.params)
        result = grid.wrap(same_type(values, inputs.params.dtype))
        extension = inputs.params.extension or inputs.extension
        path = inputs.folder / f"{uuid.uuid4().hex}{extension}"
        write_result(result, path, inputs.params.compress)
        present = [int(v) for v in sorted({r["label"] for r in reports})]
        told = {
            "label_names": {inputs.names.get(v, f"label {v}"): v for v in present},
            "model": record.name,
            "version": record.version,
            "model_sha256": record.sha256,
            "steps": max((r["steps"] for r in reports), default=0),
            "labels": reports,
            "seconds": round(time.perf_counter() - started, 4),
            "latencies": {"total": round(time.perf_counter() - started, 2)},
            "notice": RESEARCH,
        }
        if len(reports) == 1:
            told["topology"] = reports[0].get("topology")
        if any(r["reason"] == "empty" for r in reports):
            told["message"] = next(r["sentence"] for r in reports if r["reason"] == "empty")
        return str(path), told


def write_result(image: sitk.Image, path: Path, compress: bool) -> None:
    """Write the result as the client wants it; Refusal where the format cannot hold it."""
    dtype = sitk.GetArrayViewFromImage(image).dtype
    if path.suffix == ".png" and (image.GetDimension() == 3 or dtype.name not in ("uint8", "uint16")):
        raise Refusal(400, "PNG does not hold this mask: ask for result_extension .nrrd.")
    for key in image.GetMetaDataKeys():
        if path.suffix != ".gz":
            image.EraseMetaData(key)
    try:
        sitk.WriteImage(image, str(path), useCompression=compress)
    except RuntimeError:
        raise Refusal(400, "the mask does not fit the format: ask for result_extension .nrrd.") from None
