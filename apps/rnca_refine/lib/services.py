"""What the routes share: made once by the app, handed to every router."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from fastapi import UploadFile

from rnca.files import read_mask, sha256, suffix_of

from .audit import Audit
from .corrections import Corrections
from .datastore import Keeps
from .images import Images, Picture, read_safely, read_uploaded_mask
from .jobs import Workers
from .models import Models
from .names import check_id, check_tag
from .params import Params
from .refusals import Refusal
from .sessions import SessionStore
from .state import MEBI, State
from .stream import Running
from .training import Trainings
from .uploads import store

NO_MASK = (
    "there is no mask to repair: send one as the part label, or save one in the datastore as final or original first."
)


@dataclass
class Source:
    """The image of a request: its picture, and its id where it is the datastore's."""

    picture: Picture
    image: str | None
    path: Path


@dataclass
class Services:
    """The parts of a running server."""

    app: Any  # the MONAILabelApp
    state: State
    workers: Workers
    images: Images
    models: Models
    sessions: SessionStore
    running: Running
    audit: Audit
    corrections: Corrections
    trainings: Trainings

    @property
    def store(self) -> Keeps:
        return self.app.datastore()  # type: ignore[no-any-return]

    def find_image(self, image: str, session_id: str, file: UploadFile | None, folder: Path) -> tuple[Path, str | None]:
        """Where the image of a request lies: its upload, else its session's, else the datastore's."""
        if file is not None:
            return store(file, folder, "image", self.state.upload_mib * MEBI), None
        if session_id:
            return self.sessions.image(session_id), None
        if not image:
            raise Refusal(400, "no image is named: give image=ID, session_id=ID or the part file.")
        path = self.store.get_image_uri(check_id(image))
        if not path or not Path(path).exists():
            raise Refusal(404, "there is no image of this id in the datastore: see the list of images.")
        return Path(path), image

    def picture(self, path: Path, folder: Path) -> Picture:
        """The decoded image; of uploads that end with the request nothing is kept."""
        return self.images.get(path, keep=not path.is_relative_to(folder))

    def find_mask(self, label: UploadFile | None, image: str | None, params: Params, folder: Path) -> tuple[Path, str]:
        """The mask of a request: its upload, else a tag that was asked for, else final, else original. And which."""
        if label is not None:
            return store(label, folder, "mask", self.state.upload_mib * MEBI), "upload"
        if image is not None:
            for tag in filter(None, (params.label_tag, "final", "original")):
                path = self.store.get_label_uri(image, check_tag(tag))
                if path and Path(path).is_file():
                    return Path(path), tag
                if tag == params.label_tag:
                    raise Refusal(400, "this image has no label of that label_tag: save one first, or name another.")
        raise Refusal(400, NO_MASK)

    def read_mask(self, path: Path) -> sitk.Image:
        return read_uploaded_mask(path, self.state.voxels)

    def names(self, image: str | None, extra: Any = None) -> dict[int, str]:
        """Names of a mask's values, as clients store them with a label."""
        out: dict[int, str] = {}
        entries = list(extra) if isinstance(extra, list) else []
        if image is not None:
            for tag in ("final", "original"):
                with suppress(Exception):
                    entries += self.store.get_label_info(image, tag).get("label_info") or []
        for entry in entries:
            with suppress(AttributeError, TypeError, ValueError):
                value = int(entry.get("id") or entry.get("idx") or 0)
                if value and entry.get("name"):
                    out.setdefault(value, str(entry["name"])[:64])
        return out


def digest(path: Path) -> str:
    """SHA-256 of a file, or of a DICOM folder."""
    return sha256(path)


__all__ = ["NO_MASK", "Services", "Source", "digest", "read_mask", "read_safely", "suffix_of"]
