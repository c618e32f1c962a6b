"""A DICOMweb archive as a datastore that loses nothing."""

import shutil
from contextlib import suppress
from typing import Any

import SimpleITK as sitk
from monailabel.datastore.dicom import DICOMWebDatastore

from .datastore import Keeps
from .names import check_id, check_tag
from .refusals import Refusal
from .state import State


class Archive(DICOMWebDatastore, Keeps):
    """A DICOMweb archive: `final` goes back to it as DICOM SEG, other tags stay in the local cache."""

    _folders_are_images = False  # the cache holds the slices of each series beside the volume made of them
    _to_id = Keeps._to_id

    def __init__(self, state: State, **options: Any) -> None:
        self._begin(state)
        self._auto_reload_wanted = False
        super().__init__(**options)

    def get_image_uri(self, image_id: str) -> str:
        if image_id not in self.list_images():
            self._look_again()
            if image_id not in self.list_images():
                return ""
        return str(super().get_image_uri(check_id(image_id)))

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        if image_id:  # MONAI Label fetching a segmentation of the archive
            return str(super().get_label_uri(label_id, label_tag, image_id) or "")
        return Keeps.get_label_uri(self, label_id, label_tag)

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        here = {name for name, obj in self._datastore.objects.items() if obj.labels.get("final")}
        return sorted(here | set(super().get_labeled_images(label_tag, labels)))

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return sorted(set(self.list_images()) - set(self.get_labeled_images()))

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], *more: Any
    ) -> str:
        if check_tag(label_tag) == "final":
            if shutil.which("itkimage2segimage") is None:
                raise Refusal(503, "the server lacks dcmqi, which writes DICOM SEG: install the extra rnca[pacs].")
            if not sitk.GetArrayFromImage(sitk.ReadImage(label_filename)).any():
                raise Refusal(400, "the label is empty, and DICOM SEG holds no empty ones: draw something first.")
        return str(super().save_label(check_id(image_id), label_filename, label_tag, label_info))

    def _look_again(self) -> None:
        """The list of series is kept for two hours; a series that is asked for by name may be newer."""
        with suppress(AttributeError):
            DICOMWebDatastore.list_images.cache.clear()
